"""The metrics of the fleet's state are those of what runs, also before the first request."""

from dataclasses import replace

import pytest

from tests.conftest import Start
from tests.support.exchanges import CHAT
from tests.support.gateways import TWO

PRICED = """
models: [{model: pebble-chat, gpus: 2, gpu_hour_price: 3600}, {model: pebble-base, min_replicas: 0}]
tenants: {crawler: {}}
gpu_hour_price: 7
"""


async def test_a_model_without_a_replica_has_demand(start: Start) -> None:
    gateway = await start(PRICED)
    gateway.show(1, "scaled_to_zero")
    gateway.gateway.update_gauges()
    assert gateway.sample("roundhouse_demand", model="pebble-base") == 0
    assert gateway.sample("roundhouse_concurrency_limit", model="pebble-base") == 0
    assert gateway.sample("roundhouse_concurrency_limit", model="pebble-chat") == 256


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


async def test_engines_have_their_restarts_start_phases_and_load(start: Start) -> None:
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
