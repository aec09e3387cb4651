"""The circuit breaker: when it ejects a replica, for how long, and how the half-open state ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.upstreams.breaker import BASE_EJECTION, MAX_EJECTION, TOLERATED_FAILURES, Breaker
from service.upstreams.replica import Replica
from tests.upstreams.test_limit import READY

EJECTION_TIMES = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, MAX_EJECTION, MAX_EJECTION]


def ejected(times: int = 1, now: float = 0.0) -> tuple[Breaker, float]:
    """A breaker after so many ejections in a row, and the time of the last one."""
    breaker = Breaker()
    for number in range(times):
        now = max(now, breaker.retry_at)
        breaker.record_failure(now, refused=not number)
    return breaker, now


def test_three_failures_in_a_row_eject() -> None:
    breaker = Breaker()
    for _ in range(TOLERATED_FAILURES):
        breaker.record_failure(5.0)
        assert breaker.usable(5.0) and breaker.closed
    breaker.record_failure(5.0)
    assert not breaker.usable(5.0)
    assert not breaker.closed


def test_a_success_resets_the_count() -> None:
    breaker = Breaker()
    for _ in range(5 * TOLERATED_FAILURES):
        breaker.record_failure(5.0)
        breaker.record_success()
    assert breaker.closed


def test_a_refused_connection_ejects_at_once() -> None:
    breaker, _ = ejected()
    assert not breaker.usable(BASE_EJECTION - 0.01)
    assert breaker.usable(BASE_EJECTION)


def test_ejection_times_double_up_to_the_maximum() -> None:
    seen = []
    for times in range(1, len(EJECTION_TIMES) + 1):
        breaker, now = ejected(times)
        seen.append(breaker.retry_at - now)
    assert seen == EJECTION_TIMES


def test_failures_of_earlier_requests_do_not_prolong_an_ejection() -> None:
    breaker, now = ejected()
    for _ in range(50):
        breaker.record_failure(now + 0.5, refused=True)
    assert breaker.retry_at == now + BASE_EJECTION


def test_half_open_has_capacity_for_one_request_at_a_time() -> None:
    breaker, now = ejected(3)
    replica = Replica("a", "/a", READY, limit=9, breaker=breaker)
    assert replica.capacity(breaker.retry_at - 0.01) == 0
    now = breaker.retry_at
    assert replica.capacity(now) == 1
    breaker.record_request(now)
    assert replica.capacity(now + 3.9) == 0  # the last ejection took 4 s
    assert replica.capacity(now + 4.0) == 1  # the first trial request has had no outcome
    breaker.record_success()
    assert replica.capacity(now) == 9


def test_a_trial_without_outcome_expires() -> None:
    breaker, now = ejected()
    breaker.record_request(now + BASE_EJECTION)
    assert not breaker.usable(now + BASE_EJECTION)
    assert breaker.usable(now + 2 * BASE_EJECTION)


def test_a_failed_trial_doubles_the_ejection() -> None:
    breaker, now = ejected()
    breaker.record_request(now + 1.0)
    breaker.record_failure(now + 1.5)
    assert not breaker.usable(now + 3.4)
    assert breaker.usable(now + 3.5)


@pytest.mark.parametrize(("before", "now", "trial_due"), [(0, 0.9, False), (0.9, 1.0, True), (1.0, 1.1, False)])
def test_trial_due_is_true_once(before: float, now: float, trial_due: bool) -> None:
    breaker, _ = ejected()
    assert breaker.trial_due(before, now) == trial_due
    assert not Breaker().trial_due(before, now)


@given(st.lists(st.tuples(st.floats(0, 100), st.sampled_from(["failure", "refused", "success", "request"]))))
def test_every_ejection_ends_by_the_maximum_or_with_a_success(steps: list[tuple[float, str]]) -> None:
    breaker, now = Breaker(), 0.0
    for wait, step in steps:
        now += wait
        if step == "success":
            breaker.record_success()
            assert breaker.usable(now) and breaker.closed
        elif step == "request":
            breaker.record_request(now)
        else:
            breaker.record_failure(now, step == "refused")
            assert step == "failure" or not breaker.usable(now)
        assert breaker.usable(now + MAX_EJECTION)
