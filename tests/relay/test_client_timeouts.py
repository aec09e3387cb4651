"""Deadlines that a client sets for itself: they end its request, and say nothing about the replica."""

import pytest

from service.upstreams.breaker import TOLERATED_FAILURES
from tests.conftest import Start
from tests.fake_engine import Fault
from tests.support.exchanges import CHAT, is_refusal, label
from tests.support.gateways import TWO, RunningGateway

SHORT = {"x-roundhouse-timeout": "0.1"}
SLOW = Fault(gap=60.0)  # answers at once that it will, and says its first word after a minute


async def time_out(gateway: RunningGateway, stream: bool, headers: dict[str, str]) -> None:
    """So many requests fail for lack of time that each of two replicas would be ejected; the last one is spared."""
    for engine in gateway.engines:
        engine.always = SLOW
    gateway.expected_unseen = None  # on a busy machine the time may be over before an engine has read the request
    for _ in range(2 * (TOLERATED_FAILURES + 1)):
        response = await gateway.http.post(CHAT.path, json=CHAT.body(stream), headers=headers)
        assert is_refusal(CHAT, response, 504, "timeout")


@pytest.mark.parametrize("stream", [False, True], ids=label)
async def test_a_replica_too_slow_for_its_client_alone_stays_in_use(stream: bool, start: Start) -> None:
    gateway = await start(TWO)
    await time_out(gateway, stream, SHORT)
    assert all(replica.breaker.closed for replica in gateway.replicas)
    assert all(engine.requests for engine in gateway.engines)


@pytest.mark.parametrize("stream", [False, True], ids=label)
async def test_a_replica_too_slow_for_the_fleet_is_ejected(stream: bool, start: Start) -> None:
    gateway = await start(TWO, total_timeout=0.1)
    await time_out(gateway, stream, {})
    assert not all(replica.breaker.closed for replica in gateway.replicas)
