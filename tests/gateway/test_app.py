"""What the gateway does of itself while it runs, and which of its settings its connections have."""

import json
import math
import os
import re
import select
from pathlib import Path

import pytest

from service.config.settings import Settings
from service.gateway import app
from service.observability import log as logs
from service.observability import log_writer
from service.transport import pool
from tests.conftest import Start
from tests.fake_engine import Fault
from tests.support import fleets
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
    answer = b""
    while not answer:  # a new connection is as idle, until its request has come
        line = await gateway.connect()
        await line.send(b"GET /v1/models HTTP/1.1\r\nhost: test\r\n\r\n")
        answer = await line.rest()
    assert answer.startswith(b"HTTP/1.1 200 ")
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


async def test_responses_kept_for_a_replay_are_forgotten_in_time(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = await start()
    await gateway.http.post(CHAT.path, json=CHAT.body(), headers={"idempotency-key": "a"})
    size = "roundhouse_idempotency_cache_bytes"
    assert gateway.sample(size) > 0
    monkeypatch.setattr(app, "TICK", 0.01)
    monkeypatch.setattr(gateway.gateway._relay._idempotency, "_clock", lambda: math.inf)
    await until(lambda: gateway.sample(size) == 0, "the end of what is kept")


async def test_the_metrics_show_no_gauges_of_a_model_that_a_reload_removed(
    start: Start, tmp_path_factory: pytest.TempPathFactory
) -> None:
    gateway = await start("models: [{model: pebble-chat}, {model: pebble-base}]")
    await gateway.post(CHAT.path, CHAT.body())
    before = (await gateway.http.get("/metrics")).text
    gateway.gateway.apply(fleets.load(tmp_path_factory.mktemp("next"), "models: [{model: pebble-base}]"))
    after = (await gateway.http.get("/metrics")).text
    for page, models in ((before, {"pebble-chat", "pebble-base"}), (after, {"pebble-base"})):
        for name in ("replicas", "demand", "requests_in_flight", "requests_queued"):
            assert set(re.findall(rf'^roundhouse_{name}{{model="([^"]+)"', page, re.MULTILINE)) == models
        assert 'roundhouse_requests_total{endpoint="/v1/chat/completions",model="pebble-chat"' in page


async def test_all_lines_of_the_log_are_written_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "BATCH_INTERVAL", 3600.0)
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    monkeypatch.setattr(logs, "STANDARD_OUTPUT", log)
    gateway = app.Gateway(Settings(run_dir=tmp_path), fleets.CATALOG, fleets.load(tmp_path, ONE))
    async with gateway.background_tasks():
        for number in range(100):
            gateway.log_reload([str(number)])
    os.close(log)
    lines = (tmp_path / "log").read_text().splitlines()
    assert [json.loads(line)["problems"] for line in lines] == [[str(number)] for number in range(100)]
