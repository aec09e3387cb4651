"""Who may enter: at once, after a wait, or not at all; and that everything is given back once."""

import asyncio
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from service.admission.slots import Slot
from service.auth.tenants import Tenant
from service.config.settings import Settings
from service.errors import ApiError
from service.fleet.fleet import Fleet
from tests.admission.gates import Gate, Seats, Time
from tests.support import fleets
from tests.support.waiting import PATIENCE, until


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return fleets.load(tmp_path, "models:\n  - {model: pebble-chat, max_queued: 3}\n  - model: pebble-base\n")


@pytest.fixture
def door(fleet: Fleet) -> Gate:
    """Two places, and three to wait."""
    return Gate(fleet.served[0])


def refusal(door: Gate, *asked: object, **more: object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        door.enter(*asked, **more)  # type: ignore[arg-type]
    return caught.value


async def raised(place: Slot) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await place.granted(PATIENCE)
    return caught.value


async def test_where_there_is_room_nobody_waits(door: Gate) -> None:
    with door.enter() as place:
        assert not place.is_waiting
        assert (place.position, place.ahead) == (0, 0)
        assert await place.granted(0.0)
        assert (door.load, door.queued) == (1, 0)
    assert (door.load, door.queued) == (0, 0)


async def test_who_comes_then_waits_for_the_first_who_leaves(door: Gate) -> None:
    one, other = door.assign(door.enter()), door.assign(door.enter())
    with door.enter() as third, door.enter() as fourth:
        assert [third.position, fourth.position] == [1, 2]
        assert [third.ahead, fourth.ahead] == [0, 1]
        assert (door.load, door.queued, door.admission.demand(door.served.id)) == (2, 2, 4)
        assert not await third.granted(0.001)
        waiting = asyncio.create_task(third.granted(PATIENCE))
        await asyncio.sleep(0)
        one.leave()
        assert await waiting
        assert not third.is_waiting
        assert [third.position, fourth.position] == [0, 1]
        other.leave()
        assert await fourth.granted(PATIENCE)
    assert (door.load, door.queued, door.room()) == (0, 0, 2)


def test_a_place_is_one_share_of_the_model_until_its_request_sits_somewhere(door: Gate) -> None:
    places = [door.enter(), door.enter()]
    assert door.room() == 2  # no replica knows of them yet
    with door.enter() as third:
        assert third.is_waiting
        door.assign(places[0])
        door.wake_waiters()
        assert third.is_waiting
        places[0].unassign()  # its replica failed: it looks for another one
        door.wake_waiters()
        assert third.is_waiting
        door.assign(places[0]).leave()
        assert not third.is_waiting
    assert door.load == 1


def test_leaving_twice_frees_one_place(door: Gate) -> None:
    one, other = door.assign(door.enter()), door.assign(door.enter())
    third = door.enter()
    for _ in range(2):
        third.leave()
    assert (door.load, door.queued) == (2, 0)
    for _ in range(2):
        one.leave()
    assert (door.load, door.room()) == (1, 1)
    other.leave()
    assert (door.load, door.room()) == (0, 2)


async def test_a_place_granted_at_the_moment_of_leaving_goes_to_the_next(door: Gate) -> None:
    one, _ = door.enter(), door.enter()
    third, fourth = door.enter(), door.enter()

    async def ask() -> None:
        with third:
            await third.granted(PATIENCE)
            await asyncio.Event().wait()

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0)
    one.leave()  # grants the third its place, but before it hears of it …
    asking.cancel()  # … its client is gone
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await fourth.granted(0.0)
    assert (door.load, door.queued) == (2, 0)


def test_the_queue_is_bounded(door: Gate) -> None:
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(door.enter())
        error = refusal(door)
        assert (error.status, error.code, error.code.type) == (503, "overloaded", "overloaded_error")
        assert error.message == (
            "'pebble-chat' is busy: this request finds 3 others waiting, as many as may. Try again in 2 s."
        )
        assert error.headers == {"retry-after": "2"}
        assert (door.load, door.queued) == (2, 3)
    assert (door.load, door.queued) == (0, 0)


def test_without_a_queue_nobody_waits(door: Gate) -> None:
    door.served = replace(door.served, max_queued=0)
    with door.enter(), door.enter():
        assert refusal(door).code == "overloaded"
        assert door.queued == 0
    assert not door.enter().is_waiting


async def test_a_newcomer_takes_the_place_of_one_who_has_many(door: Gate) -> None:
    for _ in range(2):
        door.enter("noisy")
    waiting = [door.enter("noisy") for _ in range(3)]
    with door.enter("quiet") as newcomer:
        assert newcomer.is_waiting
        assert newcomer.position == 2
        error = await raised(waiting[-1])
        assert (error.status, error.code) == (503, "overloaded")
        assert waiting[-1].is_waiting
        assert door.queued == 3
    for place in waiting:
        place.leave()
    assert door.queued == 0


