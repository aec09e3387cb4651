"""Admission: at once, after queueing, or not at all; and every slot and budget is given back exactly once."""

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
from tests.admission.harness import FakeClock, FakeReplica, Harness
from tests.support import fleets
from tests.support.waiting import PATIENCE, until


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return fleets.load(tmp_path, "models:\n  - {model: pebble-chat, max_queued: 3}\n  - model: pebble-base\n")


@pytest.fixture
def harness(fleet: Fleet) -> Harness:
    """A model with two slots, and a queue of three."""
    return Harness(fleet.served[0])


def rejection(harness: Harness, *args: object, **kwargs: object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        harness.acquire(*args, **kwargs)  # type: ignore[arg-type]
    return caught.value


async def rejected(slot: Slot) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await slot.wait_admitted(PATIENCE)
    return caught.value


async def test_request_is_admitted_at_once_while_slots_are_free(harness: Harness) -> None:
    with harness.acquire() as slot:
        assert not slot.is_queued
        assert (slot.position, slot.ahead) == (0, 0)
        assert await slot.wait_admitted(0.0)
        assert (harness.load, harness.queued) == (1, 0)
    assert (harness.load, harness.queued) == (0, 0)


async def test_queued_requests_are_admitted_in_order_as_slots_are_released(harness: Harness) -> None:
    one, other = harness.assign(harness.acquire()), harness.assign(harness.acquire())
    with harness.acquire() as third, harness.acquire() as fourth:
        assert [third.position, fourth.position] == [1, 2]
        assert [third.ahead, fourth.ahead] == [0, 1]
        assert (harness.load, harness.queued, harness.admission.demand(harness.served.id)) == (2, 2, 4)
        assert not await third.wait_admitted(0.001)
        waiting = asyncio.create_task(third.wait_admitted(PATIENCE))
        await asyncio.sleep(0)
        one.release()
        assert await waiting
        assert not third.is_queued
        assert [third.position, fourth.position] == [0, 1]
        other.release()
        assert await fourth.wait_admitted(PATIENCE)
    assert (harness.load, harness.queued, harness.capacity()) == (0, 0, 2)


def test_a_slot_counts_against_capacity_whether_or_not_it_is_assigned_to_a_replica(harness: Harness) -> None:
    slots = [harness.acquire(), harness.acquire()]
    assert harness.capacity() == 2  # no replica knows of them yet
    with harness.acquire() as third:
        assert third.is_queued
        harness.assign(slots[0])
        harness.wake_waiters()
        assert third.is_queued
        slots[0].unassign()  # its replica failed, and it will be assigned to another one
        harness.wake_waiters()
        assert third.is_queued
        harness.assign(slots[0]).release()
        assert not third.is_queued
    assert harness.load == 1


def test_releasing_a_slot_twice_frees_it_once(harness: Harness) -> None:
    one, other = harness.assign(harness.acquire()), harness.assign(harness.acquire())
    third = harness.acquire()
    for _ in range(2):
        third.release()
    assert (harness.load, harness.queued) == (2, 0)
    for _ in range(2):
        one.release()
    assert (harness.load, harness.capacity()) == (1, 1)
    other.release()
    assert (harness.load, harness.capacity()) == (0, 2)


async def test_slot_of_a_request_cancelled_as_it_is_admitted_goes_to_the_next(harness: Harness) -> None:
    one, _ = harness.acquire(), harness.acquire()
    third, fourth = harness.acquire(), harness.acquire()

    async def request() -> None:
        with third:
            await third.wait_admitted(PATIENCE)
            await asyncio.Event().wait()

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    one.release()  # admits the third request, but before its task runs …
    task.cancel()  # … its client disconnects
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await fourth.wait_admitted(0.0)
    assert (harness.load, harness.queued) == (2, 0)


def test_request_beyond_max_queued_is_rejected_with_503(harness: Harness) -> None:
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(harness.acquire())
        error = rejection(harness)
        assert (error.status, error.code, error.code.type) == (503, "overloaded", "overloaded_error")
        assert error.message == ("'pebble-chat' is busy: its queue is full (3 requests). Try again in 2 s.")
        assert error.headers == {"retry-after": "2"}
        assert (harness.load, harness.queued) == (2, 3)
    assert (harness.load, harness.queued) == (0, 0)


def test_with_max_queued_0_requests_are_rejected_instead_of_queued(harness: Harness) -> None:
    harness.served = replace(harness.served, max_queued=0)
    with harness.acquire(), harness.acquire():
        assert rejection(harness).code == "overloaded"
        assert harness.queued == 0
    assert not harness.acquire().is_queued


async def test_full_queue_drops_the_newest_request_of_the_tenant_with_most_queued(harness: Harness) -> None:
    for _ in range(2):
        harness.acquire("noisy")
    waiting = [harness.acquire("noisy") for _ in range(3)]
    with harness.acquire("quiet") as newcomer:
        assert newcomer.is_queued
        assert newcomer.position == 2
        error = await rejected(waiting[-1])
        assert (error.status, error.code) == (503, "overloaded")
        assert waiting[-1].is_queued
        assert harness.queued == 3
    for slot in waiting:
        slot.release()
    assert harness.queued == 0


async def test_admission_and_rejection_wake_the_waiting_task(harness: Harness) -> None:
    running, _ = harness.acquire("noisy"), harness.acquire("noisy")
    waiting = [harness.acquire("noisy", timeout=10 * PATIENCE) for _ in range(3)]
    first, middle, last = [asyncio.create_task(slot.wait_admitted(10 * PATIENCE)) for slot in waiting]
    await asyncio.sleep(0)
    harness.acquire("quiet")
    await until(last.done)
    assert isinstance(last.exception(), ApiError)
    running.release()
    await until(first.done)
    assert first.result()
    middle.cancel()


async def test_request_queued_beyond_its_timeout_is_rejected_with_503(fleet: Fleet) -> None:
    harness = Harness(fleet.served[0], asyncio.get_running_loop().time, replicas=[FakeReplica(0)])
    with harness.acquire(timeout=0.02) as slot:
        error = await rejected(slot)
        assert (error.status, error.code) == (503, "overloaded")
        assert "timed out in the queue" in error.message
        assert harness.queued == 0


@pytest.mark.parametrize(
    ("timeouts", "setting", "given", "expected"),
    [("", 7.0, None, 7.0), ("\ntimeouts: {queue: 5}", 7.0, None, 5.0), ("\ntimeouts: {queue: 5}", 7.0, 3.0, 3.0)],
    ids=["of the settings", "of the fleet", "of the request"],
)
async def test_queue_timeout_of_request_wins_over_fleet_and_settings(
    tmp_path: Path, timeouts: str, setting: float, given: float | None, expected: float
) -> None:
    served = fleets.only(tmp_path, "model: pebble-chat" + timeouts)
    clock = FakeClock()
    harness = Harness(served, clock, Settings(queue_timeout=setting), replicas=[FakeReplica(0)])
    slot = harness.acquire(timeout=given)
    assert slot.deadline == clock.now + expected
    clock.now += expected - 0.001
    assert not await slot.wait_admitted(0.0)
    clock.now += 0.001
    await rejected(slot)


async def test_timeout_0_is_admitted_only_if_a_slot_is_free(harness: Harness) -> None:
    for _ in range(2):
        assert await harness.acquire(timeout=0.0).wait_admitted(0.0)
    with harness.acquire(timeout=0.0) as slot:
        assert (await rejected(slot)).code == "overloaded"


async def test_freed_slot_skips_a_queued_request_past_its_deadline(harness: Harness) -> None:
    clock = harness.clock = FakeClock()
    harness.__post_init__()
    running = [harness.assign(harness.acquire()) for _ in range(2)]
    expired, next_one = harness.acquire(timeout=5.0), harness.acquire(timeout=50.0)
    clock.now += 5.0
    running[0].release()
    assert not next_one.is_queued
    assert (await rejected(expired)).code == "overloaded"


def test_expected_wait_beyond_the_timeout_is_rejected_at_once(harness: Harness) -> None:
    clock = harness.clock = FakeClock()
    harness.__post_init__()
    for _ in range(200):  # each takes 10 s, two at a time
        with harness.assign(harness.acquire()), harness.assign(harness.acquire()):
            clock.now += 10.0
    harness.assign(harness.acquire())
    harness.assign(harness.acquire())
    first = harness.acquire(timeout=6.0)
    assert first.is_queued
    error = rejection(harness, timeout=6.0)
    assert (error.status, error.code) == (503, "overloaded")
    assert error.message == (
        "'pebble-chat' is busy: the expected wait of 10 s exceeds this request's queue timeout. Try again in 10 s."
    )
    assert rejection(harness, "quiet", "batch", timeout=6.0).code == "overloaded"
    assert harness.acquire("quiet", "interactive", timeout=6.0).is_queued
    assert harness.queued == 2


async def test_requests_queue_while_there_is_no_replica(harness: Harness) -> None:
    harness.replicas = []
    waiting = [harness.acquire(timeout=600.0) for _ in range(3)]
    assert rejection(harness, timeout=600.0).headers == {"retry-after": "10"}
    harness.wake_waiters()
    assert all(slot.is_queued for slot in waiting)
    harness.replicas = [FakeReplica(2)]
    harness.admission.wake_waiters()
    assert [slot.is_queued for slot in waiting] == [False, False, True]
    assert await waiting[0].wait_admitted(0.0)


def test_new_request_admits_queued_ones_if_capacity_has_grown_unnoticed(harness: Harness) -> None:
    harness.replicas = []
    waiting = harness.acquire()
    harness.replicas = [FakeReplica(2)]
    newcomer, third = harness.acquire(), harness.acquire()
    assert [slot.is_queued for slot in (waiting, newcomer, third)] == [False, False, True]


def test_wake_waiters_of_one_model_admits_no_request_of_another(fleet: Fleet) -> None:
    harness = Harness(fleet.served[0], replicas=[])
    waiting = harness.acquire()
    harness.replicas = [FakeReplica(1)]
    harness.admission.wake_waiters(fleet.served[1].id)
    assert waiting.is_queued
    harness.admission.wake_waiters(fleet.served[0].id)
    assert not waiting.is_queued


def test_full_model_does_not_delay_another(fleet: Fleet) -> None:
    harness = Harness(fleet.served[0], replicas=[FakeReplica(1)])
    with harness.assign(harness.acquire()), harness.acquire() as second:
        assert second.is_queued
        harness.served, harness.replicas = fleet.served[1], [FakeReplica(1)]
        assert not harness.acquire().is_queued


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"max_in_flight": 1}, "1 requests in flight"),
        ({"requests_per_minute": 1}, "1 requests per minute"),
        ({"tokens_per_minute": 100}, "100 tokens per minute"),
    ],
)
def test_tenant_over_a_limit_gets_429(harness: Harness, limit: dict[str, int], message: str) -> None:
    tenant = Tenant("crawler", **limit)  # type: ignore[arg-type]
    with harness.acquire(tenant):
        error = rejection(harness, tenant)
        seconds = "1" if "flight" in message else "60"
        assert (error.status, error.code, error.code.type) == (429, "rate_limit_exceeded", "rate_limit_error")
        assert error.message == f"Tenant 'crawler' is at its limit of {message}. Try again in {seconds} s."
        assert error.headers == {"retry-after": seconds}
        assert not harness.acquire("another").is_queued
    assert harness.load == 1


