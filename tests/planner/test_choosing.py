"""docs/choosing.md is up to date with the planner."""

from tests.planner.choosing import COMMANDS, document
from tests.support.fleets import ROOT

WRITTEN = (ROOT / "docs/choosing.md").read_text(encoding="utf-8")


def test_choosing_md_is_up_to_date() -> None:
    assert document() == WRITTEN, "run: make docs"


def test_every_command_is_shown_in_lines_of_120_columns() -> None:
    blocks = WRITTEN.split("```")[1::2]
    assert [block.splitlines()[1] for block in blocks] == [f"$ {command}" for command in COMMANDS.values()]
    assert max(len(line) for block in blocks for line in block.splitlines()) <= 120