async def test_whoever_waits_hears_at_once_what_became_of_it(door: Gate) -> None:
    running, _ = door.enter("noisy"), door.enter("noisy")
    waiting = [door.enter("noisy", patience=10 * PATIENCE) for _ in range(3)]
    first, middle, last = [asyncio.create_task(place.granted(10 * PATIENCE)) for place in waiting]
    await asyncio.sleep(0)
    door.enter("quiet")
    await until(last.done)
    assert isinstance(last.exception(), ApiError)
    running.leave()
    await until(first.done)
    assert first.result()
    middle.cancel()


async def test_who_has_waited_too_long_is_refused(fleet: Fleet) -> None:
    door = Gate(fleet.served[0], asyncio.get_running_loop().time, seats=[Seats(0)])
    with door.enter(patience=0.02) as place:
        error = await raised(place)
        assert (error.status, error.code) == (503, "overloaded")
        assert "has found no free place for as long as it may wait" in error.message
        assert door.queued == 0


@pytest.mark.parametrize(
    ("waits", "setting", "asked", "patience"),
    [("", 7.0, None, 7.0), ("\ntimeouts: {queue: 5}", 7.0, None, 5.0), ("\ntimeouts: {queue: 5}", 7.0, 3.0, 3.0)],
    ids=["of the settings", "of the fleet", "of the request"],
)
async def test_whose_patience_counts(
    tmp_path: Path, waits: str, setting: float, asked: float | None, patience: float
) -> None:
    served = fleets.only(tmp_path, "model: pebble-chat" + waits)
    clock = Time()
    door = Gate(served, clock, Settings(queue_timeout=setting), seats=[Seats(0)])
    place = door.enter(patience=asked)
    assert place.deadline == clock.now + patience
    clock.now += patience - 0.001
    assert not await place.granted(0.0)
    clock.now += 0.001
    await raised(place)


async def test_who_may_not_wait_at_all_gets_what_is_free_and_nothing_else(door: Gate) -> None:
    for _ in range(2):
        assert await door.enter(patience=0.0).granted(0.0)
    with door.enter(patience=0.0) as place:
        assert (await raised(place)).code == "overloaded"


async def test_whoever_can_no_longer_wait_gets_no_place(door: Gate) -> None:
    clock = door.clock = Time()
    door.__post_init__()
    running = [door.assign(door.enter()) for _ in range(2)]
    late, patient = door.enter(patience=5.0), door.enter(patience=50.0)
    clock.now += 5.0
    running[0].leave()
    assert not patient.is_waiting
    assert (await raised(late)).code == "overloaded"


def test_who_would_wait_too_long_is_refused_at_once(door: Gate) -> None:
    clock = door.clock = Time()
    door.__post_init__()
    for _ in range(200):  # each takes 10 s, two at a time
        with door.assign(door.enter()), door.assign(door.enter()):
            clock.now += 10.0
    door.assign(door.enter())
    door.assign(door.enter())
    first = door.enter(patience=6.0)
    assert first.is_waiting
    error = refusal(door, patience=6.0)
    assert (error.status, error.code) == (503, "overloaded")
    assert error.message == (
        "'pebble-chat' is busy: this request would take about 10 s to get a place, longer than it may wait. "
        "Try again in 10 s."
    )
    assert refusal(door, "quiet", "batch", patience=6.0).code == "overloaded"
    assert door.enter("quiet", "interactive", patience=6.0).is_waiting
    assert door.queued == 2


async def test_where_no_engine_runs_requests_wait_for_one(door: Gate) -> None:
    door.seats = []
    waiting = [door.enter(patience=600.0) for _ in range(3)]
    assert refusal(door, patience=600.0).headers == {"retry-after": "10"}
    door.wake_waiters()
    assert all(place.is_waiting for place in waiting)
    door.seats = [Seats(2)]
    door.admission.wake_waiters()
    assert [place.is_waiting for place in waiting] == [False, False, True]
    assert await waiting[0].granted(0.0)


def test_a_newcomer_finds_the_room_that_nobody_was_told_of(door: Gate) -> None:
    door.seats = []
    waiting = door.enter()
    door.seats = [Seats(2)]
    newcomer, third = door.enter(), door.enter()
    assert [place.is_waiting for place in (waiting, newcomer, third)] == [False, False, True]


def test_a_stir_at_one_model_leaves_another_alone(fleet: Fleet) -> None:
    door = Gate(fleet.served[0], seats=[])
    waiting = door.enter()
    door.seats = [Seats(1)]
    door.admission.wake_waiters(fleet.served[1].id)
    assert waiting.is_waiting
    door.admission.wake_waiters(fleet.served[0].id)
    assert not waiting.is_waiting


def test_a_full_model_keeps_nobody_from_another(fleet: Fleet) -> None:
    door = Gate(fleet.served[0], seats=[Seats(1)])
    with door.assign(door.enter()), door.enter() as second:
        assert second.is_waiting
        door.served, door.seats = fleet.served[1], [Seats(1)]
        assert not door.enter().is_waiting


