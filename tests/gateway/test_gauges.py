"""The metrics of the fleet's state are those of what runs, also before the first request."""

import asyncio
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from service.upstreams import breaker
from tests.conftest import Start
from tests.fake_engine import Fault
from tests.support import fleets
from tests.support.exchanges import CHAT
from tests.support.gateways import TWO
from tests.support.waiting import until

PRICED = """
models: [{model: pebble-chat, gpus: 2, gpu_hour_price: 3600}, {model: pebble-base, min_replicas: 0}]
tenants: {crawler: {}}
gpu_hour_price: 7
"""
FULL = """
models: [{model: pebble-chat, max_in_flight: 1, max_queued: 0}]
tenants: {crawler: {requests_per_minute: 1}}
"""


async def test_a_model_without_a_replica_has_demand(start: Start) -> None:
    gateway = await start(PRICED)
    gateway.show(1, "scaled_to_zero")
    gateway.gateway.update_gauges()
    assert gateway.sample("roundhouse_demand", model="pebble-base") == 0
    assert gateway.sample("roundhouse_concurrency_limit", model="pebble-base") == 0
    assert gateway.sample("roundhouse_concurrency_limit", model="pebble-chat") == 256


async def test_requests_count_when_they_arrive_unless_a_tenant_had_too_many(start: Start) -> None:
    gateway = await start(FULL)
    crawler = {"x-roundhouse-tenant": "crawler"}
    statuses = [(await gateway.http.post(CHAT.path, json=CHAT.body(), headers=crawler)).status_code for _ in range(2)]
    gateway.engines[0].script(Fault(delay=600))
    running = asyncio.create_task(gateway.http.post(CHAT.path, json=CHAT.body()))
    await until(lambda: gateway.gateway.admission.demand("pebble-chat") == 1, "the request that fills the model")
    statuses.append((await gateway.http.post(CHAT.path, json=CHAT.body())).status_code)
    assert statuses == [200, 429, 503]
    gateway.gateway.update_gauges()
    assert gateway.sample("roundhouse_requests_arrived_total", model="pebble-chat") == 3
    (upstream,) = gateway.gateway.upstreams
    upstream.arrival_count = 1  # the model was removed from the fleet, and has come back
    gateway.gateway.update_gauges()
    assert gateway.sample("roundhouse_requests_arrived_total", model="pebble-chat") == 4
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_gpu_time_is_busy_idle_and_a_tenants(start: Start) -> None:
    gateway = await start(PRICED)
    gateway.gateway.update_gauges()
    headers = {"x-roundhouse-tenant": "crawler"}
    assert (await gateway.http.post(CHAT.path, json=CHAT.body(), headers=headers)).status_code == 200
    gateway.gateway.update_gauges()
    busy = gateway.sample("roundhouse_gpu_seconds_total", model="pebble-chat", use="busy")
    assert busy > 0
    assert gateway.sample("roundhouse_gpu_seconds_total", model="pebble-chat", use="idle") > 0
    assert gateway.sample("roundhouse_tenant_gpu_seconds_total", tenant="crawler") == pytest.approx(busy)
    assert gateway.sample("roundhouse_cost_total", model="pebble-chat", use="busy") == pytest.approx(busy)
    assert gateway.sample("roundhouse_tenant_cost_total", tenant="crawler") == pytest.approx(busy)
    assert gateway.sample("roundhouse_gpu_seconds_total", model="pebble-base", use="idle") == 0


async def test_engines_have_their_restarts_start_phases_and_load(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "BASE_EJECTION", 3600.0)
    gateway = await start(TWO)
    first, second = gateway.replicas
    assert first.state
    first.state = replace(first.state, restarts=2, start_phases={"loading weights": 4.5, "again without x": 1.0})
    for _ in range(3):
        gateway.gateway.upstreams.record_failure(second, refused=True)
    gateway.gateway.update_gauges()
    replica = {"model": "pebble-chat", "replica": "pebble-chat-0"}
    assert gateway.sample("roundhouse_engine_restarts", **replica) == 2
    assert gateway.sample("roundhouse_engine_start_seconds", **replica, phase="loading weights") == 4.5
    assert gateway.sample("roundhouse_engine_start_seconds", **replica, phase="other") == 1
    assert gateway.sample("roundhouse_engine_kv_cache_usage_ratio", **replica) >= 0
    assert gateway.sample("roundhouse_replicas_ejected", model="pebble-chat") == 1
    assert gateway.sample("roundhouse_ejections_total", model="pebble-chat") >= 1


