"""Streams as an engine really sent them (recorded/), in pieces of any size, and how they may end."""

import json
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.observability.record import Record
from service.protocol.generation import GENERATION
from service.protocol.streams import ENDS, BrokenStreamError, Dialect, Watch

RECORDED = {path.stem: path.read_bytes() for path in (Path(__file__).parent / "recorded").glob("*.sse")}
DIALECTS: dict[str, Dialect] = {
    "chat": "openai", "completions": "openai", "responses": "responses", "messages": "messages",
}  # fmt: skip
# prompt tokens, completion tokens, events of output, why it ended
COUNTS = {
    "chat": (12, 4, 4, "length"),
    "completions": (6, 4, 4, "length"),
    "responses": (13, 4, 2, "incomplete"),
    "messages": (12, 4, 4, "max_tokens"),
}
every_stream = pytest.mark.parametrize("name", sorted(RECORDED))

DEATH = (
    b'data: {"error": {"message": "EngineCore encountered an issue. See stack trace (above) for the root cause.", '
    b'"type": "InternalServerError", "param": null, "code": 500}}\n\n'
)


def record() -> Record:
    return Record("id", "/v1", started=0.0)


def events(stream: bytes) -> list[bytes]:
    return [event + b"\n\n" for event in stream.split(b"\n\n") if event]


def watched(name: str, pieces: list[bytes], hide_usage: bool = False) -> tuple[bytes, Watch, Record]:
    """What the client gets of a stream in `pieces`, one a second, and what was noted of it."""
    noted = record()
    watch = Watch(noted, DIALECTS[name], hide_usage)
    passed = b"".join(watch.feed(piece, float(now)) for now, piece in enumerate(pieces))
    return passed, watch, noted


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % len(stream) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(bounds)]


def test_every_dialect_is_recorded() -> None:
    assert set(DIALECTS) == set(RECORDED) == set(COUNTS)
    assert set(DIALECTS.values()) == set(ENDS) == set(get_args(Dialect)) == {one.dialect for one in GENERATION}


# Bytes


@every_stream
@given(places=st.lists(st.integers(0, 10**6), max_size=30))
def test_pieces_of_any_size_pass_unchanged(name: str, places: list[int]) -> None:
    stream = RECORDED[name]
    passed, watch, noted = watched(name, cut(stream, places))
    assert passed == stream
    assert watch.finished
    assert (noted.prompt_tokens, noted.completion_tokens, len(noted.output_times), noted.finish_reason) == COUNTS[name]


@every_stream
def test_byte_by_byte_each_event_passes_when_it_is_whole(name: str) -> None:
    watch = Watch(record(), DIALECTS[name], hide_usage=False)
    passed = [watch.feed(bytes([byte]), 0.0) for byte in RECORDED[name]]
    assert [event for event in passed if event] == events(RECORDED[name])


@pytest.mark.parametrize("name", ["chat", "completions"])
@given(places=st.lists(st.integers(0, 10**6), max_size=30))
def test_usage_that_nobody_asked_for_is_counted_and_kept_back(name: str, places: list[int]) -> None:
    passed, watch, noted = watched(name, cut(RECORDED[name], places), hide_usage=True)
    usage = [event for event in events(RECORDED[name]) if b'"choices":[]' in event]
    assert len(usage) == 1
    assert passed == RECORDED[name].replace(usage[0], b"")
    assert watch.finished
    assert (noted.prompt_tokens, noted.completion_tokens) == COUNTS[name][:2]


def test_usage_beside_text_is_no_reason_to_keep_text_back() -> None:
    usage = b'"choices":[{"index":0,"delta":{"content":"V"}}],"usage":{"prompt_tokens":12,"completion_tokens":1}'
    event = b'data: {"id":"x",' + usage + b"}\n\n"
    passed, _, noted = watched("chat", [event], hide_usage=True)
    assert passed == event
    assert (noted.prompt_tokens, noted.output_times) == (12, [0.0])


@pytest.mark.parametrize("name", ["responses", "messages"])
def test_the_other_dialects_keep_their_usage(name: str) -> None:
    assert watched(name, [RECORDED[name]], hide_usage=True)[0] == RECORDED[name]


@every_stream
def test_a_comment_is_no_output(name: str) -> None:
    passed, _, noted = watched(name, [b": ping\n\n"])
    assert passed == b": ping\n\n"
    assert not noted.output_times


