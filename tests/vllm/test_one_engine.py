"""The fake engine calls tools as vLLM does: the same events, the same whole answers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import Call, FakeEngine, Script
from tests.vllm.conftest import MODEL, RealEngine, running
from tests.vllm.transcript import ask

pytestmark = pytest.mark.engine

USER = [{"role": "user", "content": "one two three"}]
ARGUMENTS = {"n": "one two"}
SCHEMA = {
    "type": "object",
    "properties": {"n": {"enum": ["one two"]}},
    "required": ["n"],
    "additionalProperties": False,
}
FUNCTION = {"name": "run", "parameters": SCHEMA}
# Without it a model of a million parameters would never write one by itself.
WRITTEN = r'<tool_call>\n\{"name": "run", "arguments": \{"n": "one two"\}\}\n</tool_call>'
AUTO = {"model": MODEL, "tool_choice": "auto", "structured_outputs": {"regex": WRITTEN}}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": AUTO | {"messages": USER, "tools": [{"type": "function", "function": FUNCTION}]},
    "/v1/responses": AUTO | {"input": "one two", "tools": [{"type": "function", **FUNCTION}]},
    "/v1/messages": {
        "model": MODEL,
        "messages": USER,
        "tools": [{"name": "run", "input_schema": SCHEMA}],
        "tool_choice": {"type": "tool", "name": "run"},
        "max_tokens": 100,
    },
}


@pytest.fixture(scope="module")
def engine_with_tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealEngine]:
    settings: dict[str, Any] = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}
    with running(MODEL, tmp_path_factory.mktemp("tools"), **settings, tool_strict_level="parameter") as engine:
        yield engine


CASES: list[tuple[str, bool, dict[str, Any]]] = [(path, stream, {}) for path in BODIES for stream in (False, True)]
CASES.append(("/v1/chat/completions", True, {"stream_options": {"include_usage": True}}))


@pytest.mark.parametrize(("path", "stream", "options"), CASES)
async def test_a_tool_is_called_as_vllm_calls_it(
    path: str, stream: bool, options: dict[str, Any], engine_with_tools: RealEngine, tmp_path: Path
) -> None:
    body = BODIES[path] | {"stream": stream} | options
    real = await ask(engine_with_tools.socket, "POST", path, body)
    fake = FakeEngine(MODEL)
    fake.agent = Script((Call("run", json.dumps(ARGUMENTS)),), "done")
    async with fake.listen(tmp_path / "fake.sock"):
        assert await ask(tmp_path / "fake.sock", "POST", path, body) == real
    assert real.status == 200
    assert "tool_use" in str(real.body) or "function" in str(real.body)
