"""Conversations in Anthropic's format as the engine's tokenizer takes them."""

from typing import Any

import pytest

from service.protocol.token_count import tokenize_request

USER = {"role": "user", "content": "Hi"}
TEXT = {"type": "text", "text": "Hi"}
IMAGE = {"type": "image", "source": {"type": "url", "url": "https://example.org/x.png"}}
CALL = {"type": "tool_use", "id": "1", "name": "look", "input": {}}


def result(content: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "1", "content": content}


def converted(*messages: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    request = tokenize_request({"messages": list(messages), **fields}, "m")
    assert request and request["model"] == "m"
    found: list[dict[str, Any]] = request["messages"]
    return found


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (USER, [USER]),
        ({"role": "user", "content": [TEXT]}, [USER]),
        ({"role": "user", "content": [TEXT, TEXT]}, [{"role": "user", "content": [TEXT, TEXT]}]),
        ({"role": "user", "content": [{"type": "text", "text": ""}]}, []),
        ({"role": "assistant", "content": []}, [{"role": "assistant"}]),
        ({"role": "user", "content": [TEXT, result("x")]},
         [{"role": "tool", "tool_call_id": "1", "content": "x"}, USER]),
        ({"role": "user", "content": [result([TEXT, TEXT])]},
         [{"role": "tool", "tool_call_id": "1", "content": "Hi\nHi"}]),
        ({"role": "user", "content": [result(None)]}, [{"role": "tool", "tool_call_id": "1", "content": ""}]),
        ({"role": "assistant", "content": [{"type": "thinking", "thinking": "a"}, {"type": "thinking", "thinking": "b"},
                                           {"type": "redacted_thinking", "data": "x"}, TEXT]},
         [{"role": "assistant", "reasoning": "ab", "content": "Hi"}]),
        ({"role": "system", "content": [TEXT]}, [{"role": "system", "content": "Hi"}]),
    ],
)  # fmt: skip
def test_messages(message: dict[str, Any], expected: list[dict[str, Any]]) -> None:
    assert converted(message) == expected


def test_the_system_prompt_comes_first_and_without_the_billing_header() -> None:
    header = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2"}
    assert converted(USER, system=[header, TEXT, TEXT]) == [{"role": "system", "content": "HiHi"}, USER]
    assert converted(USER, system="Be kind") == [{"role": "system", "content": "Be kind"}, USER]
    assert converted(USER, system=[header]) == converted(USER, system="") == [USER]


@pytest.mark.parametrize(
    "block", [IMAGE, result([TEXT, IMAGE]), {"type": "document"}, {"type": "tool_reference"}, {"no": "type"}]
)
def test_what_is_not_text_is_not_counted(block: dict[str, Any]) -> None:
    assert tokenize_request({"messages": [USER, {"role": "user", "content": [TEXT, block]}]}, "m") is None


@pytest.mark.parametrize(
    "fields", [{}, {"messages": [USER], "tools": [{"input_schema": 3}]}, {"messages": [{"role": "user"}]}]
)
def test_what_is_malformed_is_not_counted(fields: dict[str, Any]) -> None:
    assert tokenize_request(fields, "m") is None


def test_results_of_tools_in_an_answer_are_not_counted() -> None:
    assert tokenize_request({"messages": [{"role": "assistant", "content": [CALL, result("x")]}]}, "m") is None
