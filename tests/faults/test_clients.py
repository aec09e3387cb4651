"""Clients that read slowly, ask several things at once, or send what takes long to read."""

import asyncio
import json

import psutil
import pytest

from tests.conftest import Start
from tests.fake_engine import Fault
from tests.support.exchanges import CHAT, label
from tests.support.gateways import ONE, TWO, answer_of
from tests.support.waiting import until

STOP = b'data: {"choices":[{"delta":{"content":""},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
EVENT = b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % (b"x" * 8000)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"
SLOW = 50
BUFFERED = 2 * 2**20  # bytes that one client may cost the gateway, in its own memory


def long(events: int) -> Fault:
    body = EVENT * events + STOP
    return Fault(raw=HEAD % len(body) + body, drip=2**16)


async def test_fifty_slow_readers_cost_little_memory_and_hold_nobody_up(start: Start) -> None:
    gateway = await start(TWO)
    fault = long(500)  # four megabytes for each of them
    assert fault.raw
    for engine in gateway.engines:
        engine.script(*[fault] * SLOW)
    before = psutil.Process().memory_info().rss
    lines = [await gateway.connect(buffer=2**12) for _ in range(SLOW)]
    for line in lines:
        await line.post(CHAT.path, json.dumps(CHAT.body(stream=True)).encode())
    await until(lambda: len(gateway.seen) == SLOW)
    written = -1
    while written != (now := sum(len(seen.answer) for seen in gateway.seen)):  # until everything is stuck
        written = now
        await asyncio.sleep(0.3)
    stuck = gateway.seen
    assert not any(seen.sent for seen in stuck)
    held = psutil.Process().memory_info().rss - before - written - sum(len(one.sent) for one in gateway.given)
    assert held < SLOW * BUFFERED
    for engine in gateway.engines:
        engine.forgive()
    for stream in (False, True):
        assert (await gateway.post(CHAT.path, CHAT.body(stream))).status_code == 200
    for line in lines:
        line.leave()
    await asyncio.gather(*(seen.closed.wait() for seen in stuck))


@pytest.mark.parametrize("key", [(), ("idempotency-key: k",)], ids=["plain", "keyed"])
async def test_a_client_that_takes_nothing_frees_its_engine(key: tuple[str, ...], start: Start) -> None:
    gateway = await start(ONE, client_write_timeout=0.3)
    gateway.engines[0].script(long(2000))
    line = await gateway.connect(buffer=2**12)
    await line.post(CHAT.path, json.dumps(CHAT.body(stream=True)).encode(), *key)
    await until(lambda: len(gateway.seen) == 1)
    async with asyncio.timeout(30):
        await gateway.seen[0].closed.wait()
    assert not gateway.seen[0].sent
    await until(lambda: gateway.in_flight() == 0)
    with pytest.raises(ConnectionResetError):  # a plain end could be taken for that of the answer
        await line.rest()


@pytest.mark.parametrize("stream", [False, True], ids=label)
async def test_requests_that_come_together_are_answered_in_turn(stream: bool, start: Start) -> None:
    gateway = await start(ONE)
    line = await gateway.connect()
    bodies = [json.dumps(CHAT.body(stream) | {"max_tokens": number}).encode() for number in (1, 2, 3)]
    rows = b"POST %b HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n%b"
    path = CHAT.path.encode()
    close = [b"", b"", b"connection: close\r\n"]
    await line.send(b"".join(rows % (path, more, len(body), body) for body, more in zip(bodies, close, strict=True)))
    answers = (await line.rest()).split(b"HTTP/1.1 ")[1:]
    assert [answer_of(b"HTTP/1.1 " + one).status for one in answers] == [200] * 3
    assert [seen.json["max_tokens"] for seen in gateway.seen] == [1, 2, 3]


async def test_a_client_that_leaves_takes_what_it_sent_ahead_along(start: Start) -> None:
    gateway = await start(ONE)
    gateway.engines[0].script(Fault(gap=3600))
    line = await gateway.connect()
    for _ in range(3):
        await line.post(CHAT.path, json.dumps(CHAT.body()).encode())
    await until(lambda: len(gateway.seen) == 1)
    line.leave()
    await gateway.seen[0].closed.wait()


LARGE = {
    "messages": [{"role": "user", "content": f"{number} " + "x" * 4000} for number in range(1000)],
    "tools": [
        {"type": "function", "function": {"name": f"f{number}", "description": "x" * 60_000}} for number in range(64)
    ],
    "response_format": {f"field {number}": {"type": "string", "title": "x" * 250} for number in range(13_000)},
}


@pytest.mark.parametrize("field", LARGE)
async def test_a_large_request_does_not_stop_the_others(field: str, start: Start) -> None:
    """While it comes, another stream goes on. How long reading it may hold that one up is for `bench/large` to say."""
    gateway = await start(ONE + "\nrequest_bounds: {schema_bytes: 4194304}")
    gateway.engines[0].script(Fault(gap=0.002), Fault(raw=HEAD % len(STOP) + STOP))
    other = await gateway.connect()
    long = CHAT.body(stream=True) | {"messages": [{"role": "user", "content": "a " * 200}], "max_tokens": 300}
    await other.post(CHAT.path, json.dumps(long).encode(), "connection: close")
    large = json.dumps(CHAT.body(stream=True) | {field: LARGE[field]}).encode()
    assert 3 * 2**20 < len(large) < 4 * 2**20
    head = f"POST {CHAT.path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\nconnection: close\r\n"
    asked = await gateway.connect()
    await asked.send(f"{head}content-length: {len(large)}\r\n\r\n".encode())
    piece = -(-len(large) // 32)
    for begin in range(0, len(large), piece):
        await other.read_until(b"data: ")
        await asked.send(large[begin : begin + piece])
    assert (await asked.answer()).status == 200
    assert [json.loads(seen.body)[field] for seen in gateway.seen if len(seen.body) >= len(large)] == [LARGE[field]]
    assert (await other.rest()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
