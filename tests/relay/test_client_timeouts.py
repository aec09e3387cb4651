"""Deadlines that a client sets for itself: they end its request, and say nothing about the replica."""

import asyncio
import json
import time
from typing import Any

import pytest

from service.auth.keys import Caller
from service.auth.tenants import Tenant
from service.observability.record import Record
from service.protocol.generation import GENERATION
from service.protocol.parse_body import parse_body
from service.protocol.request_headers import RequestOptions
from service.relay.dispatch import Dispatcher
from service.transport.pool import DeadlineError, TransportError
from service.upstreams.breaker import TOLERATED_FAILURES
from tests.conftest import Start
from tests.fake_engine import Fault
from tests.support.exchanges import CHAT, EXCHANGES, Case, events_of, is_refusal, label
from tests.support.gateways import HOUSE, TWO, RunningGateway
from tests.support.waiting import until

SHORT = {"x-roundhouse-timeout": "0.1"}
SLOW = Fault(gap=60.0)  # answers at once that it will, and says its first word after a minute


async def time_out(gateway: RunningGateway, stream: bool, headers: dict[str, str], fault: Fault = SLOW) -> None:
    """So many requests fail for lack of time that each of two replicas would be ejected; the last one is spared."""
    for engine in gateway.engines:
        engine.always = fault
    gateway.expected_unseen = None  # on a busy machine the time may be over before an engine has read the request
    for _ in range(2 * (TOLERATED_FAILURES + 1)):
        response = await gateway.http.post(CHAT.path, json=CHAT.body(stream), headers=headers)
        assert is_refusal(CHAT, response, 504, "timeout")


async def until_ejected(gateway: RunningGateway, stream: bool, headers: dict[str, str]) -> None:
    """Requests fail for lack of time until a replica is ejected; a busy machine lets some end before they get there."""

    async def ejected() -> bool:
        await time_out(gateway, stream, headers)
        return not all(replica.breaker.closed for replica in gateway.replicas)

    await until(ejected, "an ejection")


@pytest.mark.parametrize("fault", [SLOW, Fault(delay=60.0)], ids=["no first word", "no status"])
@pytest.mark.parametrize("stream", [False, True], ids=label)
async def test_a_replica_too_slow_for_its_client_alone_stays_in_use(stream: bool, fault: Fault, start: Start) -> None:
    gateway = await start(TWO)
    while not all(engine.requests for engine in gateway.engines):
        await time_out(gateway, stream, SHORT, fault)
    assert all(replica.breaker.closed for replica in gateway.replicas)


@pytest.mark.parametrize("stream", [False, True], ids=label)
async def test_a_replica_too_slow_for_the_fleet_is_ejected(stream: bool, start: Start) -> None:
    gateway = await start(TWO, total_timeout=0.1)
    await until_ejected(gateway, stream, {})


@pytest.mark.parametrize("seconds", ["60", "100000"])
async def test_a_long_timeout_of_a_client_excuses_no_replica(seconds: str, start: Start) -> None:
    gateway = await start(TWO, first_token_timeout=0.1)
    await until_ejected(gateway, True, {"x-roundhouse-timeout": seconds})


async def test_a_timeout_longer_than_the_services_is_not_the_clients(start: Start) -> None:
    gateway = await start(TWO, total_timeout=0.1)
    await until_ejected(gateway, False, {"x-roundhouse-timeout": "100000"})


async def test_a_tenant_in_a_hurry_cannot_empty_an_upstream(start: Start) -> None:
    gateway = await start(f"{TWO}\ntenants: {{hasty: {{}}, patient: {{}}}}")
    hasty = {"x-roundhouse-tenant": "hasty", "x-roundhouse-timeout": "0.3"}
    await time_out(gateway, True, hasty)
    for engine in gateway.engines:
        engine.always = Fault()
    response = await gateway.http.post(CHAT.path, json=CHAT.body(), headers={"x-roundhouse-tenant": "patient"})
    assert response.status_code == 200
    assert all(replica.breaker.closed and not replica.breaker.failures for replica in gateway.replicas)


async def test_a_connection_slower_than_its_client_can_wait(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = await start(TWO)

    async def slow(loop: Any, address: str, protocol: Any, connect_timeout: float) -> None:
        await asyncio.sleep(connect_timeout)
        raise TransportError("no connection")

    monkeypatch.setattr("service.transport.exchange.dial", slow)
    for _ in range(2 * (TOLERATED_FAILURES + 1)):
        response = await gateway.http.post(CHAT.path, json=CHAT.body(), headers=SHORT)
        assert response.status_code in (502, 504)
    assert all(replica.breaker.closed for replica in gateway.replicas)
    gateway.expected_unseen = None


async def test_a_timer_that_fires_a_moment_early_is_still_the_clients(start: Start) -> None:
    """The check of an exchange's deadlines ends up to a millisecond before them."""
    gateway = await start(TWO)
    relay = gateway.gateway._relay
    body, record = json.dumps(CHAT.body()).encode(), Record("id", CHAT.path, started=time.monotonic())
    parsed = parse_body(GENERATION[0].body, body)
    options, caller = RequestOptions(timeout=0.3), Caller(Tenant("default"))
    call = relay.preparation.call(GENERATION[0], body, parsed, options, caller, record)
    call.deadline = time.monotonic() + 0.001
    dispatcher = Dispatcher(gateway.gateway.upstreams, gateway.gateway.admission, gateway.gateway.transport, 2**20,
                            lambda: call.deadline - 0.0009)  # fmt: skip
    replica = gateway.replicas[0]
    for _ in range(TOLERATED_FAILURES + 1):
        await dispatcher._record_failure(call, replica, 0, DeadlineError("no byte for 0.3 s"))
    assert replica.breaker.closed


@pytest.mark.parametrize(("case", "stream"), EXCHANGES, ids=label)
async def test_every_request_has_its_end_in_the_total_time(case: Case, stream: bool, start: Start) -> None:
    """Whatever an engine is busy with, an answer that would never end included: nothing else bounds that one."""
    gateway = await start(HOUSE, total_timeout=0.5)
    for engine in gateway.engines:
        engine.script(Fault() if stream else Fault(delay=60.0), path=case.path)
        engine.hold()  # so the first word is in time, and is all
    response = await gateway.http.post(case.path, json=case.body(stream))
    while stream and response.status_code == 504:  # the machine stood still before the first word
        response = await gateway.http.post(case.path, json=case.body(stream))
    if stream:
        assert response.status_code == 200
        assert b"timeout" in events_of(response.content)[-1]
    else:
        assert is_refusal(case, response, 504, "timeout")
    assert {line["code"] for line in gateway.lines} == {"timeout"}
