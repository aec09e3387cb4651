"""Streams recorded from a real engine (recorded/), fed in pieces of any size, and the ways in which a stream ends."""

import json
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.observability.record import Record
from service.protocol.counted_streams import CountedStream
from service.protocol.generation import GENERATION
from service.protocol.streams import (
    END_EVENTS,
    MAX_EVENT_BYTES,
    OPENINGS,
    PATTERNS,
    BrokenStreamError,
    Dialect,
    StreamWatcher,
)
from tests.support.each import each

RECORDED = {path.stem: path.read_bytes() for path in (Path(__file__).parent / "recorded").glob("*.sse")}
DIALECTS: dict[str, Dialect] = {
    "chat": "openai", "completions": "openai", "responses": "responses", "messages": "messages",
}  # fmt: skip
# prompt tokens, completion tokens, output events, finish reason
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


def new_record() -> Record:
    return Record("id", "/v1", started=0.0)


def events(stream: bytes) -> list[bytes]:
    return [event + b"\n\n" for event in stream.split(b"\n\n") if event]


def feed_all(name: str, pieces: list[bytes], hide_usage: bool = False) -> tuple[bytes, StreamWatcher, Record]:
    """Feeds a stream in `pieces`, one per second; returns the forwarded bytes, the watcher and the record."""
    record = new_record()
    watcher = StreamWatcher(record, DIALECTS[name], hide_usage)
    passed = b"".join(watcher.feed(piece, float(now)) for now, piece in enumerate(pieces))
    return passed, watcher, record


def cut(stream: bytes, offsets: list[int]) -> list[bytes]:
    bounds = [0, *sorted(offset % len(stream) for offset in offsets), len(stream)]
    return [stream[start:end] for start, end in pairwise(bounds)]


def test_every_dialect_is_recorded() -> None:
    assert set(DIALECTS) == set(RECORDED) == set(COUNTS)
    assert (
        set(DIALECTS.values())
        == set(END_EVENTS)
        == set(get_args(Dialect))
        == {endpoint.dialect for endpoint in GENERATION}
    )


# Forwarding


@every_stream
@given(offsets=st.lists(st.integers(0, 10**6), max_size=30))
def test_pieces_of_any_size_are_forwarded_unchanged(name: str, offsets: list[int]) -> None:
    stream = RECORDED[name]
    passed, watcher, record = feed_all(name, cut(stream, offsets))
    assert passed == stream
    assert watcher.finished
    assert (record.prompt_tokens, record.completion_tokens, len(record.output_times), record.finish_reason) == COUNTS[
        name
    ]


@every_stream
def test_an_event_is_forwarded_once_it_is_complete(name: str) -> None:
    watcher = StreamWatcher(new_record(), DIALECTS[name], hide_usage=False)
    passed = [watcher.feed(bytes([byte]), 0.0) for byte in RECORDED[name]]
    assert [event for event in passed if event] == events(RECORDED[name])


@pytest.mark.parametrize("name", ["chat", "completions"])
@given(offsets=st.lists(st.integers(0, 10**6), max_size=30))
def test_usage_that_was_not_requested_is_recorded_and_dropped(name: str, offsets: list[int]) -> None:
    passed, watcher, record = feed_all(name, cut(RECORDED[name], offsets), hide_usage=True)
    usage = [event for event in events(RECORDED[name]) if b'"choices":[]' in event]
    assert len(usage) == 1
    assert passed == RECORDED[name].replace(usage[0], b"")
    assert watcher.finished
    assert (record.prompt_tokens, record.completion_tokens) == COUNTS[name][:2]


def test_a_chunk_with_text_and_usage_is_forwarded() -> None:
    usage = b'"choices":[{"index":0,"delta":{"content":"V"}}],"usage":{"prompt_tokens":12,"completion_tokens":1}'
    event = b'data: {"id":"x",' + usage + b"}\n\n"
    passed, _, record = feed_all("chat", [event], hide_usage=True)
    assert passed == event
    assert (record.prompt_tokens, record.output_times) == (12, [0.0])


@pytest.mark.parametrize("name", ["responses", "messages"])
def test_usage_of_other_dialects_is_forwarded(name: str) -> None:
    assert feed_all(name, [RECORDED[name]], hide_usage=True)[0] == RECORDED[name]


