"""The release, with the package installed and without."""

from importlib import metadata

import pytest

from service.config.release import release


def test_a_tree_that_is_not_installed_has_the_release_of_its_project(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = release()

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert release() == installed
