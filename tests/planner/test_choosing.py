"""The guide to choosing says what the planner says."""

from tests.planner.choosing import COMMANDS, document
from tests.support.fleets import ROOT

WRITTEN = (ROOT / "docs/choosing.md").read_text(encoding="utf-8")


def test_the_guide_is_up_to_date() -> None:
    assert document() == WRITTEN, "run: make docs"


def test_every_example_is_shown_and_fits_the_page() -> None:
    blocks = WRITTEN.split("```")[1::2]
    assert [block.splitlines()[1] for block in blocks] == [f"$ {command}" for command in COMMANDS.values()]
    assert max(len(line) for block in blocks for line in block.splitlines()) <= 120