@pytest.mark.parametrize(
    ("bound", "what"),
    [
        ({"max_in_flight": 1}, "1 requests in flight"),
        ({"requests_per_minute": 1}, "1 requests per minute"),
        ({"tokens_per_minute": 100}, "100 tokens per minute"),
    ],
)
def test_a_tenant_has_its_budget(door: Gate, bound: dict[str, int], what: str) -> None:
    tenant = Tenant("crawler", **bound)  # type: ignore[arg-type]
    with door.enter(tenant):
        error = refusal(door, tenant)
        seconds = "1" if "flight" in what else "60"
        assert (error.status, error.code, error.code.type) == (429, "rate_limit_exceeded", "rate_limit_error")
        assert error.message == f"Tenant 'crawler' has used up its {what}. Try again in {seconds} s."
        assert error.headers == {"retry-after": seconds}
        assert not door.enter("another").is_waiting
    assert door.load == 1


def test_a_budget_is_of_all_models_together(fleet: Fleet) -> None:
    door, tenant = Gate(fleet.served[0]), Tenant("x", max_in_flight=1)
    with door.enter(tenant):
        door.served = fleet.served[1]
        assert refusal(door, tenant).status == 429
    assert not door.enter(tenant).is_waiting


def test_gateways_share_budgets(door: Gate) -> None:
    door.settings = Settings(workers=2, gateway_replicas=2)
    door.__post_init__()
    tenant = Tenant("x", requests_per_minute=8)
    for _ in range(2):
        door.enter(tenant).leave()
    assert refusal(door, tenant).headers == {"retry-after": "30"}


def test_only_who_gets_a_place_spends(door: Gate) -> None:
    tenant = Tenant("x", requests_per_minute=2, tokens_per_minute=200, max_in_flight=2)
    for _ in range(2):
        door.enter()
    for _ in range(5):
        with door.enter(tenant) as place:  # it waits, and its client leaves
            assert place.is_waiting
    for _ in range(3):
        door.enter("z")
    with door.enter("z", "interactive"):  # the queue is full
        for _ in range(3):
            assert refusal(door, tenant, "batch").status == 503
    door.seats[0].limit = 10
    door.wake_waiters()
    with door.enter(tenant), door.enter(tenant):
        assert refusal(door, tenant).status == 429


def test_a_budget_is_charged_for_what_was_really_taken(door: Gate) -> None:
    tenant = Tenant("x", tokens_per_minute=1000)
    with door.enter(tenant, cost=1000) as place:
        assert refusal(door, tenant, cost=100).status == 429
        place.ended(400)
    with door.enter(tenant, cost=600):
        pass
    assert refusal(door, tenant, cost=100).headers == {"retry-after": "6"}  # without a word the estimate counts


async def test_a_tenant_waits_for_what_its_requests_really_took(fleet: Fleet) -> None:
    door = Gate(replace(fleet.served[0], max_queued=50), seats=[Seats(1)])
    running = door.assign(door.enter("z"))
    waiting = [door.enter(name) for _ in range(10) for name in "ab"]
    order = []
    for _ in range(8):
        running.leave()
        (running,) = [place for place in waiting if not place.is_waiting and place.position == 0 and place not in order]
        order.append(door.assign(running))
        name = running.ticket.tenant.id if running.ticket else ""
        running.ended(300 if name == "a" else 100)
    assert "".join(place.ticket.tenant.id for place in order if place.ticket) == "abbbabbb"


def test_a_changed_fleet_forgets_what_is_gone_when_it_is_idle(fleet: Fleet) -> None:
    door = Gate(fleet.served[0])
    tenant = Tenant("x", max_in_flight=5)
    smaller = replace(fleet, served=fleet.served[1:])
    with door.enter(tenant), door.enter(tenant), door.enter(tenant) as waiting:
        door.admission.apply(smaller)
        assert (door.load, door.queued) == (2, 1)
        door.seats[0].limit = 3
        door.admission.apply(replace(smaller, tenants={"x": tenant}))
        assert not waiting.is_waiting
    assert door.load == 0


def test_what_comes_back_with_the_fleet_starts_anew(door: Gate, fleet: Fleet) -> None:
    clock, slow = Time(), Tenant("slow", requests_per_minute=1)
    door.clock = clock
    door.__post_init__()
    for _ in range(10):
        with door.enter(), door.enter():
            clock.now += 10.0
    door.enter(slow).leave()
    assert refusal(door, slow).status == 429
    door.admission.apply(replace(fleet, served=fleet.served[1:], tenants={}))
    with door.enter(slow), door.enter():
        assert door.enter(patience=1.0).is_waiting  # nobody knows how long requests take at this model


async def test_a_request_is_let_in_even_while_its_relay_does_something_else(door: Gate) -> None:
    running = [door.assign(door.enter()) for _ in range(2)]
    waiting = door.enter()
    running[0].leave()
    assert not waiting.is_waiting
    assert await waiting.granted(0.0)
