"""Budgets in a real Redis: counted for all gateways, never overdrawn by a race, closed while it is away."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from service.admission import shared_budgets
from service.admission.budgets import DAY, TokenBucket
from service.admission.rate_limits import OverLimitError
from service.admission.shared_budgets import SharedBudget, SharedBudgets
from service.auth.tenants import Tenant
from service.errors import ApiError
from tests.admission.harness import FakeClock
from tests.support.redis import RedisServer, redis_server
from tests.support.waiting import until

NOON = 20_000 * DAY + DAY / 2


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


@asynccontextmanager
async def gateways(server: RedisServer, count: int = 1) -> AsyncIterator[list[Any]]:
    """The shared budgets as so many gateways have them; each has a `failures` and a `wall`."""
    made: list[Any] = []
    tasks = []
    for _ in range(count):
        failures: list[int] = []
        wall = FakeClock(NOON)
        one: Any = SharedBudgets(server.url, partial(failures.append, 1), wall)
        one.failures, one.wall = failures, wall
        made.append(one)
        tasks.append(asyncio.create_task(one.watch()))
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for one in made:
            await one.close()


async def booked(budgets: Any) -> None:
    await until(lambda: not budgets._corrections, "the corrections")
    await budgets._redis.ping()  # one connection after the other answers


async def admitted(budgets: Any, tenant: Tenant, cost: float) -> bool:
    try:
        await budgets.reserve(tenant, cost)
    except OverLimitError:
        return False
    return True


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        ({"requests_per_minute": 7}, 7),
        ({"tokens_per_day": 730}, 7),
        ({"requests_per_day": 7, "tokens_per_minute": 10**6}, 7),
    ],
    ids=["requests", "tokens", "both"],
)
async def test_a_race_of_two_gateways_lets_none_too_many_through(
    limits: dict[str, Any], most: int, redis: RedisServer
) -> None:
    tenant = Tenant("x", **limits)
    async with gateways(redis, 2) as both:
        results = await asyncio.gather(*(admitted(both[number % 2], tenant, 100.0) for number in range(60)))
        assert sum(results) == most


async def test_a_refusal_takes_nothing_and_names_the_longest_wait(redis: RedisServer) -> None:
    tenant = Tenant("x", requests_per_minute=10, tokens_per_day=150)
    async with gateways(redis) as (budgets,):
        reserved = await budgets.reserve(tenant, 100.0)
        assert [(one.counts, one.limit, round(one.remaining)) for one in reserved.states] == [
            ("requests", 10, 9), ("tokens", 150, 50)
        ]  # fmt: skip
        for _ in range(3):
            with pytest.raises(OverLimitError) as caught:
                await budgets.reserve(tenant, 100.0)
        assert "150 tokens per day" in caught.value.message and caught.value.retry_after == DAY / 2
        assert round(caught.value.states[0].remaining) == 9


async def test_settlements_and_refunds_come_back_for_all_and_on_their_own_day(redis: RedisServer) -> None:
    tenant = Tenant("x", requests_per_day=10, tokens_per_day=1000)
    async with gateways(redis, 2) as (one, other):
        first, second = await one.reserve(tenant, 600.0), await one.reserve(tenant, 300.0)
        first.correct(0, 100 - 600)
        second.correct(-1, -300)
        await booked(one)
        third = await other.reserve(tenant, 50.0)
        assert [state.remaining for state in third.states] == [8, 850]
        assert other.used(tenant) == {"requests_per_day": 0.2, "tokens_per_day": 0.15}
        assert one.used(tenant)["tokens_per_day"] == 0.1, "as its own last request left it"
        one.wall.now = other.wall.now = NOON + DAY
        third.correct(0, 900)
        await booked(other)
        assert [state.remaining for state in (await one.reserve(tenant, 50.0)).states] == [9, 950]


async def test_what_is_charged_anew_is_not_anybodys_in_between(redis: RedisServer) -> None:
    """As where another model answers a request: it has the last of a budget, and keeps it."""
    tenant = Tenant("x", requests_per_day=1, tokens_per_day=1000)
    async with gateways(redis, 2) as (one, other):
        reserved = await one.reserve(tenant, 1000.0)

        async def charge_anew() -> Any:
            reserved.correct(0, 400 - 1000)  # settled by what it took,
            reserved.correct(-1, -400)  # and given back
            return await one.reserve(tenant, 1000.0)

        for _ in range(50):
            reserved, another = await asyncio.gather(charge_anew(), admitted(other, tenant, 1.0))
            assert not another
        assert [state.remaining for state in reserved.states] == [0, 0]
        reserved.correct(-1, -1000)
        await booked(one)
        assert [state.remaining for state in (await other.reserve(tenant, 600.0)).states] == [0, 400]


async def test_a_minute_refills_as_a_bucket_does(redis: RedisServer) -> None:
    tenant, bucket = Tenant("x", tokens_per_minute=60_000), TokenBucket(60_000, 0.0)
    async with gateways(redis) as (budgets,):
        await budgets.reserve(tenant, 60_000.0)
        bucket.consume(60_000)
        with pytest.raises(OverLimitError) as caught:
            await budgets.reserve(tenant, 30_000.0)
        waited = caught.value.retry_after
        assert waited and bucket.wait(30_000, 0.0) - 5 < waited <= bucket.wait(30_000, 0.0)
        await asyncio.sleep(0.2)
        assert (await budgets.reserve(tenant, 100.0)).states[0].remaining >= 100
        assert await budgets._redis.ttl("roundhouse:{x}:tokens:minute") > 60


async def test_while_redis_is_away_it_is_closed_and_recovers_with_what_was_owed(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_budgets, "RETRY", 0.02)
    tenant = Tenant("x", tokens_per_day=1000)
    async with gateways(redis) as (budgets,):
        reserved = await budgets.reserve(tenant, 400.0)
        redis.kill()
        for _ in range(2):
            reserved.correct(0, 100)  # booked with the next reservation, or after it
            with pytest.raises(ApiError) as caught:
                await budgets.reserve(tenant, 1.0)
            assert (caught.value.status, caught.value.code) == (503, "budgets_unavailable")
            assert caught.value.retry_after and str(redis.folder) not in caught.value.message
        reserved.correct(0, 100)
        await until(lambda: len(budgets.failures) > 3, "corrections that fail")
        redis.start()  # empty: the reservation is lost, what is owed since is not
        await booked(budgets)
        assert (await budgets.reserve(tenant, 1.0)).states[0].remaining == 699


async def test_a_redis_that_does_not_answer_is_given_up(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_budgets, "TIMEOUT", 0.2)
    async with gateways(redis) as (budgets,):
        redis.stop_answering(True)
        with pytest.raises(ApiError) as caught:
            await budgets.reserve(Tenant("x", tokens_per_day=1000), 500.0)
        assert caught.value.code == "budgets_unavailable" and budgets.failures
        redis.stop_answering(False)
        assert await admitted(budgets, Tenant("x", tokens_per_day=1000), 500.0)


async def test_a_client_that_leaves_meanwhile_gets_its_part_back(redis: RedisServer) -> None:
    tenant = Tenant("x", tokens_per_day=1000)
    given: list[float] = []
    async with gateways(redis) as (budgets,):
        book = budgets._book

        def noting(budget: SharedBudget, amount: float) -> None:
            given.append(amount)
            book(budget, amount)

        budgets._book = noting
        await budgets.reserve(tenant, 10.0)
        redis.stop_answering(True)
        leaving = asyncio.create_task(budgets.reserve(tenant, 200.0))
        for _ in range(3):
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        assert leaving.cancelled()
        redis.stop_answering(False)
        await until(lambda: given == [-200.0], "what is given back")
        await booked(budgets)
        assert (await budgets.reserve(tenant, 1.0)).states[0].remaining == 989
