"""docs/errors.md says what the table of error codes says."""

from service.cli.error_reference import SECTIONS, document
from service.errors import ErrorCode
from tests.support.each import each
from tests.support.fleets import ROOT

WRITTEN = (ROOT / "docs/errors.md").read_text(encoding="utf-8")


def test_the_page_is_up_to_date() -> None:
    assert document() + "\n" == WRITTEN, "run: make docs"


@each("code", ErrorCode)
def test_every_code_has_one_row(code: ErrorCode) -> None:
    assert WRITTEN.count(f"\n| `{code}` | {code.status} | `{code.type}` | ") == 1


def test_a_status_belongs_to_one_section() -> None:
    statuses = [status for *_, some in SECTIONS for status in some]
    assert sorted(statuses) == sorted({code.status for code in ErrorCode})
