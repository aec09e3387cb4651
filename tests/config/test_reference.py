"""docs/configuration.md says what the settings are."""

import re

import pytest

from service.config.paths import ROOT
from service.config.reference import SECTIONS, document
from service.config.settings import VARIABLES

WRITTEN = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")


def test_the_page_is_up_to_date() -> None:
    assert document() + "\n" == WRITTEN, "run: make docs"


def test_every_setting_stands_in_one_section() -> None:
    assert sorted(name for _, names in SECTIONS.values() for name in names) == sorted(VARIABLES.values())


@pytest.mark.parametrize(
    ("variable", "row"),
    [
        ("FLEET", "`deploy/fleets/pebble.yaml` | path"),
        ("WEIGHTS", "`~/.cache/roundhouse/weights` | path"),
        ("RUN_DIR", "unset | path"),
        ("ENGINE_PROGRAM", "unset | text"),
        ("PORT", "`3000` | number"),
        ("MAX_BODY_BYTES", "`4194304` | bytes"),
        ("DRAIN_GRACE", "`0.5` | seconds"),
    ],
)
def test_default_and_unit_are_shown(variable: str, row: str) -> None:
    assert f"| `ROUNDHOUSE_{variable}` | {row} | " in WRITTEN


@pytest.mark.parametrize("page", re.findall(r"\]\(([a-z-]+\.md)\)", WRITTEN))
def test_every_page_it_names_exists(page: str) -> None:
    assert (ROOT / "docs" / page).is_file()
