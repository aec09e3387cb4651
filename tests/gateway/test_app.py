"""What the gateway does of itself while it runs, and which of its settings its connections have."""

import json
import select

import pytest

from service.config.settings import Settings
from service.gateway import app
from service.transport import pool
from tests.conftest import Start
from tests.fake_engine import Fault
from tests.support.exchanges import CHAT
from tests.support.gateways import ONE
from tests.support.waiting import until


async def test_connections_that_nobody_uses_are_closed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = await start()
    assert (await gateway.post(CHAT.path, CHAT.body())).status_code == 200
    assert gateway.engines[0].connections > 0
    monkeypatch.setattr(app, "TICK", 0.01)
    monkeypatch.setattr(pool, "IDLE_TIMEOUT", 0.0)
    await until(lambda: gateway.engines[0].connections == 0, "the end of idle connections")


async def test_idle_client_connections_are_closed_after_the_setting(start: Start) -> None:
    gateway = await start(ONE, keep_alive_timeout=0.05)
    line = await gateway.connect()
    await line.send(b"GET /v1/models HTTP/1.1\r\nhost: test\r\n\r\n")
    assert (await line.rest()).startswith(b"HTTP/1.1 200 ")
    assert Settings().keep_alive_timeout == 75


LARGE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


async def test_a_client_that_reads_nothing_of_a_whole_response_is_disconnected_after_the_setting(start: Start) -> None:
    gateway = await start(ONE, client_write_timeout=0.3)
    message = {"role": "assistant", "content": "x" * 2**22}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    body = json.dumps({"id": "x", "object": "chat.completion", "choices": choices, "usage": usage}).encode()
    gateway.engines[0].script(Fault(raw=LARGE % (len(body), body)))
    line = await gateway.connect(buffer=2**12)
    line.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await line.post(CHAT.path, json.dumps(CHAT.body()).encode())
    await until(lambda: len(gateway.lines) == 1, "the end of the request")
    assert gateway.lines[0]["outcome"] == "complete"
    poll = select.poll()
    poll.register(line.writer.get_extra_info("socket").fileno(), 0)  # errors alone: nothing is read
    await until(lambda: bool(poll.poll(0)), "the reset of the connection")
    line.leave()


async def test_a_stream_to_http_1_0_is_sent_as_it_is(start: Start) -> None:
    gateway = await start(ONE)
    line = await gateway.connect()
    body = json.dumps(CHAT.body(stream=True)).encode()
    head = f"POST {CHAT.path} HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    await line.send(head.encode() + body)
    answer, _, events = (await line.rest()).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in answer and b"connection: close" in answer
    assert events.startswith(b"data: {") and events.endswith(b"data: [DONE]\n\n")
    assert events == gateway.given[0].body