def test_text_that_looks_like_the_wire_is_text() -> None:
    said = 'data: [DONE]\n\nevent: error "usage":{"prompt_tokens":9} "finish_reason":"abort" "choices":[]'
    chunk = {"id": "x", "choices": [{"index": 0, "delta": {"content": said}, "finish_reason": None}]}
    event = b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"
    passed, watch, noted = watched("chat", [event], hide_usage=True)
    assert passed == event
    assert not watch.finished
    assert (noted.finish_reason, noted.prompt_tokens) == (None, 0)


# Times


@every_stream
def test_the_first_output_and_the_gaps_are_timed(name: str) -> None:
    stream = events(RECORDED[name])
    _, _, noted = watched(name, stream)
    opening = {"chat": 1, "completions": 0, "responses": 4, "messages": 2}[name]
    assert noted.ttft == opening
    assert noted.gaps == [1.0] * (COUNTS[name][2] - 1)


def test_events_that_arrive_together_have_no_gap() -> None:
    _, _, noted = watched("chat", [RECORDED["chat"]])
    assert (noted.ttft, noted.gaps) == (0.0, [0.0, 0.0, 0.0])


# Ends


@every_stream
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_stream_that_was_cut_is_not_finished(name: str, kept: float) -> None:
    stream = RECORDED[name]
    assert not watched(name, [stream[: int(len(stream) * kept)]])[1].finished
    last = events(stream)[-1]
    assert not watched(name, [stream.removesuffix(last), last[:-1]])[1].finished


def feed(name: str, *pieces: bytes) -> bytes:
    """What the client gets before a stream breaks; it must."""
    watch = Watch(record(), DIALECTS[name], hide_usage=False)
    passed = b""
    with pytest.raises(BrokenStreamError) as caught:
        for piece in pieces:
            passed += watch.feed(piece, 0.0)
    assert not watch.finished
    return passed + caught.value.passed


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("chat", DEATH),
        ("chat", DEATH + b"data: [DONE]\n\n"),
        ("completions", b'data: {"error":{"message":"x","code":500}}\n\n'),
        ("messages", b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"x"}}\n\n'),
        ("messages", b'data: {"type":"error","error":{"type":"api_error","message":"x"}}\n\n'),
        ("messages", DEATH),
        ("responses", b'event: response.failed\ndata: {"type":"response.failed"}\n\n'),
        ("responses", b'event: error\ndata: {"type":"error","message":"x"}\n\n'),
        ("responses", DEATH),
    ],
)
@pytest.mark.parametrize("apart", [True, False], ids=["apart", "together"])
def test_an_error_event_breaks_the_stream_and_never_passes(name: str, failure: bytes, apart: bool) -> None:
    before = b"".join(events(RECORDED[name])[:3])
    assert feed(name, *((before, failure) if apart else (before + failure,))) == before


@pytest.mark.parametrize("reason", ["abort", "error"])
@pytest.mark.parametrize("name", ["chat", "completions", "messages"])
def test_an_aborted_answer_is_no_answer(name: str, reason: str) -> None:
    stream = RECORDED[name]
    old = {"messages": b'"stop_reason":"max_tokens"'}.get(name, b'"finish_reason":"length"')
    assert old in stream
    new = old[: old.index(b":") + 1] + f'"{reason}"'.encode()
    assert stream.startswith(feed(name, stream.replace(old, new)))


@pytest.mark.parametrize(
    ("name", "stream"),
    [
        ("chat", b"data: [DONE]\n\n"),
        ("completions", b"data: [DONE]\n\n"),
        ("messages", b'event: message_stop\ndata: {"type":"message_stop"}\n\n'),
        ("responses", b'event: response.completed\ndata: {"response":{"usage":{"output_tokens":0}}}\n\n'),
        ("responses", b'event: response.completed\ndata: {"response":{"usage":{"output\n\n'),
    ],
)
def test_an_end_before_any_word_is_no_end(name: str, stream: bytes) -> None:
    assert feed(name, stream) == b""


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls"])
def test_why_it_ended_is_noted(reason: str) -> None:
    stream = RECORDED["chat"].replace(b'"length"', f'"{reason}"'.encode())
    _, watch, noted = watched("chat", [stream])
    assert watch.finished
    assert noted.finish_reason == reason
