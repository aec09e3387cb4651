"""More requests than the engines can take, from one tenant or from many."""

import asyncio

from tests.conftest import Start
from tests.fake_engine import Fault
from tests.support.exchanges import CHAT
from tests.support.waiting import until

PLACES, QUEUE = 4, 8
NARROW = f"models: [{{model: pebble-chat, max_in_flight: {PLACES}, max_queued: {QUEUE}}}]"


async def test_a_flood_is_answered_as_far_as_there_is_room_and_refused_beyond(start: Start) -> None:
    gateway = await start(NARROW)
    (engine,) = gateway.engines
    engine.always = Fault(gap=0.01)
    most = 0

    async def ask() -> int:
        nonlocal most
        response = await gateway.post(CHAT.path, CHAT.body())
        most = max(most, engine.running + engine.waiting, gateway.queued())
        if response.status_code == 503:
            assert int(response.headers["retry-after"]) >= 1
        return response.status_code

    statuses = await asyncio.gather(*(ask() for _ in range(10 * PLACES)))
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= PLACES + QUEUE
    assert most <= QUEUE
    assert len(gateway.seen) == statuses.count(200)  # who is refused costs no engine anything


async def test_a_flood_of_one_tenant_keeps_nobody_else_out(start: Start) -> None:
    gateway = await start(f"{NARROW}\ntenants: {{noisy: {{}}, quiet: {{}}}}")
    gateway.engines[0].always = Fault(gap=0.01)
    gateway.engines[0].hold()

    async def ask(tenant: str) -> int:
        headers = {"x-roundhouse-tenant": tenant}
        return (await gateway.http.post(CHAT.path, json=CHAT.body(), headers=headers)).status_code

    noisy = [asyncio.create_task(ask("noisy")) for _ in range(50)]
    await until(lambda: gateway.queued() == QUEUE)
    gateway.engines[0].go_on()
    assert [await ask("quiet") for _ in range(5)] == [200] * 5
    assert {await one for one in noisy} == {200, 503}


async def test_an_engine_that_is_full_is_asked_again_elsewhere_and_no_more_than_once(start: Start) -> None:
    gateway = await start("models: [{model: pebble-chat, min_replicas: 2}]")
    for engine in gateway.engines:
        engine.queue, engine.gap = 2, 0.01
    statuses = await asyncio.gather(*(gateway.post(CHAT.path, CHAT.body()) for _ in range(20)))
    assert {one.status_code for one in statuses} <= {200, 503}
    assert sum(one.status_code == 200 for one in statuses) >= 4
    await gateway.settle()
    assert max(line["attempts"] for line in gateway.lines) == 2
