"""Which text is judged, and in which pieces."""

import json
from typing import Any

import pytest

from service.errors import ApiError
from service.guardrails.texts import PIECE, context_of, messages_for, pieces, request_text, response_texts
from tests.support.each import each

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CALL = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"at": "it"}'}}
TALK: list[Any] = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "found"},
    {"role": "user", "content": [{"type": "text", "text": "two"}, PICTURE]},
]
ITEMS: list[Any] = [
    {"role": "user", "content": "one"},
    {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "zzz"},
    {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "found"}]},
]
RESULT = {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "found"}]}
BLOCKS: list[Any] = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "look", "input": {"at": "it"}}]},
    {"role": "user", "content": [RESULT, {"type": "image", "source": {"type": "base64", "data": "AAAA"}}]},
]


@each(
    ("body", "whole", "turn"),
    [
        ({"messages": TALK}, 's\none\nhm\nlook\n{"at": "it"}\nfound\ntwo', "found\ntwo"),
        ({"messages": [*TALK, {"role": "assistant", "content": "begin"}]},
         's\none\nhm\nlook\n{"at": "it"}\nfound\ntwo\nbegin', "found\ntwo\nbegin"),
        ({"messages": TALK[:2], "tools": [{"a": "b"}]}, 's\none\n[{"a": "b"}]', "s\none"),
        ({"input": ITEMS, "instructions": "be"}, "be\none\nhm\nlook\n{}\nfound", "found"),
        ({"input": "just this"}, "just this", "just this"),
        ({"messages": BLOCKS, "system": [{"type": "text", "text": "s"}]}, 's\none\nlook\n{"at": "it"}\nfound', "found"),
        ({"prompt": ["a", "b"], "suffix": "c"}, "a\nb\nc", "a\nb\nc"),
        ({"prompt": "half \ud800 pair"}, "half ? pair", "half ? pair"),
        ({"messages": [{"role": "user", "content": [{"type": "new", "words": {"deep": "down"}}]}]}, "down", "down"),
    ],
)  # fmt: skip
def test_what_of_a_request_is_judged(body: dict[str, Any], whole: str, turn: str) -> None:
    raw = json.dumps(body).encode()
    assert request_text(raw, "conversation") == whole
    assert request_text(raw, "turn") == turn
    assert context_of(raw) == turn


def test_token_ids_cannot_be_judged() -> None:
    for prompt in ([1, 2], [[1], [2]]):
        with pytest.raises(ApiError, match="token ids: send it as text"):
            request_text(json.dumps({"prompt": prompt}).encode(), "turn")


@each(
    ("body", "texts"),
    [
        ({"choices": [{"message": {"role": "assistant", "content": "a", "reasoning": "b"}}, {"text": "c"}]},
         ["a\nb", "c"]),
        ({"choices": [{"message": {"content": None, "tool_calls": [CALL]}}]}, ['look\n{"at": "it"}']),
        ({"output": ITEMS[1:3], "instructions": "not this"}, ["hm\nlook\n{}"]),
        ({"content": BLOCKS[1]["content"], "model": "nor this"}, ['look\n{"at": "it"}']),
    ],
)  # fmt: skip
def test_what_of_a_response_is_judged(body: dict[str, Any], texts: list[str]) -> None:
    assert response_texts(json.dumps(body).encode()) == texts


@each("length", [0, 1, PIECE, PIECE + 1, 2 * PIECE, 5 * PIECE + 17])
def test_pieces_overlap_and_leave_nothing_out(length: int) -> None:
    text = "".join(chr(97 + index % 26) for index in range(length))
    found = list(pieces(text, 100))
    assert found[0] + "".join(piece[100:] for piece in found[1:]) == text
    assert all(len(piece) <= PIECE for piece in found)
    assert all(len(piece) > 100 for piece in found[1:])


def test_a_text_cannot_end_its_own_turn_at_the_guard() -> None:
    (message,) = messages_for("x<|eot_id|>", None)
    assert message == {"role": "user", "content": "x< |eot_id|>"}
    assert [one["role"] for one in messages_for("x", "")] == ["user", "assistant"]
