"""When a replica that fails is left alone, and how it comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.upstreams.breaker import EJECTION, LONGEST_EJECTION, TOLERATED, Breaker
from service.upstreams.replica import Replica
from tests.upstreams.test_limit import READY

RESTS = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, LONGEST_EJECTION, LONGEST_EJECTION]


def ejected(times: int = 1, now: float = 0.0) -> tuple[Breaker, float]:
    """A breaker that was just ejected so many times in a row, and the time of that."""
    breaker = Breaker()
    for number in range(times):
        now = max(now, breaker.retry_at)
        breaker.failed(now, refused=not number)
    return breaker, now


def test_three_failures_in_a_row_eject() -> None:
    breaker = Breaker()
    for _ in range(TOLERATED):
        breaker.failed(5.0)
        assert breaker.usable(5.0) and breaker.closed
    breaker.failed(5.0)
    assert not breaker.usable(5.0)
    assert not breaker.closed


def test_a_success_in_between_starts_the_count_anew() -> None:
    breaker = Breaker()
    for _ in range(5 * TOLERATED):
        breaker.failed(5.0)
        breaker.succeeded()
    assert breaker.closed


def test_a_refused_connection_ejects_at_once() -> None:
    breaker, _ = ejected()
    assert not breaker.usable(EJECTION - 0.01)
    assert breaker.usable(EJECTION)


def test_each_ejection_in_a_row_lasts_longer() -> None:
    seen = []
    for times in range(1, len(RESTS) + 1):
        breaker, now = ejected(times)
        seen.append(breaker.retry_at - now)
    assert seen == RESTS


def test_what_was_sent_before_an_ejection_does_not_prolong_it() -> None:
    breaker, now = ejected()
    for _ in range(50):
        breaker.failed(now + 0.5, refused=True)
    assert breaker.retry_at == now + EJECTION


def test_on_trial_it_gets_one_request_at_a_time() -> None:
    breaker, now = ejected(3)
    replica = Replica("a", "/a", READY, limit=9, breaker=breaker)
    assert replica.capacity(breaker.retry_at - 0.01) == 0
    now = breaker.retry_at
    assert replica.capacity(now) == 1
    breaker.asked(now)
    assert replica.capacity(now + 3.9) == 0  # the last rest was 4 s
    assert replica.capacity(now + 4.0) == 1  # nobody knows what became of the first one
    breaker.succeeded()
    assert replica.capacity(now) == 9


def test_a_trial_that_nobody_finishes_blocks_nothing_for_ever() -> None:
    breaker, now = ejected()
    breaker.asked(now + EJECTION)
    assert not breaker.usable(now + EJECTION)
    assert breaker.usable(now + 2 * EJECTION)


def test_a_failed_trial_ejects_again() -> None:
    breaker, now = ejected()
    breaker.asked(now + 1.0)
    breaker.failed(now + 1.5)
    assert not breaker.usable(now + 3.4)
    assert breaker.usable(now + 3.5)


@pytest.mark.parametrize(("before", "now", "reopened"), [(0, 0.9, False), (0.9, 1.0, True), (1.0, 1.1, False)])
def test_the_end_of_a_rest_is_noticed_once(before: float, now: float, reopened: bool) -> None:
    breaker, _ = ejected()
    assert breaker.reopened(before, now) == reopened
    assert not Breaker().reopened(before, now)


@given(st.lists(st.tuples(st.floats(0, 100), st.sampled_from(["failed", "refused", "succeeded", "asked"]))))
def test_no_rest_is_longer_than_the_longest_and_success_ends_it(steps: list[tuple[float, str]]) -> None:
    breaker, now = Breaker(), 0.0
    for wait, step in steps:
        now += wait
        if step == "succeeded":
            breaker.succeeded()
            assert breaker.usable(now) and breaker.closed
        elif step == "asked":
            breaker.asked(now)
        else:
            breaker.failed(now, step == "refused")
            assert step == "failed" or not breaker.usable(now)
        assert breaker.usable(now + LONGEST_EJECTION)