@every_stream
def test_a_comment_is_not_output(name: str) -> None:
    passed, _, record = feed_all(name, [b": ping\n\n"])
    assert passed == b": ping\n\n"
    assert not record.output_times


def test_generated_text_that_looks_like_events_is_text() -> None:
    text = 'data: [DONE]\n\nevent: error "usage":{"prompt_tokens":9} "finish_reason":"abort" "choices":[]'
    chunk = {"id": "x", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    event = b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"
    passed, watcher, record = feed_all("chat", [event], hide_usage=True)
    assert passed == event
    assert not watcher.finished
    assert (record.finish_reason, record.prompt_tokens) == (None, 0)


# Times


@every_stream
def test_times_of_output_are_recorded(name: str) -> None:
    stream = events(RECORDED[name])
    _, _, record = feed_all(name, stream)
    opening = {"chat": 1, "completions": 0, "responses": 4, "messages": 2}[name]
    assert record.ttft == opening
    assert record.gaps == [1.0] * (COUNTS[name][2] - 1)


def test_events_that_arrive_together_have_gaps_of_0() -> None:
    _, _, record = feed_all("chat", [RECORDED["chat"]])
    assert (record.ttft, record.gaps) == (0.0, [0.0, 0.0, 0.0])


# Large events


def test_the_pieces_of_a_large_event_are_looked_at_once() -> None:
    """Looking at all of it again for each piece would take minutes."""
    watcher = StreamWatcher(new_record(), "openai", hide_usage=False)
    piece = b"x" * 1024
    start, count = b'data: {"id":"', MAX_EVENT_BYTES // len(piece) - 1
    assert watcher.feed(start, 0.0) == b""
    assert not any(watcher.feed(piece, 0.0) for _ in range(count))
    assert watcher.feed(b'"}\n', 0.0) == b""
    event = watcher.feed(b"\ndata: ", 1.0)
    assert event == start + piece * count + b'"}\n\n'
    assert watcher.feed(b"[DONE", 1.0) == b""


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_an_event_over_the_size_limit_breaks_the_stream(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.protocol.streams.MAX_EVENT_BYTES", 2**13)
    watcher = StreamWatcher(new_record(), "openai", hide_usage=False)
    for _ in range(2**13 // size):
        assert watcher.feed(b"x" * size, 0.0) == b""
    with pytest.raises(BrokenStreamError):
        watcher.feed(b"x" * size, 0.0)


# Rejections

REJECTED = b'{"error": {"message": "Grammar error", "type": "BadRequestError", "param": null, "code": 400}}'
MANGLED = b"2 validation errors: input_value={'error': {'message': 'Gr...am': None, 'code': 400}}"


@pytest.mark.parametrize(
    ("name", "event", "status", "rejected"),
    [
        ("chat", b"data: " + REJECTED, 400, True),
        ("completions", b"data: " + REJECTED, 400, True),
        ("messages", b'event: error\ndata: {"type":"error","error":{"message":"' + MANGLED + b'"}}', 400, True),
        ("messages", b'event: error\ndata: {"type":"error","error":{"message":"x"}}', None, False),
        ("chat", DEATH.strip(), 500, False),
        ("chat", b'data: {"error": {"message": "\'code\': 400", "code": 500}}', 500, False),
        ("responses", b'event: response.failed\ndata: {"type":"response.failed"}', None, False),
    ],
)
def test_an_error_event_says_whether_the_request_is_at_fault(
    name: str, event: bytes, status: int | None, rejected: bool
) -> None:
    watcher = StreamWatcher(new_record(), DIALECTS[name], hide_usage=False)
    with pytest.raises(BrokenStreamError) as caught:
        watcher.feed(event + b"\n\n", 0.0)
    assert (caught.value.status, caught.value.rejected) == (status, rejected)
    assert caught.value.event.strip() == event


# Sequence numbers


@pytest.mark.parametrize("together", [True, False], ids=["together", "separate"])
def test_the_next_sequence_number_follows_what_was_forwarded(together: bool) -> None:
    stream = events(RECORDED["responses"])
    watcher = StreamWatcher(new_record(), "responses", hide_usage=False)
    assert watcher.next_sequence_number() == 0
    for piece in [b"".join(stream[:3])] if together else stream[:3]:
        watcher.feed(piece, 0.0)
    watcher.feed(stream[3][:-9], 0.0)  # not complete, so not forwarded
    assert watcher.next_sequence_number() == 3
    watcher.feed(stream[3][-9:], 0.0)
    assert watcher.next_sequence_number() == 4


# How a stream ends


@every_stream
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_a_truncated_stream_is_not_finished(name: str, fraction: float) -> None:
    stream = RECORDED[name]
    assert not feed_all(name, [stream[: int(len(stream) * fraction)]])[1].finished
    last = events(stream)[-1]
    assert not feed_all(name, [stream.removesuffix(last), last[:-1]])[1].finished


def feed_until_broken(name: str, *pieces: bytes) -> bytes:
    """Feeds a stream that must break; returns the bytes that are forwarded before."""
    watcher = StreamWatcher(new_record(), DIALECTS[name], hide_usage=False)
    passed = b""
    with pytest.raises(BrokenStreamError) as caught:
        for piece in pieces:
            passed += watcher.feed(piece, 0.0)
    assert not watcher.finished
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
@pytest.mark.parametrize("separate", [True, False], ids=["separate", "together"])
def test_an_error_event_breaks_the_stream_and_is_not_forwarded(name: str, failure: bytes, separate: bool) -> None:
    before = b"".join(events(RECORDED[name])[:3])
    assert feed_until_broken(name, *((before, failure) if separate else (before + failure,))) == before


@pytest.mark.parametrize("reason", ["abort", "error"])
@pytest.mark.parametrize("name", ["chat", "completions", "messages"])
def test_an_aborted_response_breaks_the_stream(name: str, reason: str) -> None:
    stream = RECORDED[name]
    old = {"messages": b'"stop_reason":"max_tokens"'}.get(name, b'"finish_reason":"length"')
    assert old in stream
    new = old[: old.index(b":") + 1] + f'"{reason}"'.encode()
    assert stream.startswith(feed_until_broken(name, stream.replace(old, new)))


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
def test_an_end_without_output_breaks_the_stream(name: str, stream: bytes) -> None:
    assert feed_until_broken(name, stream) == b""


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls"])
def test_finish_reason_is_recorded(reason: str) -> None:
    stream = RECORDED["chat"].replace(b'"length"', f'"{reason}"'.encode())
    _, watcher, record = feed_all("chat", [stream])
    assert watcher.finished
    assert record.finish_reason == reason


def counted(stream: bytes) -> bytes:
    """An OpenAI stream whose events all have the usage so far, as an engine writes them that is asked for it."""
    made, said = [], 0
    for event in events(stream):
        at = event.find(b"}]") + 2
        if event.startswith(b"data: {") and at > 1:
            said += b'"role"' not in event
            details = b"null" if said % 2 else b'{"reasoning_tokens":1}'
            usage = b'"prompt_tokens":7,"total_tokens":%d,"completion_tokens":%d' % (7 + said, said)
            event = b'%b,"usage":{%b,"completion_tokens_details":%b}%b' % (event[:at], usage, details, event[at:])
        made.append(event)
    return b"".join(made)


@pytest.mark.parametrize("name", ["chat", "completions"])
@pytest.mark.parametrize("hide", [False, True])
@given(offsets=st.lists(st.integers(0, 10_000), max_size=12))
def test_the_usage_of_single_events_is_ours_and_not_the_clients(name: str, hide: bool, offsets: list[int]) -> None:
    stream = RECORDED[name]
    expected, _, plain = feed_all(name, events(stream), hide)
    for pieces in (cut(counted(stream), offsets), events(counted(stream))):
        record = new_record()
        watcher = CountedStream(record, "openai", hide)
        passed = b"".join(watcher.feed(piece, 1.0) for piece in pieces)
        assert passed == expected
        assert watcher.finished and len(record.output_times) == len(plain.output_times)
        watcher.settle()
        assert record.streamed_usage is None and record.completion_tokens == plain.completion_tokens


def test_a_counted_stream_that_breaks_off_has_been_counted_up_to_its_last_event() -> None:
    for seen in range(1, 4):
        record = new_record()
        watcher = CountedStream(record, "openai", hide_usage=True)
        for event in events(counted(RECORDED["completions"]))[:seen]:
            watcher.feed(event, 1.0)
        watcher.settle()
        assert record.streamed_usage == (7, seen)


def test_only_what_follows_the_text_of_a_known_beginning_is_looked_at() -> None:
    head = b'data: {"id":"a","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"'
    plain = head + b'one"},"finish_reason":null}]}\n\n'
    counted = head + b'two"},"finish_reason":null}],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
    last = head + b'"},"finish_reason":"stop"}]}\n\n'
    record = new_record()
    watcher = StreamWatcher(record, "openai", hide_usage=True)
    assert b"".join(watcher.feed(event, 1.0) for event in (plain, plain, counted, last)) == plain * 2 + counted + last
    assert (len(record.output_times), record.prompt_tokens, record.finish_reason) == (4, 5, "stop")


# Chunks of HTTP that are passed on whole


def framed(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


TEXT = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n'
THINKING = TEXT.replace(b'"content"', b'"reasoning"')
USED = b'"usage":{"prompt_tokens":12,"completion_tokens":%b}'


@every_stream
def test_a_stream_is_passed_on_as_it_is_fed(name: str) -> None:
    record, fed, passed, whole = new_record(), 0, b"", RECORDED[name]
    watcher = StreamWatcher(record, DIALECTS[name], hide_usage=False)
    for now, event in enumerate(events(whole)):
        chunk = watcher.take_chunk(framed(event), float(now))
        fed += chunk is None
        assert chunk in (None, framed(event))
        passed += watcher.feed(event, float(now)) if chunk is None else event
    assert passed == whole and watcher.finished
    prompt, completion, outputs, reason = COUNTS[name]
    assert (record.prompt_tokens, record.completion_tokens, record.finish_reason) == (prompt, completion, reason)
    assert len(record.output_times) == outputs
    assert len(events(whole)) - fed == {"chat": 2, "completions": 2, "messages": 3, "responses": 0}[name]


def test_the_time_of_a_chunk_that_is_passed_on_is_noted() -> None:
    record = new_record()
    watcher = StreamWatcher(record, "openai", hide_usage=True)
    watcher.feed(TEXT % b"a", 1.0)
    assert watcher.take_chunk(framed(TEXT % b"bcd"), 2.5) == framed(TEXT % b"bcd")
    assert record.output_times == [1.0, 2.5]


PLAIN = TEXT % b"b"
NOT_TAKEN = {
    "a quotation mark": framed(TEXT % b'a"b'),
    "a quotation mark after a backslash": framed(TEXT % rb'\\"'),
    "a quotation mark after three": framed(TEXT % rb'\"\\","a":"'),
    "a member more": framed(TEXT % b'","tool_calls":"'),
    "another beginning": framed(PLAIN.replace(b'"id":"x"', b'"id":"y"')),
    "another index": framed(PLAIN.replace(b'"index":0', b'"index":1')),
    "a finish reason": framed(PLAIN.replace(b"null", b'"stop"')),
    "usage": framed(PLAIN.replace(b"}\n", b',"usage":{}}\n')),
    "an error": framed(b'data: {"error": {"message": "x"}}\n\n'),
    "the end": framed(b"data: [DONE]\n\n"),
    "a comment": framed(b": x\n\n"),
    "two events": framed(PLAIN + PLAIN),
    "two chunks, one with a finish reason": framed(PLAIN) + framed(PLAIN.replace(b"null", b'"stop"')),
    "two chunks, the other way round": framed(PLAIN.replace(b"null", b'"stop"')) + framed(PLAIN),
    "two chunks, one with a wrong size": framed(PLAIN) + b"1" + framed(PLAIN)[1:],
    "two chunks, one of two events": framed(PLAIN) + framed(PLAIN * 2),
    "a chunk and a half": framed(PLAIN) + framed(PLAIN)[:-9],
    "a chunk and the end": framed(PLAIN) + b"0\r\n\r\n",
    "a chunk without a size": framed(PLAIN) + PLAIN + b"\r\n",
    "half an event": framed(PLAIN[:-1]),
    "half a chunk": framed(PLAIN)[:-1],
    "a wrong size": b"1" + framed(PLAIN)[1:],
    "a size with a zero": b"0" + framed(PLAIN),
    "an extension": framed(PLAIN).replace(b"\r\n", b";x=y\r\n", 1),
    "a size that no chunk has": b"\r\n" + (TEXT % b"").ljust(258, b" ") + b"\r\n",
    "no size": PLAIN + b"\r\n",
    "nothing": b"",
}


@each(("name", "chunk"), NOT_TAKEN.items())
def test_what_is_more_than_a_text_is_not_passed_on(name: str, chunk: bytes) -> None:
    record = new_record()
    watcher = StreamWatcher(record, "openai", hide_usage=True)
    assert watcher.take_chunk(framed(PLAIN), 0.0) is None  # nothing is known of this stream yet
    watcher.feed(PLAIN, 1.0)
    assert watcher.take_chunk(framed(PLAIN), 2.0)
    assert watcher.take_chunk(chunk, 3.0) is None
    assert record.output_times == [1.0, 2.0]


@each("text", [rb"\"", rb"say \"it\" and \\\"", rb"\\", rb"{\"usage\":{\"finish_reason\":\"stop\""])
def test_a_text_with_escaped_quotation_marks_is_passed_on(text: bytes) -> None:
    record = new_record()
    watcher = StreamWatcher(record, "openai", hide_usage=True)
    watcher.feed(PLAIN, 1.0)
    assert watcher.take_chunk(framed(TEXT % text), 2.0) == framed(TEXT % text)
    assert (record.output_times, record.finish_reason) == ([1.0, 2.0], None)


def test_chunks_that_arrive_together_are_passed_on() -> None:
    record = new_record()
    watcher = StreamWatcher(record, "openai", hide_usage=True)
    watcher.feed(PLAIN, 1.0)
    chunks = b"".join(framed(TEXT % text) for text in (b"b", rb"\"c\"", b"", b"b"))
    assert watcher.take_chunk(chunks, 2.0) == chunks
    assert record.output_times == [1.0, 2.0, 2.0, 2.0, 2.0]


def test_the_rest_of_an_event_is_not_taken_for_another() -> None:
    watcher = StreamWatcher(new_record(), "openai", hide_usage=True)
    watcher.feed(PLAIN, 1.0)
    watcher.feed(b"data: x\n", 1.0)
    assert watcher.take_chunk(framed(PLAIN), 2.0) is None


def test_another_kind_of_text_is_learned_a_few_times() -> None:
    watcher = StreamWatcher(new_record(), "openai", hide_usage=True)
    taken = []
    for kind in (THINKING, TEXT) * (PATTERNS // 2) + (THINKING,):
        watcher.feed(kind % b"a", 0.0)
        taken.append(watcher.take_chunk(framed(kind % b"b"), 0.0) is not None)
    assert taken == [True] * PATTERNS + [False]


def test_sizes_of_chunks_are_kept_within_a_bound() -> None:
    watcher = StreamWatcher(new_record(), "openai", hide_usage=True)
    watcher.feed(PLAIN, 0.0)
    chunks = [framed(TEXT % (b"x" * length)) for length in range(100)]
    assert [watcher.take_chunk(chunk, 0.0) for chunk in chunks] == chunks
    assert len(watcher._openings) <= OPENINGS


def test_the_usage_of_a_counted_chunk_is_taken_out() -> None:
    record = new_record()
    watcher = CountedStream(record, "openai", hide_usage=True)
    counted = [
        TEXT.replace(b"}\n", b"," + USED + b"}\n") % (text, count) for text, count in ((b"a", b"1"), (b"bc", b"2"))
    ]
    assert watcher.feed(counted[0], 0.0) == TEXT % b"a"
    assert watcher.take_chunk(framed(counted[1]), 1.0) == framed(TEXT % b"bc")
    assert watcher.take_chunk(framed(PLAIN), 2.0) is None
    assert watcher.take_chunk(framed(counted[1].replace(b"bc", rb"\"")), 2.0) is None
    watcher.settle()
    assert (record.streamed_usage, record.output_times) == ((12, 2), [0.0, 1.0])