def test_tenant_limits_span_all_models(fleet: Fleet) -> None:
    harness, tenant = Harness(fleet.served[0]), Tenant("x", max_in_flight=1)
    with harness.acquire(tenant):
        harness.served = fleet.served[1]
        assert rejection(harness, tenant).status == 429
    assert not harness.acquire(tenant).is_queued


def test_gateway_processes_share_a_limit(harness: Harness) -> None:
    harness.settings = Settings(workers=2, gateway_replicas=2)
    harness.__post_init__()
    tenant = Tenant("x", requests_per_minute=8)
    for _ in range(2):
        harness.acquire(tenant).release()
    assert rejection(harness, tenant).headers == {"retry-after": "30"}


def test_requests_never_admitted_do_not_count_against_rate_limits(harness: Harness) -> None:
    tenant = Tenant("x", requests_per_minute=2, tokens_per_minute=200, max_in_flight=2)
    for _ in range(2):
        harness.acquire()
    for _ in range(5):
        with harness.acquire(tenant) as slot:  # it is queued, and its client disconnects
            assert slot.is_queued
    for _ in range(3):
        harness.acquire("z")
    with harness.acquire("z", "interactive"):  # the queue is full
        for _ in range(3):
            assert rejection(harness, tenant, "batch").status == 503
    harness.replicas[0].limit = 10
    harness.wake_waiters()
    with harness.acquire(tenant), harness.acquire(tenant):
        assert rejection(harness, tenant).status == 429


