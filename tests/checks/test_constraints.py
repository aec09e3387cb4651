"""Which members of a body are handed to the process that compiles."""

import json
from typing import Any

from service.checks.constraints import constraints_of
from service.protocol.generation import PATHS
from service.protocol.parse_body import parse_body
from tests.support.exchanges import CHAT, COMPLETION, COUNT, MESSAGE, RESPONSE, Case

FORMAT = {"type": "json_schema", "json_schema": {"schema": {}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
FLAT = {"type": "function", "name": "f", "parameters": {}}
OWN = {"name": "f", "input_schema": {}}
CASES: tuple[tuple[Case, dict[str, Any], set[str]], ...] = (
    (CHAT, {}, set()),
    (CHAT, {"response_format": FORMAT}, {"response_format"}),
    (CHAT, {"tools": [TOOL]}, set()),
    (CHAT, {"tools": [TOOL], "tool_choice": "none"}, set()),
    (CHAT, {"tools": [TOOL], "tool_choice": "required"}, {"tools", "tool_choice"}),
    (CHAT, {"tools": [{**TOOL, "strict": True}]}, {"tools"}),
    (CHAT, {"tool_choice": "required"}, set()),
    (COMPLETION, {"structured_outputs": {"regex": "a"}}, {"structured_outputs"}),
    (RESPONSE, {"text": {"format": FORMAT}}, {"text"}),
    (RESPONSE, {"tools": [FLAT], "tool_choice": {"type": "function", "name": "f"}}, {"tools", "tool_choice"}),
    (MESSAGE, {"output_format": FORMAT}, {"output_format"}),
    (MESSAGE, {"tools": [OWN], "tool_choice": {"type": "any"}}, {"tools", "tool_choice"}),
    (COUNT, {"tools": [OWN], "tool_choice": {"type": "any"}}, set()),
)


def found(case: Case, raw: bytes) -> set[str]:
    parsed = parse_body(PATHS[case.path].body, raw)
    job = constraints_of(parsed.request, parsed.body)
    return set(json.loads(job)) if job else set()


def test_what_an_engine_may_compile_is_handed_over() -> None:
    for case, fields, names in CASES:
        assert found(case, json.dumps(case.body(**fields)).encode()) == names, fields


def test_an_escaped_name_hides_nothing() -> None:
    raw = json.dumps(CHAT.body(tools=[{**TOOL, "strict": True}])).replace('"strict"', r'"\u0073trict"')
    assert found(CHAT, raw.encode()) == {"tools"}
