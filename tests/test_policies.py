"""Which replica gets the next request."""

from collections import Counter
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.entries import Entry
from service.policies import POLICIES, Policy, least_load, round_robin
from service.upstreams.replica import Replica

LOADS = st.lists(st.integers(0, 9), min_size=1, max_size=8)
TURNS = st.integers(0, 10**9)


def replicas(loads: list[int]) -> list[Replica]:
    """One replica for each number of requests in flight."""
    return [Replica(f"x-{number}", f"/x{number}", in_flight=load) for number, load in enumerate(loads)]


def test_the_fleet_file_knows_every_policy() -> None:
    assert set(get_args(Entry.model_fields["policy"].annotation)) == set(POLICIES)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@given(loads=LOADS, turn=TURNS)
def test_the_choice_is_one_of_the_replicas_and_leaves_them_alone(policy: Policy, loads: list[int], turn: int) -> None:
    given_ones = replicas(loads)
    chosen = policy(tuple(given_ones), turn)
    assert any(chosen is one for one in given_ones)
    assert [one.in_flight for one in given_ones] == loads


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@given(loads=LOADS, turn=TURNS)
def test_the_same_question_has_the_same_answer(policy: Policy, loads: list[int], turn: int) -> None:
    assert policy(replicas(loads), turn).id == policy(replicas(loads), turn).id


@given(LOADS, TURNS)
def test_least_load_never_takes_a_busier_one(loads: list[int], turn: int) -> None:
    assert least_load(replicas(loads), turn).in_flight == min(loads)


@given(LOADS)
def test_least_load_takes_turns_among_equals(loads: list[int]) -> None:
    seen = {least_load(replicas(loads), turn).id for turn in range(len(loads))}
    assert seen == {f"x-{number}" for number, load in enumerate(loads) if load == min(loads)}


@given(LOADS, TURNS)
def test_round_robin_visits_each_once_a_round(loads: list[int], turn: int) -> None:
    seen = Counter(round_robin(replicas(loads), turn + step).id for step in range(len(loads)))
    assert set(seen.values()) == {1}


@given(st.integers(1, 8), st.integers(1, 100))
def test_least_load_spreads_evenly(count: int, requests: int) -> None:
    ones = replicas([0] * count)
    for turn in range(requests):
        least_load(ones, turn).in_flight += 1
    loads = [one.in_flight for one in ones]
    assert max(loads) - min(loads) <= 1
