"""Streams that are held back until they are judged, and how they end when they are not to go on."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.guardrails.stream_gate import StreamGate
from service.protocol.streams import Dialect
from tests.support.each import each

RECORDED = Path(__file__).parents[1] / "protocol/recorded"
DIALECTS: dict[str, Dialect] = {
    "chat": "openai", "completions": "openai", "responses": "responses", "messages": "messages",
}  # fmt: skip


def data(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def test_recorded_streams_pass_as_they_are_and_are_judged_once() -> None:
    for name, dialect in DIALECTS.items():
        raw = (RECORDED / f"{name}.sse").read_bytes()
        gate = StreamGate(dialect, 10**6)
        gate.take(raw)
        texts = gate.texts()
        assert len(texts) == 1, (name, texts)
        assert gate.release() == raw
        assert not gate.texts()


def test_each_window_is_judged_with_the_one_before() -> None:
    gate = StreamGate("openai", 4)
    for piece in ("ab", "cd", "ef", "gh"):
        gate.take(data(id="1", choices=[{"index": 0, "delta": {"content": piece}}]))
        if gate.full:
            seen = gate.texts()
            gate.release()
    assert seen == ["abcdefgh"]


def test_every_choice_and_every_kind_of_text_is_a_lane_of_its_own() -> None:
    gate = StreamGate("openai", 100)
    for index, delta in ((0, {"content": "a"}), (1, {"content": "x"}), (0, {"reasoning": "t"}), (0, {"content": "b"})):
        gate.take(data(id="1", choices=[{"index": index, "delta": delta}]))
    gate.take(data(id="1", choices=[{"index": 1, "delta": {"tool_calls": [{"function": {"arguments": "{}"}}]}}]))
    assert gate.texts() == ["ab", "x", "t", "{}"]


@each(
    "event",
    [
        {"type": "response.output_item.done", "output_index": 0, "item": {"content": [{"text": "T"}]}},
        {"type": "response.completed", "response": {"output": [{"type": "function_call", "arguments": "T"}]}},
        {"type": "response.custom_tool_call_input.delta", "delta": "T", "output_index": 0},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "T"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "T"}},
        {"choices": [{"index": 0, "delta": {"refusal": "T"}}]},
        {"choices": [{"index": 0, "text": "T", "finish_reason": "stop"}]},
        {"choices": [{"index": 0, "delta": None, "text": "T"}]},
        {"choices": [{"index": [0], "delta": "T"}]},
        {"choices": {"delta": {"content": "T"}}},
        {"choices": ["T"], "id": {}, "created": "x"},
    ],
)  # fmt: skip
def test_text_is_found_wherever_it_is(event: dict[str, Any]) -> None:
    gate = StreamGate("responses", 100)
    gate.take(data(**event))
    assert gate.texts() == ["T"]


def test_what_is_no_json_is_text() -> None:
    gate = StreamGate("openai", 100)
    gate.take(b"data: {oops\n\n: comment\n\ndata: [DONE]\n\n")
    assert gate.texts() == [" {oops"]


def test_half_a_surrogate_pair_hides_nothing() -> None:
    gate = StreamGate("openai", 100)
    for piece in ("see ", "a\ud800b", " it"):
        gate.take(data(id="1", choices=[{"index": 0, "delta": {"content": piece}}]))
    assert gate.texts() == ["see a?b it"]


def test_names_that_are_escaped_hide_nothing() -> None:
    gate = StreamGate("openai", 100)
    gate.take(data(id="1", choices=[{"index": 0, "delta": {"content": "a"}}]))
    gate.take(b'data: {"\\u0063hoices": [{"index": 0, "d\\u0065lta": {"content": "b"}}]}\n\n')
    assert gate.texts() == ["ab"]


def test_only_choices_that_run_are_ended() -> None:
    gate = StreamGate("openai", 100)
    ended = {"index": 0, "delta": {}, "finish_reason": "stop"}
    gate.take(data(id="1", object="chat.completion.chunk", choices=[ended]))
    gate.take(data(id="1", choices=[{"index": 1, "delta": {"content": "x"}}]))
    gate.release()
    gate.take(data(id="1", choices=[{"index": 1, "delta": {"content": "bad"}}]))
    chunk = json.loads(gate.end_blocked().split(b"\n\n")[0][6:])
    assert [(one["index"], one["finish_reason"]) for one in chunk["choices"]] == [(1, "content_filter")]


@pytest.mark.parametrize("name", DIALECTS)
def test_no_text_of_a_blocked_window_leaves(name: str) -> None:
    raw = (RECORDED / f"{name}.sse").read_bytes()
    gate = StreamGate(DIALECTS[name], 1)
    gate.take(raw)
    (said,) = gate.texts()
    assert said.encode() not in gate.end_blocked()


def test_events_that_differ_in_their_text_alone_are_read_like_others() -> None:
    """One by one or many at once, with escapes, other choices, ends and equal names among them."""
    said = ["model", "a", "b", 'q"', "c", "\\", "d\n", "é", "f"]
    chunks = [
        data(id="1", model="model", choices=[{"index": 0, "delta": {"content": text}, "finish_reason": None}])
        for text in said
    ]
    chunks.insert(4, data(id="1", model="model", choices=[{"index": 1, "delta": {"content": "x"}}]))
    chunks.insert(2, data(id="1", model="model", choices=[{"index": 0, "delta": {"reasoning": "t"}}]))
    last = data(id="1", model="model", choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    compact = [chunk.replace(b'": ', b'":').replace(b', "', b',"') for chunk in (*chunks, last)]
    for pieces in (compact, [b"".join(compact)], [b"".join(compact[at : at + 4]) for at in range(0, 12, 4)]):
        gate = StreamGate("openai", 10**6)
        for piece in pieces:
            gate.take(piece)
        assert sorted(gate.texts()) == sorted(["".join(said), "t", "x"])
        assert gate.release() == b"".join(compact)
        gate.take(data(id="1", choices=[{"index": 1, "delta": {"content": "bad"}}]))
        ended = json.loads(gate.end_blocked().split(b"\n\n")[0][6:])
        assert [one["index"] for one in ended["choices"]] == [1]
