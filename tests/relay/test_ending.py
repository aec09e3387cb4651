"""What becomes of requests when engines crash, when the service ends, and when the fleet changes under them."""

import asyncio
import json

import pytest

from service.transport.pool import ConnectionPool, RefusedError
from service.upstreams import breaker
from tests.conftest import Start
from tests.fake_engine import Fault
from tests.support import fleets
from tests.support.exchanges import CHAT, STREAMING, Case, broken_off, events_of, is_refusal, label
from tests.support.gateways import HOUSE, ONE, TWO
from tests.support.waiting import until

DEADLY = Fault(events=3, dead=True)
POISON = CHAT.body(stream=True) | {"messages": [{"role": "user", "content": "poison is in here"}]}


# Poison


async def test_a_request_that_was_in_flight_at_two_crashes_is_refused(start: Start) -> None:
    gateway = await start("models: [{model: pebble-chat, min_replicas: 3, policy: least_load}]")
    for engine in gateway.engines:
        engine.script(DEADLY, DEADLY)
    for _ in range(2):
        response = await gateway.post(CHAT.path, POISON)
        assert response.status_code == 200
        assert broken_off(CHAT, events_of(response.content)[-1]) == "upstream_error"
        replica = next(one for one in gateway.replicas if one.id == gateway.lines[-1]["replica"])
        gateway.show(gateway.replicas.index(replica), "failed")
    response = await gateway.post(CHAT.path, POISON)
    assert is_refusal(CHAT, response, 422, "request_quarantined")
    assert len(gateway.seen) == 2
    for engine in gateway.engines:
        engine.forgive()
    assert (await gateway.post(CHAT.path, CHAT.body())).status_code == 200


async def test_one_that_was_answered_since_is_no_poison(start: Start) -> None:
    gateway = await start(ONE)
    engine = gateway.engines[0]
    for fault in (DEADLY, Fault(), DEADLY, Fault()):
        engine.script(fault)
        assert (await gateway.post(CHAT.path, POISON)).status_code == 200
    assert len(gateway.seen) == 4


async def test_a_connection_that_breaks_is_no_crash(start: Start) -> None:
    gateway = await start(TWO)
    for engine in gateway.engines:
        engine.script(*[Fault(cut=0)] * 2)
    for _ in range(2):
        assert (await gateway.post(CHAT.path, POISON)).status_code == 502
    assert (await gateway.post(CHAT.path, POISON)).status_code == 200


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_dead_engine_is_ejected_at_once(stream: bool, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its API server lives on for seconds, and would answer every request with an error."""
    monkeypatch.setattr(breaker, "BASE_EJECTION", 3600.0)
    gateway = await start(TWO)
    for engine in gateway.engines:
        engine.script(DEADLY)
    await gateway.post(CHAT.path, CHAT.body(stream))
    tried = [replica for replica, engine in zip(gateway.replicas, gateway.engines, strict=True) if engine.requests]
    assert len(tried) == (1 if stream else 2)  # without output it is retried
    assert not any(replica.usable(gateway.clock()) for replica in tried)


async def test_a_request_past_its_deadline_reaches_no_engine(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connect without time left would fail, and count as a failure of the replica."""
    gateway = await start(TWO)

    async def slowly_refused(*_: object) -> None:
        await asyncio.sleep(0.1)
        raise RefusedError("no connection")

    monkeypatch.setattr(ConnectionPool, "send", slowly_refused)
    while all(replica.breaker.closed for replica in gateway.replicas):  # its time may be over before it is sent at all
        response = await gateway.http.post(CHAT.path, json=CHAT.body(), headers={"x-roundhouse-timeout": "0.05"})
        assert is_refusal(CHAT, response, 504, "timeout")
    assert sum(replica.breaker.closed for replica in gateway.replicas) == 1
    gateway.expected_unseen = None


# Shutdown


@pytest.mark.parametrize("case", STREAMING, ids=label)
async def test_shutdown_ends_running_streams_with_an_error_event(case: Case, start: Start) -> None:
    gateway = await start(HOUSE)
    (engine,) = (engine for engine in gateway.engines if engine.model == case.model)
    engine.always = Fault(events=6, end="hang")
    line = await gateway.connect()
    await line.post(case.path, json.dumps(case.body(stream=True)).encode(), "connection: close")
    await line.read_until(b"data: ")
    gateway.gateway.abort_requests()
    answer = await line.rest()
    assert b"The service" in answer
    assert b"[DONE]" not in answer
    await until(lambda: gateway.in_flight() == 0)


async def test_shutdown_answers_running_requests_with_503(start: Start) -> None:
    gateway = await start(ONE)
    gateway.engines[0].script(Fault(gap=3600))
    request = asyncio.create_task(gateway.post(CHAT.path, CHAT.body()))
    await until(lambda: len(gateway.seen) == 1)
    gateway.gateway.abort_requests()
    assert is_refusal(CHAT, await request, 503, "shutting_down")
    await until(gateway.seen[0].closed.is_set)


async def test_a_draining_gateway_is_not_ready_and_closes_connections(start: Start) -> None:
    gateway = await start(ONE)
    assert gateway.gateway.is_ready()
    gateway.gateway.start_draining()
    assert not gateway.gateway.is_ready()
    for body in (CHAT.body(), CHAT.body(stream=True), {"model": "x"}):
        response = await gateway.post(CHAT.path, body)
        assert response.headers["connection"] == "close"
        assert response.status_code in (200, 400)


# Reload


async def test_a_model_removed_by_a_reload_finishes_its_requests(
    start: Start, tmp_path_factory: pytest.TempPathFactory
) -> None:
    gateway = await start("models: [{model: pebble-chat}, {model: pebble-instruct}]")
    gateway.engines[0].hold()
    line = await gateway.connect()
    await line.post(CHAT.path, json.dumps(CHAT.body(stream=True)).encode(), "connection: close")
    await line.read_until(b"data: ")
    folder = tmp_path_factory.mktemp("next")
    gateway.gateway.apply(fleets.load(folder, "models: [{model: pebble-instruct}]\naliases: {tiny: pebble-instruct}"))
    assert is_refusal(CHAT, await gateway.post(CHAT.path, CHAT.body()), 404, "model_not_found")
    assert (await gateway.post(CHAT.path, CHAT.body() | {"model": "tiny"})).status_code == 200
    assert [row["id"] for row in (await gateway.http.get("/v1/models")).json()["data"]] == ["pebble-instruct", "tiny"]
    gateway.engines[0].go_on()
    assert b"[DONE]" in await line.rest()


async def test_limits_of_a_reload_apply_at_once(start: Start, tmp_path_factory: pytest.TempPathFactory) -> None:
    gateway = await start("models: [{model: pebble-chat, max_in_flight: 1, max_queued: 0}]")
    gateway.engines[0].script(Fault(gap=3600))
    line = await gateway.connect()
    await line.post(CHAT.path, json.dumps(CHAT.body()).encode())
    await until(lambda: len(gateway.seen) == 1)
    assert (await gateway.post(CHAT.path, CHAT.body())).status_code == 503
    folder = tmp_path_factory.mktemp("next")
    gateway.gateway.apply(fleets.load(folder, "models: [{model: pebble-chat, max_in_flight: 2}]"))
    assert (await gateway.post(CHAT.path, CHAT.body())).status_code == 200
    line.leave()