def test_tokens_per_minute_are_charged_by_reported_usage(harness: Harness) -> None:
    tenant = Tenant("x", tokens_per_minute=1000)
    with harness.acquire(tenant, cost=1000) as slot:
        assert rejection(harness, tenant, cost=100).status == 429
        slot.tokens = 400
    with harness.acquire(tenant, cost=600):
        pass
    assert rejection(harness, tenant, cost=100).headers == {"retry-after": "6"}  # without a report the estimate counts


async def test_fair_queueing_charges_reported_usage(fleet: Fleet) -> None:
    harness = Harness(replace(fleet.served[0], max_queued=50), replicas=[FakeReplica(1)])
    running = harness.assign(harness.acquire("z"))
    waiting = [harness.acquire(name) for _ in range(10) for name in "ab"]
    order = []
    for _ in range(8):
        running.release()
        (running,) = [slot for slot in waiting if not slot.is_queued and slot.position == 0 and slot not in order]
        order.append(harness.assign(running))
        name = running.ticket.tenant.id if running.ticket else ""
        running.tokens = 300 if name == "a" else 100
    assert "".join(slot.ticket.tenant.id for slot in order if slot.ticket) == "abbbabbb"


def test_reload_keeps_requests_of_a_removed_model_until_they_end(fleet: Fleet) -> None:
    harness = Harness(fleet.served[0])
    tenant = Tenant("x", max_in_flight=5)
    smaller = replace(fleet, served=fleet.served[1:])
    with harness.acquire(tenant), harness.acquire(tenant), harness.acquire(tenant) as waiting:
        harness.admission.apply(smaller)
        assert (harness.load, harness.queued) == (2, 1)
        harness.replicas[0].limit = 3
        harness.admission.apply(replace(smaller, tenants={"x": tenant}))
        assert not waiting.is_queued
    assert harness.load == 0


