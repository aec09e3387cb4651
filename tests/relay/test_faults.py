"""Failures of engines and clients at every stage of a request, on every endpoint."""

import asyncio
import json
import random
from typing import Any

import httpx
import pytest

from service.upstreams import breaker
from tests.conftest import Start
from tests.fake_engine import Fault
from tests.fake_engine.bodies import BUSY, DRAINING, dumps, error
from tests.support.exchanges import (
    CHAT,
    COUNT,
    EMBEDDING,
    EXCHANGES,
    MESSAGE,
    RESPONSE,
    STREAMING,
    TALKING,
    Case,
    begun,
    broken_off,
    error_in,
    events_of,
    is_refusal,
    label,
    sent,
    visible,
)
from tests.support.gateways import HOUSE, ONE, TWO, RunningGateway
from tests.support.waiting import until
from tests.transport.test_pool import hurry

SECRET = "10.1.2.3:/srv/secret"
BUSY_BODY = dumps(error(f"{BUSY} {SECRET}", "Service Unavailable", None, 503))
DRAINING_BODY = dumps(error(f"{DRAINING} {SECRET}", "InternalServerError", None, 500))

STREAM = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


ABORTED = b'data: {"choices":[{"delta":{"content":""},"finish_reason":"abort"}]}\n\n'
NO_USAGE = b'data: {"choices":[],"usage":{]}}\n\n'

