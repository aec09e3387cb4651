"""docs/compatibility.md is what the table of fields says."""

import pytest

from service.cli.compatibility import document
from service.config.paths import ROOT
from service.protocol.fields import RULES
from service.protocol.generation import GENERATION, Endpoint

WRITTEN = (ROOT / "docs/compatibility.md").read_text(encoding="utf-8")


def test_the_page_is_up_to_date() -> None:
    assert document() + "\n" == WRITTEN


@pytest.mark.parametrize("endpoint", GENERATION, ids=lambda endpoint: endpoint.path)
def test_every_field_has_one_row(endpoint: Endpoint) -> None:
    section = WRITTEN.partition(f"## `{endpoint.path}`\n")[2].partition("\n## ")[0]
    for name in (*endpoint.body.__struct_fields__, *RULES[endpoint.body]):
        assert section.count(f"\n| `{name}`") == 1, name