def test_model_and_tenant_that_return_after_a_reload_start_with_no_history(harness: Harness, fleet: Fleet) -> None:
    clock, slow = FakeClock(), Tenant("slow", requests_per_minute=1)
    harness.clock = clock
    harness.__post_init__()
    for _ in range(10):
        with harness.acquire(), harness.acquire():
            clock.now += 10.0
    harness.acquire(slow).release()
    assert rejection(harness, slow).status == 429
    harness.admission.apply(replace(fleet, served=fleet.served[1:], tenants={}))
    with harness.acquire(slow), harness.acquire():
        assert harness.acquire(timeout=1.0).is_queued  # the service rate of this model is unknown again


async def test_queued_request_is_admitted_without_a_task_waiting_for_it(harness: Harness) -> None:
    running = [harness.assign(harness.acquire()) for _ in range(2)]
    waiting = harness.acquire()
    running[0].release()
    assert not waiting.is_queued
    assert await waiting.wait_admitted(0.0)


def in_flight(harness: Harness) -> list[int]:
    return [replica.in_flight for replica in harness.replicas]


def test_a_request_of_more_sequences_than_a_replica_takes_is_admitted_when_one_slot_is_free(harness: Harness) -> None:
    first = harness.assign(harness.acquire())
    many = harness.assign(harness.acquire(sequences=2048))
    assert (in_flight(harness), harness.load, harness.admission.sequences(harness.served.id)) == ([2049], 2, 2049)
    small = harness.acquire()
    first.release()
    assert small.is_queued
    many.release()
    assert not small.is_queued
    assert (in_flight(harness), harness.load, harness.admission.sequences(harness.served.id)) == ([0], 1, 1)


