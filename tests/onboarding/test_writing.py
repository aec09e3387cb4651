"""Writing an entry into the catalogue's folder: a valid one is added, an invalid one changes nothing."""

import shutil
from pathlib import Path

import pytest

from service.catalog import catalog
from service.onboarding.draft import EntryDraft, Overrides, draft
from service.onboarding.model_files import OnboardingError, read_model_files
from service.onboarding.writing import write
from tests.support.fleets import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small catalogue: one family and the tasks, with links to the embedded weights and the templates."""
    for name in ("pebble.yaml", "tasks.yaml"):
        shutil.copy(ROOT / "models" / name, tmp_path)
    for name in ("pebble", "templates"):
        (tmp_path / name).symlink_to(ROOT / "models" / name)
    return tmp_path


def drafted(**overrides: str) -> EntryDraft:
    source = str(ROOT / "models/pebble/pebble-code")
    return draft(Overrides(source, True, **overrides), read_model_files(Path(source)))  # type: ignore[arg-type]


def test_new_family_gets_a_new_file(folder: Path) -> None:
    file = write(folder, drafted(id="mine", family="ours"))
    assert file == folder / "ours.yaml"
    model = catalog.load(folder).models["mine"]
    assert (model.variant, model.parameters) == ("code", 918656)


def test_existing_family_is_appended_to(folder: Path) -> None:
    before = (folder / "pebble.yaml").read_text()
    write(folder, drafted(id="mine", family="pebble"))
    assert (folder / "pebble.yaml").read_text().startswith(before.rstrip("\n"))
    known = catalog.load(folder)
    assert known.family_of["mine"] == "pebble"
    assert "pebble-chat" in known.models


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ({"id": "pebble-chat", "family": "ours"}, "'pebble-chat' is not unique"),
        ({"id": "Not An Id", "family": "ours"}, r"ours.yaml:\d+: models\[0\].id"),
        (
            {"id": "mine", "family": "ours", "specialty": "instruct", "template": "gone.jinja"},
            "there is no file .*gone.jinja",
        ),
    ],
)
def test_invalid_entry_changes_nothing(folder: Path, overrides: dict[str, str], problem: str) -> None:
    before = {path: path.read_bytes() for path in folder.glob("*") if path.is_file()}
    with pytest.raises(OnboardingError, match=problem) as caught:
        write(folder, drafted(**overrides))
    assert "/tmp/tmp" not in str(caught.value)
    assert {path: path.read_bytes() for path in folder.glob("*") if path.is_file()} == before
