"""docs/tool-calls.md says what the installed vLLM makes of each family's tool calls."""

import pytest

from tests.support.fleets import ROOT
from tests.support.time_limits import ENGINE
from tests.vllm.tool_card import document

pytestmark = pytest.mark.slow  # importing vLLM takes many seconds, the readings half a minute


@pytest.mark.timeout(ENGINE)
@pytest.mark.filterwarnings("ignore")
def test_document_is_current() -> None:
    assert document() + "\n" == (ROOT / "docs" / "tool-calls.md").read_text(encoding="utf-8"), "run: make docs"
