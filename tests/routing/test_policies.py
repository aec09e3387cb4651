"""Which replica gets the next request."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
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
TURNS = st.integers(0, 10**9)
KEYS = st.integers(0, 2**64 - 1)
READINGS = st.none() | st.builds(
    EngineStats, st.just(0.0), st.integers(0, 300), st.integers(0, 300), st.floats(0, 1), st.just(0.0)
)
FLEETS = st.lists(
    st.builds(
        lambda in_flight, limit, reading: Replica("", "", in_flight=in_flight, limit=limit, stats=reading),
        st.integers(0, 300), st.integers(1, 512), READINGS,
    ),
    min_size=1, max_size=8,
).map(lambda ones: [replace(one, id=f"x-{number}") for number, one in enumerate(ones)])  # fmt: skip

every_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


def replicas(loads: list[int], limit: int = 256) -> list[Replica]:
    """One replica for each number of requests in flight."""
    return [Replica(f"x-{number}", f"/x{number}", in_flight=load, limit=limit) for number, load in enumerate(loads)]


def halves(context: int, conversation: int) -> int:
    return context << 32 | conversation


def spread(number: int) -> int:
    """Another 32 bits for each number, as different as those of a hash."""
    return number * 2654435761 % 2**32


def alone(number: int) -> PolicyInput:
    """The choice for a conversation without a shared context."""
    return PolicyInput(number, halves(spread(number), spread(number)))


def within(context: int, number: int) -> PolicyInput:
    """The choice for a conversation over a shared context."""
    return PolicyInput(number, halves(spread(context), spread(number)))


def test_the_fleet_file_knows_every_policy() -> None:
    assert set(get_args(ModelEntry.model_fields["policy"].annotation)) == set(POLICIES)


@every_policy
@given(ones=FLEETS, turn=TURNS, key=KEYS)
def test_the_choice_is_one_of_the_replicas_and_leaves_them_alone(
    policy: Policy, ones: list[Replica], turn: int, key: int
) -> None:
    before = [vars(one).copy() for one in ones]
    chosen = policy(tuple(ones), PolicyInput(turn, key))
    assert any(chosen is one for one in ones)
    assert [vars(one) for one in ones] == before


@every_policy
@given(ones=FLEETS, turn=TURNS, key=KEYS)
def test_the_same_question_has_the_same_answer(policy: Policy, ones: list[Replica], turn: int, key: int) -> None:
    copies = [replace(one) for one in ones]
    assert policy(ones, PolicyInput(turn, key)).id == policy(copies, PolicyInput(turn, key)).id


@given(FLEETS, TURNS, KEYS)
def test_least_load_never_takes_a_busier_one(ones: list[Replica], turn: int, key: int) -> None:
    assert load(least_load(ones, PolicyInput(turn, key))) == min(map(load, ones))


@given(LOADS)
def test_least_load_takes_turns_among_equals(loads: list[int]) -> None:
    seen = {least_load(replicas(loads), PolicyInput(turn, 0)).id for turn in range(len(loads))}
    assert seen == {f"x-{number}" for number, load in enumerate(loads) if load == min(loads)}


@given(LOADS, TURNS)
def test_round_robin_visits_each_once_a_round(loads: list[int], turn: int) -> None:
    seen = Counter(round_robin(replicas(loads), PolicyInput(turn + step, 0)).id for step in range(len(loads)))
    assert set(seen.values()) == {1}


@pytest.mark.parametrize("policy", [least_load, prefix_affinity], ids=lambda policy: policy.__name__)
@given(count=st.integers(1, 8), requests=st.integers(1, 100))
def test_without_a_key_the_load_is_spread_evenly(policy: Policy, count: int, requests: int) -> None:
    ones = replicas([0] * count)
    for turn in range(requests):
        policy(ones, PolicyInput(turn, 0)).in_flight += 1
    loads = [one.in_flight for one in ones]
    assert max(loads) - min(loads) <= 1


def test_load_is_a_part_of_what_a_replica_can_do() -> None:
    small, large = Replica("s", "/s", in_flight=8, limit=16), Replica("l", "/l", in_flight=9, limit=64)
    assert least_load([small, large], PolicyInput(0, 0)) is large


def test_an_engine_that_others_keep_busy_is_spared() -> None:
    ones = replicas([2, 3])
    ones[0].stats = replace(IDLE, running=10, waiting=10)
    assert least_load(ones, PolicyInput(0, 0)) is ones[1]


@pytest.mark.parametrize("reading", [IDLE, replace(IDLE, running=5), replace(IDLE, running=3, waiting=2)])
def test_an_engine_that_knows_no_more_than_we_do_changes_nothing(reading: EngineStats) -> None:
    (one,) = replicas([5])
    one.stats = reading
    assert busy(one) == 5


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300))
def test_what_others_have_there_counts_but_not_more_than_it_is(ours: int, running: int, waiting: int) -> None:
    (one,) = replicas([ours])
    one.stats = replace(IDLE, running=running, waiting=waiting)
    assert ours <= busy(one) <= max(ours, running + waiting)


def test_several_gateways_do_not_all_turn_to_the_same_replica() -> None:
    """What an old reading says is not believed whole: two gateways that both made up for it would go too far."""
    (one,) = replicas([4])
    one.stats = replace(IDLE, running=6, waiting=4)
    assert 4 < busy(one) < 10


def test_a_full_kv_cache_counts_as_a_full_engine() -> None:
    ones = replicas([4, 100])
    ones[0].stats = replace(IDLE, running=4, kv_usage=1.0)
    assert least_load(ones, PolicyInput(0, 0)) is ones[1]
    ones[0].stats = replace(IDLE, running=4, kv_usage=0.85)
    assert least_load(ones, PolicyInput(0, 0)) is ones[0]


@given(LOADS.filter(lambda loads: len(loads) > 1), TURNS, KEYS)
def test_power_of_two_never_takes_the_busiest(loads: list[int], turn: int, key: int) -> None:
    ones = replicas(loads)
    busier = [one for one in ones if one.in_flight >= power_of_two(ones, PolicyInput(turn, key)).in_flight]
    assert len(busier) >= 2


@given(st.integers(2, 16), KEYS)
def test_power_of_two_draws_from_all(count: int, key: int) -> None:
    ones = replicas([0] * count)
    seen = Counter(power_of_two(ones, PolicyInput(turn, key)).id for turn in range(200 * count))
    assert len(seen) == count
    assert max(seen.values()) < 2 * 200


def test_gateways_that_count_alike_draw_differently() -> None:
    ones = replicas([0] * 8)
    assert len({power_of_two(ones, PolicyInput(3, spread(number))).id for number in range(50)}) > 2


def test_power_of_two_balances() -> None:
    ones = replicas([0] * 16)
    for turn in range(1600):
        power_of_two(ones, alone(turn)).in_flight += 1
    assert max(one.in_flight for one in ones) <= 105


@given(KEYS.filter(bool), st.lists(TURNS, min_size=2, max_size=5))
def test_what_belongs_together_stays_together(key: int, turns: list[int]) -> None:
    ones = replicas([3] * 5)
    assert len({prefix_affinity(ones, PolicyInput(turn, key)).id for turn in turns}) == 1


@given(KEYS.filter(bool), st.permutations(range(6)))
def test_the_order_of_the_replicas_does_not_matter(key: int, order: list[int]) -> None:
    ones = replicas([3] * 6)
    assert prefix_affinity([ones[one] for one in order], PolicyInput(0, key)) is prefix_affinity(
        ones, PolicyInput(0, key)
    )


@pytest.mark.parametrize("count", [2, 4, 16, 64])
def test_conversations_are_spread_evenly(count: int) -> None:
    """By more than chance, because nobody has anything to do yet."""
    ones = replicas([0] * count)
    seen = Counter(prefix_affinity(ones, alone(number)).id for number in range(1, 400 * count))
    assert len(seen) == count
    assert max(seen.values()) < 400 + 5 * math.sqrt(400)


@pytest.mark.parametrize("choice", [alone, lambda number: within(7 * number, number)], ids=["alone", "within"])
def test_only_the_keys_of_a_replica_that_goes_move(choice: Callable[[int], PolicyInput]) -> None:
    ones = replicas([0] * 5)
    for number in range(1, 300):
        asked = choice(number)
        before, after = prefix_affinity(ones, asked), prefix_affinity(ones[1:], asked)
        assert before is after or before is ones[0]


@given(st.integers(1, 2**32 - 1), st.integers(2, 16))
def test_conversations_over_one_context_share_a_replica_that_has_room(context: int, count: int) -> None:
    ones = replicas([5] * count)
    assert len({prefix_affinity(ones, within(context, number)).id for number in range(20)}) == 1


def test_conversations_that_leave_a_busy_context_go_each_their_own_way() -> None:
    ones = replicas([5] * 8)
    home = prefix_affinity(ones, within(1, 1))
    home.in_flight = 20
    chosen = [prefix_affinity(ones, within(1, number)) for number in range(200)]
    assert home not in chosen
    assert len({one.id for one in chosen}) == 7
    assert [prefix_affinity(ones, within(1, number)) for number in range(200)] == chosen


CROWDS: dict[str, Callable[[int], PolicyInput]] = {
    "one context": lambda number: within(1, number),
    "one conversation": lambda number: alone(1),
}


@pytest.mark.parametrize("count", [2, 4, 16])
@pytest.mark.parametrize("mean", [32, 80])
@pytest.mark.parametrize(("crowd", "bar"), [("one context", 1.27), ("one conversation", 1.4)])
def test_no_crowd_makes_a_hot_spot(crowd: str, bar: float, mean: int, count: int) -> None:
    ones = replicas([0] * count)
    for number in range(mean * count):
        prefix_affinity(ones, CROWDS[crowd](number)).in_flight += 1
    assert max(one.in_flight for one in ones) <= bar * mean


@given(FLEETS, TURNS, KEYS.filter(bool))
def test_a_replica_with_more_than_its_share_gets_nothing(ones: list[Replica], turn: int, key: int) -> None:
    chosen = prefix_affinity(ones, PolicyInput(turn, key))
    fair = sum(map(busy, ones)) / sum(one.limit for one in ones) * chosen.limit
    assert busy(chosen) + 1 <= fair + max(fair / 4, 2 * math.sqrt(1 + fair)) + 1e-6
