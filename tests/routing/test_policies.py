"""The replica that each policy picks."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.engine_stats import EngineStats
from service.fleet.schema import ModelEntry
from service.routing.policies import (
    POLICIES,
    Policy,
    PolicyInput,
    busy,
    least_load,
    load,
    power_of_two,
    prefix_affinity,
    round_robin,
)
from service.upstreams.replica import Replica

IDLE = EngineStats(at=0.0, running=0, waiting=0, kv_usage=0.0, tokens=0.0)
LOADS = st.lists(st.integers(0, 300), min_size=1, max_size=8)
REQUEST_COUNTS = st.integers(0, 10**9)
KEYS = st.integers(0, 2**64 - 1)
STATS = st.none() | st.builds(
    EngineStats, st.just(0.0), st.integers(0, 300), st.integers(0, 300), st.floats(0, 1), st.just(0.0)
)
REPLICAS = st.lists(
    st.builds(
        lambda in_flight, limit, stats: Replica("", "", in_flight=in_flight, limit=limit, stats=stats),
        st.integers(0, 300), st.integers(1, 512), STATS,
    ),
    min_size=1, max_size=8,
).map(lambda replicas: [replace(replica, id=f"x-{number}") for number, replica in enumerate(replicas)])  # fmt: skip

every_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


def replicas_with(loads: list[int], limit: int = 256) -> list[Replica]:
    """One replica for each number of requests in flight."""
    return [Replica(f"x-{number}", f"/x{number}", in_flight=load, limit=limit) for number, load in enumerate(loads)]


def joined_key(context: int, conversation: int) -> int:
    return context << 32 | conversation


def hash32(number: int) -> int:
    """A number scattered over 32 bits, like a hash."""
    return number * 2654435761 % 2**32


def conversation(number: int) -> PolicyInput:
    """The input for a conversation without a shared context."""
    return PolicyInput(number, joined_key(hash32(number), hash32(number)))


def conversation_in(context: int, number: int) -> PolicyInput:
    """The input for a conversation over a shared context."""
    return PolicyInput(number, joined_key(hash32(context), hash32(number)))


def test_the_fleet_file_allows_every_policy() -> None:
    assert set(get_args(ModelEntry.model_fields["policy"].annotation)) == set(POLICIES)


def values(replica: Replica) -> list[object]:
    return [getattr(replica, one.name) for one in fields(replica)]


@every_policy
@given(replicas=REPLICAS, request_count=REQUEST_COUNTS, key=KEYS)
def test_policies_pick_one_of_the_replicas_and_do_not_change_them(
    policy: Policy, replicas: list[Replica], request_count: int, key: int
) -> None:
    before = [values(replica) for replica in replicas]
    picked = policy(tuple(replicas), PolicyInput(request_count, key))
    assert any(picked is replica for replica in replicas)
    assert [values(replica) for replica in replicas] == before


@every_policy
@given(replicas=REPLICAS, request_count=REQUEST_COUNTS, key=KEYS)
def test_policies_are_deterministic(policy: Policy, replicas: list[Replica], request_count: int, key: int) -> None:
    copies = [replace(replica) for replica in replicas]
    assert policy(replicas, PolicyInput(request_count, key)).id == policy(copies, PolicyInput(request_count, key)).id


@given(REPLICAS, REQUEST_COUNTS, KEYS)
def test_least_load_picks_the_lowest_load(replicas: list[Replica], request_count: int, key: int) -> None:
    assert load(least_load(replicas, PolicyInput(request_count, key))) == min(map(load, replicas))


@given(LOADS)
def test_least_load_rotates_among_equally_loaded(loads: list[int]) -> None:
    picks = {least_load(replicas_with(loads), PolicyInput(request_count, 0)).id for request_count in range(len(loads))}
    assert picks == {f"x-{number}" for number, load in enumerate(loads) if load == min(loads)}


@given(LOADS, REQUEST_COUNTS)
def test_round_robin_picks_each_once_per_round(loads: list[int], request_count: int) -> None:
    picks = Counter(
        round_robin(replicas_with(loads), PolicyInput(request_count + step, 0)).id for step in range(len(loads))
    )
    assert set(picks.values()) == {1}


@pytest.mark.parametrize("policy", [least_load, prefix_affinity], ids=lambda policy: policy.__name__)
@given(count=st.integers(1, 8), requests=st.integers(1, 100))
def test_requests_without_a_key_are_spread_evenly(policy: Policy, count: int, requests: int) -> None:
    replicas = replicas_with([0] * count)
    for request_count in range(requests):
        policy(replicas, PolicyInput(request_count, 0)).in_flight += 1
    loads = [replica.in_flight for replica in replicas]
    assert max(loads) - min(loads) <= 1


def test_load_is_relative_to_the_limit() -> None:
    small, large = Replica("s", "/s", in_flight=8, limit=16), Replica("l", "/l", in_flight=9, limit=64)
    assert least_load([small, large], PolicyInput(0, 0)) is large


def test_load_of_other_gateways_counts() -> None:
    replicas = replicas_with([2, 3])
    replicas[0].stats = replace(IDLE, running=10, waiting=10)
    assert least_load(replicas, PolicyInput(0, 0)) is replicas[1]


@pytest.mark.parametrize("stats", [IDLE, replace(IDLE, running=5), replace(IDLE, running=3, waiting=2)])
def test_engine_stats_below_our_own_count_change_nothing(stats: EngineStats) -> None:
    (replica,) = replicas_with([5])
    replica.stats = stats
    assert busy(replica) == 5


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300))
def test_load_is_between_our_own_count_and_that_of_the_engine(ours: int, running: int, waiting: int) -> None:
    (replica,) = replicas_with([ours])
    replica.stats = replace(IDLE, running=running, waiting=waiting)
    assert ours <= busy(replica) <= max(ours, running + waiting)


def test_load_of_other_gateways_counts_half() -> None:
    """Old stats are trusted only in part: if every gateway corrected for them in full, all would overshoot."""
    (replica,) = replicas_with([4])
    replica.stats = replace(IDLE, running=6, waiting=4)
    assert 4 < busy(replica) < 10


def test_full_kv_cache_counts_as_full_replica() -> None:
    replicas = replicas_with([4, 100])
    replicas[0].stats = replace(IDLE, running=4, kv_usage=1.0)
    assert least_load(replicas, PolicyInput(0, 0)) is replicas[1]
    replicas[0].stats = replace(IDLE, running=4, kv_usage=0.85)
    assert least_load(replicas, PolicyInput(0, 0)) is replicas[0]


@given(LOADS.filter(lambda loads: len(loads) > 1), REQUEST_COUNTS, KEYS)
def test_power_of_two_never_picks_the_busiest(loads: list[int], request_count: int, key: int) -> None:
    replicas = replicas_with(loads)
    busier = [
        replica
        for replica in replicas
        if replica.in_flight >= power_of_two(replicas, PolicyInput(request_count, key)).in_flight
    ]
    assert len(busier) >= 2


@given(st.integers(2, 16), KEYS)
def test_power_of_two_draws_from_all_replicas(count: int, key: int) -> None:
    replicas = replicas_with([0] * count)
    picks = Counter(power_of_two(replicas, PolicyInput(request_count, key)).id for request_count in range(200 * count))
    assert len(picks) == count
    assert max(picks.values()) < 2 * 200


def test_power_of_two_draws_differently_for_different_keys() -> None:
    replicas = replicas_with([0] * 8)
    assert len({power_of_two(replicas, PolicyInput(3, hash32(number))).id for number in range(50)}) > 2


def test_power_of_two_balances() -> None:
    replicas = replicas_with([0] * 16)
    for request_count in range(1600):
        power_of_two(replicas, conversation(request_count)).in_flight += 1
    assert max(replica.in_flight for replica in replicas) <= 105


@given(KEYS.filter(bool), st.lists(REQUEST_COUNTS, min_size=2, max_size=5))
def test_prefix_affinity_picks_the_same_replica_for_the_same_key(key: int, request_counts: list[int]) -> None:
    replicas = replicas_with([3] * 5)
    assert len({prefix_affinity(replicas, PolicyInput(request_count, key)).id for request_count in request_counts}) == 1


@given(KEYS.filter(bool), st.permutations(range(6)))
def test_prefix_affinity_does_not_depend_on_the_order_of_replicas(key: int, order: list[int]) -> None:
    replicas = replicas_with([3] * 6)
    assert prefix_affinity([replicas[index] for index in order], PolicyInput(0, key)) is prefix_affinity(
        replicas, PolicyInput(0, key)
    )


@pytest.mark.parametrize("count", [2, 4, 16, 64])
def test_prefix_affinity_spreads_conversations_evenly(count: int) -> None:
    """By the hash alone, because no replica has any load."""
    replicas = replicas_with([0] * count)
    picks = Counter(prefix_affinity(replicas, conversation(number)).id for number in range(1, 400 * count))
    assert len(picks) == count
    assert max(picks.values()) < 400 + 5 * math.sqrt(400)


@pytest.mark.parametrize(
    "make_input", [conversation, lambda number: conversation_in(7 * number, number)], ids=["alone", "within"]
)
def test_only_the_keys_of_a_removed_replica_move(make_input: Callable[[int], PolicyInput]) -> None:
    replicas = replicas_with([0] * 5)
    for number in range(1, 300):
        request = make_input(number)
        before, after = prefix_affinity(replicas, request), prefix_affinity(replicas[1:], request)
        assert before is after or before is replicas[0]


@given(st.integers(1, 2**32 - 1), st.integers(2, 16))
def test_conversations_over_one_context_share_a_replica_below_its_bound(context: int, count: int) -> None:
    replicas = replicas_with([5] * count)
    assert len({prefix_affinity(replicas, conversation_in(context, number)).id for number in range(20)}) == 1


def test_conversations_over_a_busy_context_spread_over_all_others() -> None:
    replicas = replicas_with([5] * 8)
    home = prefix_affinity(replicas, conversation_in(1, 1))
    home.in_flight = 20
    picked = [prefix_affinity(replicas, conversation_in(1, number)) for number in range(200)]
    assert home not in picked
    assert len({replica.id for replica in picked}) == 7
    assert [prefix_affinity(replicas, conversation_in(1, number)) for number in range(200)] == picked


WORKLOADS: dict[str, Callable[[int], PolicyInput]] = {
    "one context": lambda number: conversation_in(1, number),
    "one conversation": lambda number: conversation(1),
}


@pytest.mark.parametrize("count", [2, 4, 16])
@pytest.mark.parametrize("mean", [32, 80])
@pytest.mark.parametrize(("workload", "max_ratio"), [("one context", 1.27), ("one conversation", 1.4)])
def test_a_hot_key_makes_no_hot_spot(workload: str, max_ratio: float, mean: int, count: int) -> None:
    replicas = replicas_with([0] * count)
    for number in range(mean * count):
        prefix_affinity(replicas, WORKLOADS[workload](number)).in_flight += 1
    assert max(replica.in_flight for replica in replicas) <= max_ratio * mean


@given(REPLICAS, REQUEST_COUNTS, KEYS.filter(bool))
def test_a_replica_above_its_load_bound_is_never_picked(replicas: list[Replica], request_count: int, key: int) -> None:
    picked = prefix_affinity(replicas, PolicyInput(request_count, key))
    fair = sum(map(busy, replicas)) / sum(replica.limit for replica in replicas) * picked.limit
    assert busy(picked) + 1 <= fair + max(fair / 4, 2 * math.sqrt(1 + fair)) + 1e-6
