"""The store: where weights lie, what counts as pulled, and that one pull at a time works on a model."""

import subprocess
import sys
from pathlib import Path

import pytest

from service.weights.manifest import MANIFEST
from service.weights.store import Store, WeightsError
from tests.support.fleets import ROOT
from tests.weights.tiny import COMMIT, TINY


def test_weights_are_stored_under_their_repositorys_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.directory(TINY) == tmp_path / TINY
    assert store.pulled(TINY) is None
    store.directory(TINY).mkdir(parents=True)
    assert store.pulled(TINY) is None, "without a manifest it is incomplete"
    (tmp_path / TINY / MANIFEST).touch()
    assert store.pulled(TINY) == tmp_path / TINY


@pytest.mark.parametrize(
    "name", ["..", "../..", "a/..", "../a", ".partial/a", "a/.b", "a", "a/b/c", "/a/b", "a/b\n", ""]
)
def test_no_name_leads_out_of_the_store(tmp_path: Path, name: str) -> None:
    (tmp_path / MANIFEST).touch()
    store = Store(tmp_path / "store")
    assert store.pulled(name) is None
    with pytest.raises(WeightsError, match="is not a repository id"):
        store.directory(name)


def test_only_complete_pulls_are_listed(tmp_path: Path) -> None:
    for folder in ("b/two", "a/one", "a/begun", ".partial/a--x", "deep/er/still"):
        (tmp_path / folder).mkdir(parents=True)
        if folder != "a/begun":
            (tmp_path / folder / MANIFEST).touch()
    assert list(Store(tmp_path).all_pulled()) == [tmp_path / "a/one", tmp_path / "b/two"]
    assert list(Store(tmp_path / "nowhere").all_pulled()) == []


def test_publishing_replaces_the_directory_as_a_whole(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("old", "new"):
        staging = store.staging(TINY, COMMIT)
        staging.mkdir(parents=True)
        (staging / name).touch()
        assert store.publish(staging, TINY) == store.directory(TINY)
        assert [path.name for path in store.directory(TINY).iterdir()] == [name]
    assert not list((tmp_path / ".partial").iterdir())


def test_a_lock_holds_across_processes_and_ends_with_its_process(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys; from service.weights.store import Store\n"
        f"with Store(pathlib.Path({str(tmp_path)!r})).locked({TINY!r}):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        with pytest.raises(WeightsError, match="another pull of"), Store(tmp_path).locked(TINY):
            raise AssertionError
        with Store(tmp_path).locked("acme/another"):
            pass
        other.kill()
        other.wait()
    with Store(tmp_path).locked(TINY):
        pass


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file")
    with pytest.raises(WeightsError, match=r"cannot write in .*: Not a directory"), store.locked(TINY):
        raise AssertionError
