"""How many second attempts may run at the same time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.relay.retry_budget import RetryBudget


@pytest.mark.parametrize(("in_flight", "most"), [(0, 3), (1, 3), (39, 3), (40, 4), (49, 4), (1000, 100)])
def test_a_tenth_of_what_is_in_flight_and_always_a_few(in_flight: int, most: int) -> None:
    retries = RetryBudget()
    assert [retries.take(in_flight) for _ in range(most + 2)] == [True] * most + [False] * 2


def test_one_given_back_may_be_taken_again() -> None:
    retries = RetryBudget(least=1)
    assert retries.take(0)
    assert not retries.take(0)
    retries.give_back()
    assert retries.take(0)


def test_a_share_that_shrinks_takes_back_nothing() -> None:
    retries = RetryBudget(least=1)
    assert all(retries.take(100) for _ in range(10))
    for left in (9, 8, 7):
        assert not retries.take(10)
        retries.give_back()
        assert retries.running == left


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 200))))
def test_never_more_than_allowed(steps: list[tuple[bool, int]]) -> None:
    retries = RetryBudget()
    for takes, in_flight in steps:
        before = retries.running
        if takes:
            taken = retries.take(in_flight)
            assert taken is (before < max(3, in_flight // 10))
            assert retries.running == before + taken
        elif before:
            retries.give_back()
            assert retries.running == before - 1
