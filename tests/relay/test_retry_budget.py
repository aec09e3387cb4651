"""The bound on concurrent retries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.relay.retry_budget import RetryBudget


@pytest.mark.parametrize(("in_flight", "allowed"), [(0, 3), (1, 3), (39, 3), (40, 4), (49, 4), (1000, 100)])
def test_a_tenth_of_the_requests_in_flight_and_at_least_a_few(in_flight: int, allowed: int) -> None:
    budget = RetryBudget()
    assert [budget.acquire(in_flight) for _ in range(allowed + 2)] == [True] * allowed + [False] * 2


def test_a_released_retry_can_be_acquired_again() -> None:
    budget = RetryBudget(min_concurrent=1)
    assert budget.acquire(0)
    assert not budget.acquire(0)
    budget.release()
    assert budget.acquire(0)


def test_retries_over_a_shrunken_budget_may_finish() -> None:
    budget = RetryBudget(min_concurrent=1)
    assert all(budget.acquire(100) for _ in range(10))
    for left in (9, 8, 7):
        assert not budget.acquire(10)
        budget.release()
        assert budget.running == left


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 200))))
def test_the_bound_is_never_exceeded(steps: list[tuple[bool, int]]) -> None:
    budget = RetryBudget()
    for acquires, in_flight in steps:
        before = budget.running
        if acquires:
            acquired = budget.acquire(in_flight)
            assert acquired is (before < max(3, in_flight // 10))
            assert budget.running == before + acquired
        elif before:
            budget.release()
            assert budget.running == before - 1
