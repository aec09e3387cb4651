"""What was learned from other streams of an endpoint changes nothing but the time that it takes."""

from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from service.observability.record import Record
from service.protocol.counted_streams import watch
from service.protocol.known_events import LONGEST, MOST, KnownEvents
from service.protocol.streams import BrokenStreamError, Dialect, StreamWatcher
from tests.support.each import each

DIALECTS: dict[str, Dialect] = {
    "chat": "openai", "completions": "openai", "responses": "responses", "messages": "messages",
}  # fmt: skip
RECORDED = {name: (Path(__file__).parent / "recorded" / f"{name}.sse").read_bytes() for name in DIALECTS}
USED = b'"usage":{"prompt_tokens":7,"completion_tokens":3}'
TEXT = b'{"index":0,"delta":{"content":"%b"}'

heads = st.sampled_from([
    b'"id":"a"', b'"id":"b","created":1', b'"id":"c",' + USED, b'"id":"d","stop_reason":"stop"',
    b'"id":"e","delta":{"role":"x"}', b'"id":"_reason"', b'"object":"f"',
])  # fmt: skip
texts = st.sampled_from(
    [b"", b"one", rb"a \"b\"", rb"\"usage\":{ \"finish_reason\":\"stop\"", b"\\\\", b"_reason", b"}]}"]
)
ends = st.sampled_from([
    b',"finish_reason":null', b',"finish_reason":"stop"', b',"finish_reason": "length"', b',"finish_reason":"abort"',
    b',"logprobs":{"content":"x"},"finish_reason":null', b',"finish_reason":"STOP"', b"",
])  # fmt: skip
afters = st.sampled_from([b"", b"", b"," + USED, b',"x":"' + b"y" * LONGEST + b'"'])
choices = st.one_of(
    st.tuples(texts.map(lambda text: TEXT % text), ends).map(lambda parts: b"%b%b}" % parts),
    texts.map(lambda text: b'{"index":0,"text":"%b","finish_reason":null}' % text),
    ends.map(lambda end: b'{"index":0,"delta":{"role":"assistant","content":""}%b}' % end),
    st.just(b'{"index":0,"delta":{"tool_calls":[{"arguments":"x"}]},"finish_reason":null}'),
    st.just(b""),
)
chunks = st.tuples(heads, choices, afters).map(lambda parts: b'data: {%b,"choices":[%b]%b}' % parts)
others = st.sampled_from([b"data: [DONE]", b": ping", b'data: {"error":{"code":500}}', b'data: {"id":"a"}'])
streams = st.lists(st.one_of(chunks, chunks, chunks, others), max_size=6)


def outcome(watcher: StreamWatcher, pieces: list[bytes], record: Record) -> list[Any]:
    """What a stream comes to, as it is fed in these pieces."""
    passed: list[object] = []
    try:
        for now, piece in enumerate(pieces):
            passed.append(watcher.feed(piece, float(now)))
    except BrokenStreamError as error:
        passed.append(("broken", error.passed))
    counts = record.prompt_tokens, record.completion_tokens
    return [passed, watcher.finished, watcher.started, record.output_times, record.finish_reason, counts]


def plain(head: bytes) -> bytes:
    return b'data: {%b,"choices":[%b,"finish_reason":null}]}' % (head, TEXT % b"x")


def after_each_other(*heads: bytes) -> list[tuple[list[bytes], bool, bool]]:
    """Streams that differ in what comes before the choices of their first event."""
    return [([plain(head), plain(b'"id":"a"')], False, False) for head in heads]


@example(after_each_other(b'"id":"a"', b'"id":"d","stop_reason":"stop"'))
@example(after_each_other(b'"id":"a"', b'"id":"e","delta":{"role":"x"}', b'"id":"a"'))
@given(st.lists(st.tuples(streams, st.booleans(), st.booleans()), max_size=8))
def test_a_stream_is_taken_as_if_it_were_the_first(several: list[tuple[list[bytes], bool, bool]]) -> None:
    shared = KnownEvents()
    for events, together, counted in several:
        whole = [event + b"\n\n" for event in events]
        pieces = [b"".join(whole)] if together else whole
        outcomes = []
        for known in (shared, KnownEvents()):
            record = Record("id", "/v1", 0.0)
            outcomes.append(outcome(watch(record, "openai", True, counted, known), pieces, record))
        assert outcomes[0] == outcomes[1]


@each("name", DIALECTS)
def test_a_second_stream_is_forwarded_and_recorded_as_the_first(name: str) -> None:
    known, seen = KnownEvents(), []
    for stream in (RECORDED[name], RECORDED[name].replace(b"chatcmpl-", b"chatcmpl-x").replace(b"cmpl-", b"cmpl-y")):
        record = Record("id", "/v1", 0.0)
        watcher = watch(record, DIALECTS[name], False, False, known)
        passed, *rest = outcome(watcher, [event + b"\n\n" for event in stream.split(b"\n\n")[:-1]], record)
        assert b"".join(passed) == stream and watcher.finished
        seen.append(rest)
    assert seen[0] == seen[1]


def framed(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


def chunk(id: bytes, choice: bytes) -> bytes:
    return b'data: {"id":"%b","choices":[%b]}\n\n' % (id, choice)


def test_a_chunk_is_passed_on_after_the_first_text_of_a_stream_like_the_last() -> None:
    known = KnownEvents()
    opening, plain = b'{"delta":{"role":"assistant","content":""}}', TEXT % b"x" + b',"finish_reason":null}'
    for id in (b"a", b"b"):
        watcher = StreamWatcher(Record("id", "/v1", 0.0), "openai", True, known)
        watcher.feed(chunk(id, opening) + chunk(id, plain), 1.0)
        assert watcher.take_chunk(framed(chunk(id, plain)), 2.0) == framed(chunk(id, plain))
        assert watcher.take_chunk(framed(chunk(b"c", plain)), 2.0) is None


def test_what_is_known_is_bounded() -> None:
    known = KnownEvents()
    for number in range(2 * MOST + 1):
        watcher = StreamWatcher(Record("id", "/v1", 0.0), "openai", True, known)
        more = b',"more":"%d"' % number
        watcher.feed(chunk(b"a", b'{"delta":{"role":"assistant","content":""}%b}' % more), 1.0)
        watcher.feed(chunk(b"a", TEXT % b"x" + more + b"}"), 1.0)
        watcher.feed(chunk(b"a", TEXT % b"x" + b',"more":"%b"}' % (b"x" * LONGEST)), 1.0)
        assert 0 < len(known.endings) <= MOST and 0 < len(known.openings) <= MOST
    assert all(len(key) <= LONGEST for key in (*known.endings, *known.openings))


@each("event", [
    b'{"delta":{"content":"x"},"logprobs":{"content":[{"token":"SECRET"}]},"finish_reason":null}',
    b'{"text":"x","logprobs":{"tokens":["SECRET"]},"finish_reason":"stop"}',
    b'{"text":"x","logprobs":[{"token":"SECRET"}],"finish_reason":null}',
    b'{"text":"x","finish_reason":null,"token_ids":["SECRET"]}',
    b'{"delta":{"role":"assistant","content":"SECRET"},"finish_reason":null}',
])  # fmt: skip
def test_nothing_of_an_answer_is_kept(event: bytes) -> None:
    known = KnownEvents()
    StreamWatcher(Record("id", "/v1", 0.0), "openai", True, known).feed(chunk(b"a", event), 1.0)
    assert b"SECRET" not in b"".join((known.before_text, *known.endings, *known.openings))