def test_small_requests_do_not_overtake_one_of_many_sequences(harness: Harness) -> None:
    running = [harness.assign(harness.acquire()) for _ in range(2)]
    many, small = harness.acquire(sequences=100), harness.acquire()
    running.pop().release()
    assert [many.is_queued, small.is_queued] == [False, True]
    harness.assign(many)
    assert harness.acquire().is_queued
    running.pop().release()
    assert small.is_queued
    many.release()
    assert not small.is_queued


def test_a_tenant_of_small_requests_goes_before_the_next_one_of_many_sequences(fleet: Fleet) -> None:
    harness = Harness(replace(fleet.served[0], max_queued=50), replicas=[FakeReplica(1)])
    running = harness.assign(harness.acquire("z"))
    many = [harness.acquire("bulk", cost=100, sequences=100) for _ in range(2)]
    small = [harness.acquire("quiet", cost=1) for _ in range(20)]
    order: list[Slot] = []
    for _ in range(22):
        running.release()
        (running,) = [slot for slot in (*many, *small) if not slot.is_queued and slot not in order]
        order.append(harness.assign(running))
    assert order.index(many[0]) <= 1
    assert order.index(many[1]) > 15


def test_slots_beyond_the_limit_of_one_replica_take_none_of_another(harness: Harness) -> None:
    harness.replicas = [FakeReplica(2), FakeReplica(2)]
    many = harness.acquire(sequences=10)
    small = harness.acquire()
    assert small.is_queued  # where the request of many sequences will go is not known yet
    harness.assign(many)
    assert not small.is_queued
    harness.assign(small)
    assert sorted(in_flight(harness)) == [1, 10]
    many.unassign()
    assert harness.acquire().is_queued
    harness.assign(many)
    assert sorted(in_flight(harness)) in ([1, 10], [0, 11])


def test_the_expected_wait_counts_sequences(harness: Harness) -> None:
    clock = harness.clock = FakeClock()
    harness.__post_init__()
    for _ in range(20):  # each takes 10 s, 100 sequences at a time
        with harness.assign(harness.acquire(sequences=100)):
            clock.now += 10.0
    harness.assign(harness.acquire(sequences=100))
    # The 98 sequences beyond the limit of two end within the 10 s of their request.
    assert "the expected wait of 10 s exceeds" in rejection(harness, timeout=9.0).message
    queued = harness.acquire(timeout=11.0, sequences=100)
    assert queued.is_queued
    assert "the expected wait of 20 s exceeds" in rejection(harness, timeout=15.0).message
    queued.release()
    assert harness.acquire(timeout=15.0).is_queued


def test_requests_admitted_together_count_all_of_their_sequences(harness: Harness) -> None:
    harness.replicas = []
    waiting = [harness.acquire(sequences=sequences) for sequences in (1, 7, 1)]
    harness.replicas = [FakeReplica(3)]
    harness.wake_waiters()
    assert [slot.is_queued for slot in waiting] == [False, False, True]
