"""An entry goes into the catalogue's folder whole and valid, or not at all."""

import shutil
from pathlib import Path

import pytest

from service.catalog import catalog
from service.onboarding.description import IntakeError, describe
from service.onboarding.draft import EntryDraft, Overrides, draft
from service.onboarding.writing import write
from tests.support.fleets import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the catalogue's folder, with links to the embedded weights and the templates."""
    for file in (ROOT / "models").glob("*.yaml"):
        shutil.copy(file, tmp_path)
    for name in ("pebble", "templates"):
        (tmp_path / name).symlink_to(ROOT / "models" / name)
    return tmp_path


def drafted(**said: str) -> EntryDraft:
    source = str(ROOT / "models/pebble/pebble-code")
    return draft(Overrides(source, True, **said), describe(Path(source)))  # type: ignore[arg-type]


def test_a_new_family_gets_a_file_of_its_own(folder: Path) -> None:
    place = write(folder, drafted(id="mine", family="ours"))
    assert place == folder / "ours.yaml"
    found = catalog.load(folder).models["mine"]
    assert (found.variant, found.parameters) == ("code", 918656)


def test_a_known_family_gets_one_model_more_and_keeps_its_text(folder: Path) -> None:
    before = (folder / "pebble.yaml").read_text()
    write(folder, drafted(id="mine", family="pebble"))
    assert (folder / "pebble.yaml").read_text().startswith(before.rstrip("\n"))
    known = catalog.load(folder)
    assert known.family_of["mine"] == "pebble"
    assert "pebble-chat" in known.models


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"id": "pebble-chat", "family": "ours"}, "'pebble-chat' is not unique"),
        ({"id": "Not An Id", "family": "ours"}, r"ours.yaml:\d+: models\[0\].id"),
        (
            {"id": "mine", "family": "ours", "specialty": "instruct", "template": "gone.jinja"},
            "there is no .*gone.jinja",
        ),
    ],
)
def test_an_entry_that_is_not_valid_changes_nothing(folder: Path, said: dict[str, str], problem: str) -> None:
    before = {path: path.read_bytes() for path in folder.glob("*") if path.is_file()}
    with pytest.raises(IntakeError, match=problem) as caught:
        write(folder, drafted(**said))
    assert "/tmp/tmp" not in str(caught.value)
    assert {path: path.read_bytes() for path in folder.glob("*") if path.is_file()} == before
