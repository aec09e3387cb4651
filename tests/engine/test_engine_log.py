"""Lines of an engine's log in the log of the service."""

import json

import pytest

from service.engine.engine_log import MAX_LINE, carry
from tests.support.logs import log_to

LINES = (
    ("INFO 01-01 10:00:00 [loggers.py:1] Engine 000: idle", "info"),
    ("(EngineCore pid=7) WARNING 01-01 10:00:00 [core.py:1] slow", "warning"),
    ("a line of nobody", "warning"),
    ("(APIServer pid=7) ERROR 01-01 10:00:00 [core.py:1] EngineCore failed", "error"),
    ("  of the same traceback", "error"),
    ("(APIServer pid=7) INFO 01-01 10:00:00 [core.py:1] goes on", "info"),
    ("Traceback (most recent call last):", "error"),
    ("ImportError: no", "error"),
    ("INFO 01-01 10:00:00 [core.py:1] " + "x" * 2 * MAX_LINE, "info"),
)


@pytest.mark.parametrize("carried", ["errors", "all", "off"])
def test_lines_are_carried_with_model_replica_and_level(carried: str) -> None:
    lines: list[str] = []
    line = carry(log_to(lines), carried, "m", "m-0")  # type: ignore[arg-type]
    for text, _ in LINES:
        if line:
            line(text, False)
    found = [json.loads(one) for one in lines]
    expected = [row for row in LINES if carried == "all" or (carried == "errors" and row[1] == "error")]
    assert [(one["message"], one["level"]) for one in found] == [(text[:MAX_LINE], level) for text, level in expected]
    assert all((one["event"], one["model"], one["replica"]) == ("engine", "m", "m-0") for one in found)


def test_errors_of_an_end_that_was_asked_for_are_none() -> None:
    lines: list[str] = []
    for carried in ("errors", "all"):
        line = carry(log_to(lines), carried, "m", "m-0")
        assert line
        line("(APIServer pid=7) ERROR 01-01 10:00:00 [async_llm.py:1] AsyncLLM output_handler failed.", True)
        line("vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.", True)
    assert [json.loads(one)["level"] for one in lines] == ["warning"] * 2, "of all lines that are wanted"
