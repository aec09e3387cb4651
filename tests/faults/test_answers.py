"""Answers that are none, or that go on after their end: no client sees more of them than was true."""

import json
import re
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.observability.record import Record
from service.protocol.streams import BrokenStreamError, StreamWatcher
from tests.conftest import Start
from tests.fake_engine import Fault
from tests.support.exchanges import CHAT, TALKING, Case, broken_off, events_of, is_refusal, label, sent
from tests.support.gateways import ONE
from tests.support.waiting import until

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
WORD = b'data: {"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


HEADS = {
    "never-ending": b"HTTP/1.1 200 OK\r\n" + b"x-filler: 0123456789\r\n" * 8000,
    "one endless row": b"HTTP/1.1 200 OK\r\nx: " + b"y" * 2**18,
    "no status": b"HTTP/1.1 \r\n\r\n",
    "an HTML page": b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>",
    "a length that is too small": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n" + WORD % b"x",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 9\r\n\r\n{}",
    "a switch of protocols": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
    "JSON where events should be": b'HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{"choices": [{}]',
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=label)
@pytest.mark.parametrize("raw", HEADS.values(), ids=HEADS.keys())
async def test_what_is_no_answer_is_an_error_in_our_words(raw: bytes, stream: bool, start: Start) -> None:
    gateway = await start(ONE)
    gateway.engines[0].script(*[Fault(raw=raw)] * 3, path=CHAT.path)
    response = await gateway.post(CHAT.path, CHAT.body(stream))
    assert is_refusal(CHAT, response, 502, "upstream_error")
    assert not any(word in response.text for word in ("Error(", "Traceback", "httptools", "html", "sock"))
    gateway.engines[0].forgive()
    assert (await gateway.post(CHAT.path, CHAT.body(stream))).status_code == 200


@pytest.mark.parametrize("case", TALKING, ids=label)
async def test_what_comes_after_the_end_is_billed_to_nobody(case: Case, start: Start) -> None:
    """The engine says all of it a second time, in an answer of its own that nobody asked for."""
    gateway = await start(ONE)
    (await gateway.post(case.path, case.body(stream=True))).raise_for_status()
    raw = gateway.seen[-1].answer
    gateway.engines[0].script(Fault(raw=raw + raw), path=case.path)
    response = await gateway.post(case.path, case.body(stream=True))
    assert response.status_code in (200, 502)
    (await gateway.post(case.path, case.body(stream=True))).raise_for_status()
    await gateway.settle()
    first, second, third = gateway.lines
    assert first["completion_tokens"] == third["completion_tokens"]
    assert second["completion_tokens"] in (0, first["completion_tokens"])


async def test_an_end_that_comes_twice_is_one(start: Start) -> None:
    gateway = await start(ONE)
    events = WORD % b"one", STOP, USAGE, DONE, USAGE, DONE
    gateway.engines[0].script(Fault(raw=HEAD + b"".join(map(chunked, events)) + b"0\r\n\r\n"))
    response = await gateway.post(CHAT.path, CHAT.body(stream=True))
    assert response.content.startswith(WORD % b"one" + STOP + DONE)
    await gateway.settle()
    assert [(line["outcome"], line["completion_tokens"]) for line in gateway.lines] == [("complete", 2)]


async def test_tokens_after_a_client_has_left_are_nobodys(start: Start) -> None:
    gateway = await start(ONE)
    gateway.engines[0].script(Fault(events=3, end="hang"), path=CHAT.path)
    line = await gateway.connect()
    await line.post(CHAT.path, json.dumps(CHAT.body(stream=True)).encode())
    await line.read_until(b"data: ")
    line.leave()
    await until(gateway.seen[0].closed.is_set)
    for _ in range(3):  # were its connection used again, the late tokens would be in one of these
        response = await gateway.post(CHAT.path, CHAT.body(stream=True))
        assert len(events_of(response.content)) == len(events_of(sent(gateway.seen[-1]))) - 1


# Streams of events, cut anywhere

words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
pieces = st.one_of(
    words.map(lambda word: WORD % json.dumps(word, ensure_ascii=False)[1:-1].encode()),
    words.map(lambda word: WORD % json.dumps(word)[1:-1].encode()),
    st.just(b": keep-alive\n\n"),
    st.sampled_from([STOP, USAGE, DONE]),
    st.sampled_from([b"event: ping\ndata: {}\n\n", b"data: {}\n\n", b"data:\n\n", b"id: 7\nretry: 5\n\n"]),
    st.sampled_from([b'data: {"error":{"message":"x"}}\n\n', b'data: {"choices":[],"usage":{]}}\n\n', b"\n\n"]),
    st.binary(max_size=12),
)


def watched(parts: list[bytes]) -> tuple[bytes, Record, bool]:
    """What a client gets of a stream that arrives in these parts; its record; and whether the engine failed."""
    record = Record("x", CHAT.path, 0.0, streamed=True)
    watcher, got = StreamWatcher(record, "openai", hide_usage=True), b""
    try:
        for part in parts:
            got += watcher.feed(part, 1.0)
    except BrokenStreamError as error:
        return got + error.passed, record, True
    return got, record, not watcher.finished


@given(st.lists(pieces, max_size=12).map(b"".join), st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_where_a_stream_is_cut_makes_no_difference(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)) | {0, len(stream)})
    got, record, failed = watched([stream])
    again, other, too = watched([stream[one:two] for one, two in pairwise(cuts)])
    assert (solid(again), other.completion_tokens, other.finish_reason, too) == (
        solid(got), record.completion_tokens, record.finish_reason, failed,
    )  # fmt: skip


def solid(stream: bytes) -> bytes:
    """The stream without empty lines that separate nothing."""
    return re.sub(rb"\n{3,}", b"\n\n", stream).lstrip(b"\n")


@given(st.lists(st.tuples(pieces, st.booleans()), min_size=1, max_size=8))
@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_stream_has_one_ending(rows: list[tuple[bytes, bool]]) -> None:
    """The client's events are the engine's, in order; then comes its end or one error, and never both."""
    whole = b"".join(piece for piece, _ in rows)
    got, _, failed = watched([whole])
    ours = [event for event in whole.split(b"\n\n") if event + b"\n\n" != USAGE]
    position = 0
    for event in got.split(b"\n\n")[:-1]:
        position = ours.index(event, position) + 1  # raises ValueError for what the engine never said
    assert failed or DONE in got


BROKEN = {
    "a line without end": b"data: " + b"x" * 2**12,
    "half a character": "data: é".encode()[:-1],
    "an event without choices": b'data: {"id":"x"}\n\n',
    "another's error": b'event: error\ndata: {"type":"error"}\n\n',
}


@pytest.mark.parametrize("last", BROKEN.values(), ids=BROKEN.keys())
async def test_a_stream_that_turns_into_something_else(last: bytes, start: Start) -> None:
    gateway = await start(ONE)
    begun = HEAD + chunked(WORD % b"one")
    gateway.engines[0].script(Fault(raw=begun + chunked(last) + b"0\r\n\r\n", drip=len(begun)))
    response = await gateway.post(CHAT.path, CHAT.body(stream=True))
    assert response.status_code == 200
    events = events_of(response.content)
    assert events[0] == WORD % b"one"
    assert broken_off(CHAT, events[-1]) == "upstream_error"
    assert b"[DONE]" not in response.content