async def test_a_replica_that_is_gone_leaves_no_series(start: Start) -> None:
    gateway = await start(TWO)
    gateway.gateway.update_gauges()
    (upstream,) = gateway.gateway.upstreams
    gone = upstream.replicas.pop()
    gateway.gateway.update_gauges()
    assert gone.id not in gateway.gateway.render_metrics().decode()
    assert "pebble-chat-0" in gateway.gateway.render_metrics().decode()


@pytest.mark.usefixtures("within_a_day")
async def test_the_used_part_of_each_budget_is_shown_and_no_other(start: Start, tmp_path: Path) -> None:
    gateway = await start("""
models: [{model: pebble-chat}]
tenants: {small: {requests_per_day: 4, tokens_per_minute: 100000}, unlimited: {max_in_flight: 3}}
""")
    shown = partial(gateway.sample, "roundhouse_tenant_budget_used_ratio", tenant="small")
    gateway.gateway.update_gauges()
    assert (shown(budget="requests_per_day"), shown(budget="tokens_per_minute")) == (0, 0)
    for used in (0.25, 0.5, 0.75, 1, 1):
        answer = await gateway.http.post(CHAT.path, json=CHAT.body(), headers={"x-roundhouse-tenant": "small"})
        gateway.gateway.update_gauges()
        assert shown(budget="requests_per_day") == used
    assert answer.status_code == 429
    assert 0 <= shown(budget="tokens_per_minute") < 1
    page = (await gateway.http.get("/metrics")).text
    assert page.count("\nroundhouse_tenant_budget_used_ratio{") == 2
    less = "models: [{model: pebble-chat}]\ntenants: {small: {tokens_per_minute: 5}}"
    gateway.gateway.apply(fleets.load(tmp_path, less))
    gateway.gateway.update_gauges()
    assert (await gateway.http.get("/metrics")).text.count("\nroundhouse_tenant_budget_used_ratio{") == 1


def odd_answer(status: int) -> Fault:
    """It says that its connection ends: otherwise the next request could still be sent on that, and would be lost."""
    return Fault(raw=b"HTTP/1.1 %d Odd\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}" % status)


def series_of(page: str) -> set[str]:
    return {line.rpartition(" ")[0] for line in page.splitlines() if not line.startswith("#")}


async def test_what_clients_make_up_adds_no_series(start: Start) -> None:
    gateway = await start("models: [{model: pebble-chat}]\ntenants: {acme: {}}")
    line = await gateway.connect()

    async def ask(number: int, *kinds: str) -> None:
        """Sends a request of each kind with words that no other has, without waiting for answers in between."""
        word = f"made-up-{number}"
        body = {kind: json.dumps(CHAT.body() | {kind: word}).encode() for kind in ("model", "user", word)}
        own = (f"user-agent: {word}", f"x-request-id: {word}", f"x-{word}: {word}", f"authorization: Bearer {word}")
        for kind in kinds:
            match kind:
                case "model" | "user":
                    await line.post(CHAT.path, body[kind], *own)
                case "field":
                    await line.post(CHAT.path, body[word], *own)
                case "tenant":
                    await line.post(CHAT.path, body["user"], f"x-roundhouse-tenant: {word}", *own)
                case "path":
                    await line.post(f"/v1/{word}", b"{}", *own)
                case "page":
                    await line.send(
                        f"GET /metrics/engines/{word}?{word}={word} HTTP/1.1\r\nhost: {word}\r\n\r\n".encode()
                    )
        for _ in kinds:
            head = await line.read_until(b"\r\n\r\n")
            await line.reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))

    refused = "model", "field", "tenant", "path", "page"
    await ask(0, *refused, "user")
    gateway.engines[0].script(odd_answer(499))
    await ask(0, "user")
    await gateway.http.get("/metrics")
    before = series_of((await gateway.http.get("/metrics")).text)
    for number in range(1, 60):
        await ask(number, *refused)
    for status in range(450, 470):
        gateway.engines[0].script(odd_answer(status))
        await ask(status, "user")
    for number in range(10):
        odd = await gateway.connect()
        await odd.send(f"MADEUP{number} / HTTP/1.1\r\nhost: test\r\n\r\n".encode())
        await odd.rest()
    added = series_of((await gateway.http.get("/metrics")).text) - before
    assert not added - {'roundhouse_invalid_requests_total{code="invalid_http"}'}
    assert len(gateway.lines) > 300
