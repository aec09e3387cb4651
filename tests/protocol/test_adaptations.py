"""Bodies of today's clients, changed as far as the engine needs it."""

import json
from typing import Any

import pytest

from service.errors import ApiError
from service.protocol.adaptations import UNCHANGED, Adapted
from service.protocol.parse_body import parse_body, with_fields
from tests.protocol.test_fields import CLIENTS
from tests.protocol.test_generation import CHAT, COUNT, ENDPOINTS, INPUT_IMAGE, MESSAGES, RESPONSES
from tests.protocol.test_requests import body
from tests.support.each import each

FUNCTION = {"type": "function", "name": "f", "parameters": {}}
CUSTOM = {"type": "custom", "name": "c", "format": {"type": "grammar", "syntax": "lark", "definition": "start: /a/"}}
FREE = {"type": "custom", "name": "c"}
TOOL = {"name": "t", "input_schema": {"type": "object"}}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
TEXT = {"type": "input_text", "text": "a"}
SEEN = {"type": "function_call_output", "call_id": "c", "output": [INPUT_IMAGE, TEXT]}
MESSAGE = {"role": "assistant", "content": [{"type": "output_text", "text": "a"}]}


def adapted(path: str, reasons: bool = False, **fields: Any) -> Adapted:
    raw = body(path, **fields)
    endpoint = ENDPOINTS[path]
    return endpoint.adapt(parse_body(endpoint.body, raw).request, raw, reasons)


@pytest.mark.parametrize(
    ("path", "fields", "changes", "ignored"),
    [
        (CHAT, {"tools": [SEARCH]}, {}, ()),
        (MESSAGES, {"thinking": {"type": "disabled"}}, {}, ()),
        (MESSAGES, {"thinking": {"type": "enabled", "budget_tokens": 9}}, {"thinking": None}, ("thinking",)),
        (COUNT, {"thinking": {"type": "adaptive"}}, {"thinking": None}, ("thinking",)),
        (MESSAGES, {"tools": [TOOL, {**TOOL, "type": "custom"}]}, {}, ()),
        (MESSAGES, {"tools": [SEARCH, TOOL]}, {"tools": [TOOL]}, ("tools[0]",)),
        (MESSAGES, {"tools": [SEARCH, TOOL], "tool_choice": {"type": "tool", "name": "t"}}, {"tools": [TOOL]},
         ("tools[0]",)),
        (MESSAGES, {"tools": [SEARCH, TOOL], "tool_choice": {"type": "tool", "name": "web_search"}},
         {"tools": [TOOL], "tool_choice": None}, ("tools[0]", "tool_choice")),
        (MESSAGES, {"tools": [SEARCH], "tool_choice": {"type": "any"}}, {"tools": None, "tool_choice": None},
         ("tools[0]", "tool_choice")),
        (MESSAGES, {"output_format": {"type": "json_schema"}, "output_config": {"effort": "low"}},
         {"output_config": {"effort": "low", "format": {"type": "json_schema"}}, "output_format": None}, ()),
        (RESPONSES, {"input": "a", "tools": [FUNCTION, {"type": "web_search"}]}, {}, ()),
        (RESPONSES, {"include": ["reasoning.encrypted_content"]}, {}, ()),
        (RESPONSES, {"include": ["web_search_call.action.sources", "message.output_text.logprobs"]},
         {"include": ["message.output_text.logprobs"]}, ("include[0]",)),
        (RESPONSES, {"input": [{"type": "message", **MESSAGE}, {"type": "reasoning", "summary": []}]}, {}, ()),
        (RESPONSES, {"input": [MESSAGE, {"type": "message", "role": "user", "content": "b"}]},
         {"input": [{"type": "message", **MESSAGE}, {"type": "message", "role": "user", "content": "b"}]}, ()),
        (RESPONSES, {"input": [SEEN]}, {"input": [{**SEEN, "output": [{"detail": "auto", **INPUT_IMAGE}, TEXT]}]}, ()),
        (RESPONSES, {"input": [{**SEEN, "output": [{**INPUT_IMAGE, "detail": "low"}]}]}, {}, ()),
        (RESPONSES, {"tools": [FREE]}, {}, ()),
        (RESPONSES, {"tools": [FUNCTION, CUSTOM]}, {"tools": [FUNCTION, FREE]}, ("tools[1].format",)),
        (RESPONSES, {"tools": [{"type": "namespace", "name": "n", "tools": [CUSTOM]}]},
         {"tools": [{"type": "namespace", "name": "n", "tools": [FREE]}]}, ("tools[0].format",)),
        (RESPONSES, {"input": [{"type": "additional_tools", "tools": [FUNCTION]}, {"role": "user", "content": "b"}]},
         {"input": [{"type": "message", "role": "user", "content": "b"}], "tools": [FUNCTION]}, ()),
    ],
)  # fmt: skip
def test_what_the_engine_does_not_take_is_changed(
    path: str, fields: dict[str, Any], changes: dict[str, Any], ignored: tuple[str, ...]
) -> None:
    if path == RESPONSES:
        fields = {**fields, "store": False}
    assert adapted(path, **fields) == Adapted(changes, ignored)


def test_no_engine_stores_a_response() -> None:
    assert adapted(RESPONSES, input="a").fields == {"store": False}
    assert adapted(RESPONSES, input="a", store=True).fields == {"store": False}


def test_thinking_is_passed_to_an_engine_that_separates_it() -> None:
    assert adapted(MESSAGES, reasons=True, thinking={"type": "enabled", "budget_tokens": 9}) == UNCHANGED


def test_a_reference_to_a_stored_item_is_refused_with_what_to_do() -> None:
    with pytest.raises(ApiError) as caught:
        adapted(RESPONSES, input=[{"role": "user", "content": "a"}, {"type": "item_reference", "id": "msg_1"}])
    assert caught.value.param == "input[1]"
    assert "store: false" in caught.value.message


@each("recorded", CLIENTS, ids=lambda recorded: recorded["client"])
def test_an_adapted_body_needs_no_more_changes(recorded: dict[str, Any]) -> None:
    endpoint, raw = ENDPOINTS[recorded["path"]], json.dumps(recorded["body"]).encode()
    try:
        parsed = parse_body(endpoint.body, raw)
        result = endpoint.adapt(parsed.request, parsed.body, False)
    except ApiError as error:
        assert error.param in ("input[1]", "previous_response_id", "best_of")
        return
    raw = json.dumps(json.loads(with_fields(parsed.body, result.fields))).encode()  # each name once
    assert endpoint.adapt(parse_body(endpoint.body, raw).request, raw, False) == UNCHANGED
