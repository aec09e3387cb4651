"""What the gateway does of itself while it runs."""

import json
import math
import os
import re
from pathlib import Path

import pytest

from service.config.settings import Settings
from service.gateway import app
from service.observability import log_writer
from service.transport import pool
from tests.conftest import Start
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
    monkeypatch.setattr(app, "STANDARD_OUTPUT", log)
    gateway = app.Gateway(Settings(run_dir=tmp_path), fleets.CATALOG, fleets.load(tmp_path, ONE))
    async with gateway.background_tasks():
        for number in range(100):
            gateway.log_reload([str(number)])
    os.close(log)
    lines = (tmp_path / "log").read_text().splitlines()
    assert [json.loads(line)["problems"] for line in lines] == [[str(number)] for number in range(100)]