# Failures of an engine before any output, which are retried; EARLY applies to streamed and other requests alike.
EARLY: dict[str, Fault] = {
    "accepts and closes": Fault(accept=True),
    "reads and closes": Fault(cut=0),
    "reads and resets": Fault(cut=0, end="reset"),
    "breaks off its headers": Fault(cut=40),
    "speaks another protocol": Fault(raw=b"SSH-2.0-x\r\n"),
    "is full": Fault(status=503, body=BUSY_BODY),
    "is stopping": Fault(status=500, body=DRAINING_BODY),
    "aborts": Fault(finish="abort"),
}
EARLY_STREAMED = {
    "closes after its headers": Fault(events=0),
    "resets after its headers": Fault(events=0, end="reset"),
    "dies after its headers": Fault(events=0, dead=True),
    "ends without an event": Fault(raw=STREAM + chunk(b"")),
    "sends no events": Fault(raw=b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n<html></html>"),
    "sends invalid usage": Fault(events=0, garble=chunk(NO_USAGE), end="hang"),
    "aborts without output": Fault(raw=STREAM + chunk(ABORTED) + chunk(b"")),
}
EARLY_UNSTREAMED = {
    "breaks off its body": Fault(surplus=7),
    "sends no JSON": Fault(raw=b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n<html></html>"),
    "sends no object": Fault(raw=b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]"),
    "sends compressed bytes": Fault(
        raw=b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\0"
    ),
}
DEAD_UNSTREAMED = {"reports that it is dead": Fault(dead=True)}
RETRIED = [
    *((fault, [(case, stream) for case in TALKING for stream in (False, True)]) for fault in EARLY.values()),
    *((fault, [(case, True) for case in TALKING]) for fault in EARLY_STREAMED.values()),
    *((fault, [(case, False) for case in (*TALKING, COUNT)]) for fault in EARLY_UNSTREAMED.values()),
    *((fault, [(case, False) for case in TALKING]) for fault in DEAD_UNSTREAMED.values()),
]
NAMES = [*EARLY, *EARLY_STREAMED, *EARLY_UNSTREAMED, *DEAD_UNSTREAMED]
Exchanges = list[tuple[Case, bool]]


@pytest.fixture
def no_ejection(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ejected replica is half-open at once."""
    monkeypatch.setattr(breaker, "BASE_EJECTION", 0.0)


def script_all(gateway: RunningGateway, fault: Fault, path: str) -> None:
    """Scripts the fault for the next request at every engine."""
    for engine in gateway.engines:
        engine.script(fault, path="" if fault.accept else path)


@pytest.mark.parametrize(("fault", "exchanges"), RETRIED, ids=NAMES)
async def test_failure_before_output_is_retried_on_another_replica(
    fault: Fault, exchanges: Exchanges, start: Start, no_ejection: None
) -> None:
    gateway, unseen = await start(TWO), 0
    for case, stream in exchanges:
        before = len(gateway.lines)
        gateway.engines[0].script(fault, path="" if fault.accept else case.path)
        unseen += fault.accept
        gateway.expected_unseen = unseen
        if fault.accept:
            gateway.engines[0].drop_idle()
        for _ in range(2):
            response = await gateway.post(case.path, case.body(stream))
            assert response.status_code == 200
            served_by = gateway.engines[int(response.headers["x-roundhouse-replica"][-1])].requests[-1]
            assert response.content == (b"".join(visible(events_of(sent(served_by)))) if stream else sent(served_by))
        await gateway.settle()
        lines = gateway.lines[before:]
        assert sorted(line["attempts"] for line in lines) == [1, 2]
        # Nothing of the failed attempt is counted.
        assert len({(line["prompt_tokens"], line["completion_tokens"]) for line in lines}) == 1
    assert gateway.sample("roundhouse_retries_total") == len(exchanges)


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize(("fault", "exchanges"), RETRIED, ids=NAMES)
async def test_a_request_is_tried_at_most_twice(
    fault: Fault, exchanges: Exchanges, replicas: int, start: Start, no_ejection: None
) -> None:
    gateway, unseen = await start(f"models: [{{model: pebble-chat, min_replicas: {replicas}, policy: least_load}}]"), 0
    busy = fault in (EARLY["is full"], EARLY["is stopping"])
    for case, stream in exchanges:
        for engine in gateway.engines:
            engine.drop_idle()
            engine.script(*[fault] * 2, path="" if fault.accept else case.path)
        unseen += fault.accept * min(2, replicas)
        gateway.expected_unseen = unseen
        response = await gateway.post(case.path, case.body(stream))
        assert is_refusal(case, response, 503 if busy else 502, "overloaded" if busy else "upstream_error")
        assert ("retry-after" in response.headers) == busy
        assert not any(word in response.text for word in (SECRET, "sock", "object", "Traceback"))
        await gateway.settle()
        assert gateway.lines[-1]["attempts"] == min(2, replicas)
        for engine in gateway.engines:
            engine.forgive()
        # After two deaths the request is quarantined, so a different one is sent.
        other = {"temperature": 0.5} if fault.dead else {}
        assert (await gateway.post(case.path, case.body(stream) | other)).status_code == 200


async def test_a_retry_inherits_nothing_of_the_first_attempt(start: Start) -> None:
    """The finish reason of the first attempt must not be recorded for the second, which has none."""
    gateway = await start(TWO)
    first = EARLY_STREAMED["aborts without output"]
    for engine in gateway.engines:
        engine.script(first if engine is gateway.engines[1] else Fault(finish="abort"))
    response = await gateway.post(CHAT.path, CHAT.body(stream=True))
    assert is_refusal(CHAT, response, 502, "upstream_error")
    await gateway.settle()
    assert (gateway.lines[0]["attempts"], gateway.lines[0]["replica"]) == (2, "pebble-chat-0")
    assert gateway.lines[0]["ttft_s"] is None


async def test_a_replica_that_breaks_connections_is_ejected(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "BASE_EJECTION", 60.0)  # longer than the test takes, on any machine
    gateway = await start(TWO)
    gateway.engines[0].script(*[Fault(cut=0)] * 5)
    for _ in range(6):
        assert (await gateway.post(CHAT.path, CHAT.body())).status_code == 200
    assert len(gateway.engines[0].requests) == 3


async def test_the_only_replica_is_not_ejected(start: Start) -> None:
    gateway = await start(ONE)
    gateway.engines[0].script(*[Fault(cut=0)] * 5)
    for _ in range(5):
        assert (await gateway.post(CHAT.path, CHAT.body())).status_code == 502
    assert (await gateway.post(CHAT.path, CHAT.body())).status_code == 200


async def test_a_replica_that_refuses_connections_is_ejected_at_once(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "BASE_EJECTION", 3600.0)
    gateway = await start("models: [{model: pebble-chat, timeouts: {queue: 0.1}}]")
    gateway.engines[0].die("kill")
    response = await gateway.post(CHAT.path, CHAT.body())
    assert is_refusal(CHAT, response, 502, "upstream_error")
    response = await gateway.post(CHAT.path, CHAT.body())
    assert is_refusal(CHAT, response, 503, "overloaded")
    await gateway.settle()
    assert [line["attempts"] for line in gateway.lines] == [1, 0]


FINAL: dict[str, tuple[Fault, int]] = {
    "fails": (Fault(status=500, body=dumps(error(f"Exception {SECRET}", "InternalServerError", None, 500))), 502),
    "refuses": (Fault(status=400, body=dumps(error(f"bad {SECRET}", "BadRequestError", "top_p", 400))), 400),
    "does not know": (Fault(status=404, body=dumps(error(f"no {SECRET}", "NotFoundError", "model", 404))), 502),
}  # fmt: skip


@pytest.mark.parametrize(("case", "stream"), [pair for pair in EXCHANGES if pair[0] in TALKING], ids=label)
@pytest.mark.parametrize(("fault", "status"), FINAL.values(), ids=FINAL.keys())
async def test_an_error_that_the_request_may_have_caused_is_not_retried(
    fault: Fault, status: int, case: Case, stream: bool, start: Start
) -> None:
    gateway = await start(TWO)
    script_all(gateway, fault, case.path)
    response = await gateway.post(case.path, case.body(stream))
    assert is_refusal(case, response, status, "upstream_error" if status == 502 else "upstream_rejected")
    assert SECRET not in response.text
    await gateway.settle()
    assert (len(gateway.seen), gateway.lines[0]["attempts"]) == (1, 1)


@pytest.mark.parametrize("case", STREAMING, ids=label)
async def test_a_stream_that_has_begun_is_not_retried(case: Case, start: Start) -> None:
    two = f"{{model: {case.model}, min_replicas: 2, policy: least_load}}\n"
    gateway = await start(HOUSE.replace(f"model: {case.model}\n", two))
    script_all(gateway, Fault(events=len(gateway.engines)), case.path)
    response = await gateway.post(case.path, case.body(stream=True))
    assert response.status_code == 200
    assert len(gateway.seen) == 1


LEAKS = [
    dumps(error(f"Traceback {SECRET}", "BadRequestError", SECRET, 400)),
    dumps({"detail": SECRET}),
    dumps({"error": SECRET}),
    dumps([SECRET]),
    f"<html>{SECRET}".encode(),
    SECRET.encode("utf-16"),
]


@pytest.mark.parametrize("case", [CHAT, MESSAGE, RESPONSE], ids=label)
@pytest.mark.parametrize("status", [301, 400, 401, 404, 413, 422, 429, 500, 501, 502, 503, 504])
async def test_the_text_of_an_engine_error_never_leaks(status: int, case: Case, start: Start) -> None:
    gateway = await start(ONE)
    for body in LEAKS:
        for stream in (False, True):
            gateway.engines[0].script(Fault(status=status, body=body))
            response = await gateway.post(case.path, case.body(stream))
            error_in(case, response.content)
            seen = 503 if status == 503 else 400 if status in (400, 413, 422) else 502
            assert response.status_code == seen
            assert "secret" not in response.text + str(response.headers) + "".join(gateway.output)
            assert response.headers["x-request-id"]


# Failures within a stream

ENDINGS: dict[str, dict[str, Any]] = {
    "close": {},
    "reset": {"end": "reset"},
    "dead": {"dead": True},
    "invalid chunk": {"garble": b"zz\r\n"},
    "half an event": {"garble": b'20\r\ndata: {"id":"x","choices":[{"in'},
    "half an event in a complete chunk": {"garble": b'10\r\ndata: {"id":"x",\r\n0\r\n\r\n'},
    "an early end": {"garble": chunk(b"")},
    "malformed usage": {"garble": chunk(NO_USAGE), "end": "hang"},
}


async def complete_stream(gateway: RunningGateway, case: Case) -> tuple[list[bytes], int]:
    """The events of a stream without a failure, and the number of bytes that the engine sent."""
    response = await gateway.post(case.path, case.body(stream=True))
    assert response.status_code == 200
    seen = gateway.seen[-1]
    return events_of(sent(seen)), len(seen.answer)


def check_broken(case: Case, response: httpx.Response, events: list[bytes]) -> None:
    """Checks that the client got these events, then one error event, and nothing more."""
    if not begun(events):
        assert is_refusal(case, response, 502, "upstream_error")
        return
    assert response.status_code == 200
    got = events_of(response.content)
    assert b"".join(got) == response.content
    assert got[:-1] == visible(events)
    assert broken_off(case, got[-1]) in ("upstream_error", "api_error")
    if case is RESPONSE:
        assert b'"sequence_number": %d}' % len(events) in got[-1]
    assert b"[DONE]" not in response.content


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS.keys())
@pytest.mark.parametrize("case", STREAMING, ids=label)
async def test_stream_broken_between_two_events_ends_with_one_error_event(
    case: Case, ending: dict[str, Any], start: Start, no_ejection: None
) -> None:
    gateway = await start(HOUSE)
    events, _ = await complete_stream(gateway, case)
    for number in range(len(events)):
        script_all(gateway, Fault(events=number, **ending), case.path)
        response = await gateway.post(case.path, case.body(stream=True))
        got = events_of(sent(gateway.seen[-1]))[:number]
        assert len(got) == number
        check_broken(case, response, got)
    await gateway.settle()
    first, *others = gateway.lines
    assert (first["outcome"], first["code"]) == ("complete", None)
    assert {(line["outcome"], line["code"]) for line in others} == {("failed", "upstream_error")}
    assert all((line["status"] == 200) == (line["ttft_s"] is not None) for line in others)


@pytest.mark.parametrize("case", STREAMING, ids=label)
async def test_stream_broken_at_any_byte_ends_with_one_error_event(case: Case, start: Start, no_ejection: None) -> None:
    gateway = await start(HOUSE)
    events, size = await complete_stream(gateway, case)
    for cut in [*range(0, size, 29), size - 6, size - 5, size - 1]:
        script_all(gateway, Fault(cut=cut), case.path)
        response = await gateway.post(case.path, case.body(stream=True))
        seen = gateway.seen[-1]
        assert len(seen.answer) == cut
        got = events_of(sent(seen)) if b"\r\n\r\n" in seen.answer else []
        if len(got) == len(events):
            # Only the end of the framing is missing, which does not affect the client.
            assert response.content == b"".join(visible(got))
        else:
            check_broken(case, response, got)


@pytest.mark.parametrize("case", STREAMING, ids=label)
async def test_events_that_arrive_together_with_an_error_are_forwarded(
    case: Case, start: Start, no_ejection: None
) -> None:
    """One write has the last valid events, the engine's error and its `[DONE]`."""
    gateway = await start(HOUSE)
    events, _ = await complete_stream(gateway, case)
    bad = b'data: {"error": {"message": "EngineCore encountered an issue"}}\n\ndata: [DONE]\n\n'
    first = next(number for number in range(len(events)) if begun(events[:number]))
    together = chunk(b"".join(events[first : first + 2]) + bad) + chunk(b"")
    script_all(gateway, Fault(events=first, garble=together), case.path)
    response = await gateway.post(case.path, case.body(stream=True))
    got = events_of(sent(gateway.seen[-1]))
    check_broken(case, response, got[: first + 2])


@pytest.mark.parametrize("case", STREAMING, ids=label)
async def test_events_are_forwarded_only_when_complete(case: Case, start: Start) -> None:
    gateway = await start(HOUSE)
    (engine,) = (engine for engine in gateway.engines if engine.model == case.model)
    body = (await gateway.http.post(case.path, json=case.body(stream=True))).content
    raw = engine.requests[-1].answer

    engine.script(Fault(raw=raw, drip=101), path=case.path)
    async with gateway.http.stream("POST", case.path, json=case.body(stream=True)) as response:
        pieces = [piece async for piece in response.aiter_raw()]
    assert b"".join(pieces) == body
    assert len(pieces) > 1
    assert all(piece.endswith(b"\n\n") for piece in pieces)


@pytest.mark.parametrize("how", ["core", "kill"])
@pytest.mark.parametrize("case", TALKING, ids=label)
async def test_an_engine_that_crashes_fails_only_its_own_streams(case: Case, how: Any, start: Start) -> None:
    gateway = await start(TWO)
    for engine in gateway.engines:
        engine.hold()
    running = [asyncio.create_task(gateway.post(case.path, case.body(stream=True))) for _ in range(4)]
    await until(lambda: all(engine.running == 2 for engine in gateway.engines))
    await until(lambda: all(given.body for given in gateway.given), "output of each, so that none is retried")
    gateway.engines[0].die(how)
    gateway.engines[1].go_on()
    for response in await asyncio.gather(*running):
        assert response.status_code == 200
        last = events_of(response.content)[-1]
        if response.headers["x-roundhouse-replica"] == "pebble-chat-0":
            assert broken_off(case, last)
            assert b"[DONE]" not in response.content
        else:
            assert b"error" not in last
    await gateway.settle()
    assert sorted(line["outcome"] for line in gateway.lines) == ["complete"] * 2 + ["failed"] * 2
    for _ in range(3):
        assert (await gateway.post(case.path, case.body())).status_code == 200


async def test_a_draining_engine_loses_no_request(start: Start) -> None:
    gateway = await start(TWO)
    for engine in gateway.engines:
        engine.hold()
    running = [asyncio.create_task(gateway.post(CHAT.path, CHAT.body(stream=True))) for _ in range(4)]
    await until(lambda: all(engine.running == 2 for engine in gateway.engines))
    gateway.engines[0].die("drain")
    running += [asyncio.create_task(gateway.post(CHAT.path, CHAT.body(stream=True))) for _ in range(4)]
    await until(lambda: gateway.engines[1].running == 6)
    for engine in gateway.engines:
        engine.go_on()
    for response in await asyncio.gather(*running):
        assert response.content.endswith(b"data: [DONE]\n\n")


# Disconnects of the client

DISCONNECTS: dict[str, Fault] = {
    "before the headers": Fault(delay=60),
    "before the first token": Fault(gap=60),
    "within the headers": Fault(cut=30, end="hang"),
}


async def send(gateway: RunningGateway, case: Case, stream: bool) -> Any:
    line = await gateway.connect()
    await line.post(case.path, json.dumps(case.body(stream)).encode())
    return line


async def check_cancelled(gateway: RunningGateway) -> None:
    """Checks that the engine's connection is closed, and the request recorded as cancelled."""
    (seen,) = gateway.seen
    await until(seen.closed.is_set)
    assert not seen.sent
    await gateway.settle()
    (line,) = gateway.lines
    assert (line["outcome"], line["status"]) == ("cancelled", 499)
    assert all(engine.running == engine.waiting == 0 for engine in gateway.engines)


@pytest.mark.parametrize("fault", DISCONNECTS.values(), ids=DISCONNECTS.keys())
@pytest.mark.parametrize(("case", "stream"), EXCHANGES, ids=label)
async def test_disconnect_before_the_first_byte_frees_the_engine(
    case: Case, stream: bool, fault: Fault, start: Start
) -> None:
    if fault.gap and case.path not in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"):
        fault = Fault(delay=60)  # count_tokens and embeddings generate no tokens
    gateway = await start(HOUSE)
    script_all(gateway, fault, case.path)
    line = await send(gateway, case, stream)
    await until(lambda: len(gateway.seen) == 1)
    # Counted as one request for the model, and as its sequences for the replica.
    assert gateway.in_flight() == 1 + (2 if case is EMBEDDING else 1)
    line.leave()
    await check_cancelled(gateway)


@pytest.mark.parametrize("case", STREAMING, ids=label)
async def test_disconnect_within_a_stream_frees_the_engine(case: Case, start: Start) -> None:
    gateway = await start(HOUSE)
    events, _ = await complete_stream(gateway, case)
    first = next(number for number in range(len(events)) if begun(events[:number]))
    script_all(gateway, Fault(events=first, end="hang"), case.path)
    line = await send(gateway, case, stream=True)
    await line.read_until(b"\n\n")
    line.leave()
    await until(gateway.seen[-1].closed.is_set)
    await gateway.settle()
    assert [one["outcome"] for one in gateway.lines] == ["complete", "cancelled"]
    assert gateway.lines[-1]["ttft_s"] is not None


async def test_disconnect_within_a_response_that_is_not_streamed_frees_the_engine(start: Start) -> None:
    gateway = await start(ONE)
    gateway.engines[0].script(Fault(cut=400, end="hang"))
    line = await send(gateway, CHAT, stream=False)
    await until(lambda: len(gateway.seen) == 1 and len(gateway.seen[0].answer) == 400)
    line.leave()
    await check_cancelled(gateway)


async def test_a_half_closed_connection_is_a_disconnect(start: Start) -> None:
    gateway = await start(ONE)
    gateway.engines[0].script(Fault(gap=60))
    line = await send(gateway, CHAT, stream=True)
    await until(lambda: len(gateway.seen) == 1)
    line.writer.write_eof()
    await check_cancelled(gateway)
    line.leave()


@pytest.mark.parametrize("part", [b"", b'{"model":'])
async def test_disconnect_within_the_request_body_reaches_no_engine(part: bytes, start: Start) -> None:
    gateway = await start(ONE)
    line = await gateway.connect()
    await line.post(CHAT.path, part, "content-length: 1000")
    await until(lambda: gateway.started == 1)
    line.leave()
    await gateway.settle()
    assert not gateway.seen
    assert [(one["outcome"], one["status"]) for one in gateway.lines] == [("cancelled", 499)]


async def test_disconnect_during_a_retry_frees_the_engine(start: Start) -> None:
    gateway = await start(TWO)
    for engine in gateway.engines:
        engine.script(Fault(cut=0) if engine is gateway.engines[1] else Fault(gap=60))
        engine.script(Fault(gap=60))
    line = await send(gateway, CHAT, stream=True)
    await until(lambda: len(gateway.engines[0].requests) == 1)
    line.leave()
    await until(gateway.engines[0].requests[0].closed.is_set)
    await gateway.settle()
    assert gateway.lines[0]["outcome"] == "cancelled"


async def test_disconnect_after_the_response_is_complete(start: Start) -> None:
    gateway = await start(ONE)
    line = await send(gateway, CHAT, stream=True)
    await line.read_until(b"0\r\n\r\n")
    line.leave()
    await gateway.settle()
    assert gateway.lines[0]["outcome"] == "complete"


async def test_disconnects_at_random_moments_leak_nothing(start: Start) -> None:
    gateway = await start(TWO)
    for engine in gateway.engines:
        engine.gap = 0.02
    rng = random.Random(1)

    async def visit() -> None:
        line = await send(gateway, rng.choice(TALKING), rng.random() < 0.7)
        await asyncio.sleep(rng.random() * 0.2)
        line.leave()

    for _ in range(10):
        await asyncio.gather(*(visit() for _ in range(12)))
    await gateway.settle()
    await until(lambda: all(engine.running == engine.waiting == 0 for engine in gateway.engines))
    assert "cancelled" in {line["outcome"] for line in gateway.lines} <= {"complete", "cancelled"}
    assert (await gateway.post(CHAT.path, CHAT.body())).status_code == 200


# Timeouts and slow clients

TIMEOUTS = {
    "no headers": (True, Fault(delay=60), {"first_token_timeout": 0.1}),
    "no token": (True, Fault(gap=60), {"first_token_timeout": 0.1}),
    "no token in the total time": (True, Fault(gap=60), {"total_timeout": 0.1}),
    "no response": (False, Fault(gap=60), {"total_timeout": 0.1}),
    "half a response": (False, Fault(cut=400, end="hang"), {"idle_timeout": 0.1}),
}


@pytest.mark.parametrize("case", TALKING, ids=label)
@pytest.mark.parametrize(("stream", "fault", "limits"), TIMEOUTS.values(), ids=TIMEOUTS.keys())
async def test_an_engine_without_a_response_in_time_is_a_504(
    stream: bool, fault: Fault, limits: dict[str, float], case: Case, start: Start
) -> None:
    gateway = await start(TWO, **limits)
    for engine in gateway.engines:
        engine.always = fault
    response = await gateway.post_in_vain(case.path, case.body(stream))
    assert is_refusal(case, response, 504, "timeout")
    await until(gateway.seen[0].closed.is_set)
    await gateway.settle()
    assert {line["code"] for line in gateway.lines} == {"timeout"}
    assert max(line["attempts"] for line in gateway.lines) == 1


@pytest.mark.parametrize("limits", [{"idle_timeout": 0.1}, {"total_timeout": 0.3}], ids=str)
@pytest.mark.parametrize("case", STREAMING, ids=label)
async def test_a_stream_that_stalls_ends_with_a_timeout_event(
    case: Case, limits: dict[str, float], start: Start
) -> None:
    gateway = await start(HOUSE)
    events, _ = await complete_stream(gateway, case)
    gateway.limit(**limits)
    first = next(number for number in range(len(events)) if begun(events[:number]))
    got, came = [b""], [b""]
    while len(got) <= len(came):  # the machine may stand still before all that comes has come
        script_all(gateway, Fault(events=first, end="hang"), case.path)
        response = await gateway.post(case.path, case.body(stream=True))
        if response.status_code == 200:
            got, came = events_of(response.content), visible(events_of(sent(gateway.seen[-1])))
    assert got[:-1] == came
    assert broken_off(case, got[-1]) in ("timeout", "timeout_error")
    await until(gateway.seen[-1].closed.is_set)


async def test_a_slow_client_exerts_backpressure_on_the_engine(start: Start) -> None:
    gateway = await start(ONE)
    event = b"data: %b\n\n" % (b"x" * 8000)
    end = b'data: {"choices":[{"delta":{"content":""},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    body = event * 2000 + end  # more than the kernel keeps for a connection
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(body)
    gateway.engines[0].script(Fault(raw=head + body, drip=2**18))
    line = await gateway.connect(buffer=2**14)
    await line.post(CHAT.path, json.dumps(CHAT.body(stream=True)).encode(), "connection: close")
    await until(lambda: len(gateway.seen) == 1)
    (seen,) = gateway.seen
    assert gateway.exchange
    before = -1
    while before != len(seen.answer) or not gateway.exchange._paused:
        before = len(seen.answer)
        await asyncio.sleep(0.2)
    hurry(gateway.exchange, 0.05)
    await asyncio.sleep(0.3)  # the engine is stalled by the client, so its idle timeout must not apply
    hurry(gateway.exchange, 60.0)
    # Most of it is in socket buffers; the gateway buffers little.
    assert len(seen.answer) < len(body) / 2
    assert (await line.answer()).body == body
    line.leave()


# Invalid responses


async def test_an_event_over_the_size_limit_breaks_the_stream(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.protocol.streams.MAX_EVENT_BYTES", 2**16)
    gateway = await start(ONE)
    gateway.engines[0].script(Fault(raw=STREAM + chunk(b"x" * 4096) * 31, end="hang"))
    response = await gateway.post(CHAT.path, CHAT.body(stream=True))
    assert is_refusal(CHAT, response, 502, "upstream_error")


@pytest.mark.parametrize("status", [b"200 OK", b"400 Bad Request"])
async def test_a_response_over_the_size_limit_is_nobodys_fault(status: bytes, start: Start) -> None:
    """It would be as large from another replica, and says nothing about this one."""
    gateway = await start(TWO, max_response_bytes=2**16)
    head = b"HTTP/1.1 %b\r\ncontent-length: 999999\r\n\r\n" % status
    for engine in gateway.engines:
        engine.always = Fault(raw=head + b" " * 2**17, end="hang")
    for _ in range(2 * (breaker.TOLERATED_FAILURES + 1)):
        response = await gateway.post(CHAT.path, CHAT.body())
        assert is_refusal(CHAT, response, 502, "response_too_large")
        assert "longer than 65536 bytes. Ask for less" in response.text
    await gateway.settle()
    assert {line["attempts"] for line in gateway.lines} == {1}
    assert all(replica.breaker.closed for replica in gateway.replicas)


async def test_embeddings_over_the_size_limit_can_be_sent_in_a_shorter_form(start: Start) -> None:
    gateway = await start(HOUSE, max_response_bytes=100)
    response = await gateway.post(EMBEDDING.path, EMBEDDING.body())
    assert is_refusal(EMBEDDING, response, 502, "response_too_large")
    assert "'encoding_format': 'base64'" in response.text


INVALID_USAGE = [
    '{"prompt_tokens":"many"}',
    '{"prompt_tokens":-3,"completion_tokens":1}',
    '{"completion_tokens":1.5}',
    "7",
]


@pytest.mark.parametrize("usage", INVALID_USAGE)
@pytest.mark.parametrize("stream", [False, True], ids=label)
async def test_invalid_usage_is_not_counted(usage: str, stream: bool, start: Start) -> None:
    gateway = await start(ONE)
    choice = '"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]'
    body = f'{{{choice},"usage":{usage}}}'
    if stream:
        body = f'data: {{{choice}}}\n\ndata: {{"choices":[],"usage":{usage}}}\n\ndata: [DONE]\n\n'
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n"
    gateway.engines[0].script(Fault(raw=(head + body).encode()))
    assert (await gateway.post(CHAT.path, CHAT.body(stream))).status_code in (200, 502)
    await gateway.settle()
    assert gateway.lines[0]["prompt_tokens"] == 0
    assert gateway.lines[0]["completion_tokens"] in (0, 1)
