"""How fast places become free, and what those refused are told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admission.service_rate import LONGEST, UNKNOWN, ServiceRate, retry_after


def run(drain: ServiceRate, now: float, places: int, seconds: float, rounds: int) -> float:
    """So many places are held all the time, and `rounds` requests one after another in each take `seconds`."""
    for _ in range(rounds):
        now += seconds
        for _ in range(places):
            drain.end(now, places)
    return now


@pytest.mark.parametrize("places", [1, 4, 64, 300])
@pytest.mark.parametrize("seconds", [0.01, 1.0, 40.0])
def test_it_is_measured(places: int, seconds: float) -> None:
    drain = ServiceRate(0.0)
    run(drain, 0.0, places, seconds, 200)
    assert drain.rate(places) == pytest.approx(places / seconds, rel=0.15)


def test_it_knows_when_each_place_was_free_once() -> None:
    drain = ServiceRate(0.0)
    assert not drain.knows(0)
    for _ in range(7):
        drain.end(1.0, 8)
    assert not drain.knows(8)
    drain.end(1.0, 8)
    assert drain.knows(8)
    assert not drain.knows(0)


def test_many_that_begin_together_do_not_look_like_engines_that_hang() -> None:
    drain = ServiceRate(0.0)
    now = run(drain, 0.0, 256, 1.0, 10)
    drain.hold(now + 0.99, 256)
    assert drain.rate(256) > 192


def test_idle_time_says_nothing() -> None:
    drain = ServiceRate(0.0)
    now = run(drain, 0.0, 4, 2.0, 25)
    before = drain.rate(4)
    drain.hold(now + 86400.0, 0)
    assert drain.rate(4) == before


def test_little_load_foretells_full_load() -> None:
    drain = ServiceRate(0.0)
    run(drain, 0.0, 1, 2.0, 200)
    assert drain.rate(100) == pytest.approx(50.0, rel=0.05)


def test_engines_that_hang_count_as_slower_and_slower() -> None:
    drain = ServiceRate(0.0)
    now = run(drain, 0.0, 4, 1.0, 50)
    rates = []
    for _ in range(4):
        now += 60.0
        drain.hold(now, 4)
        rates.append(drain.rate(4))
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.5


def test_it_follows_what_changes() -> None:
    drain = ServiceRate(0.0)
    now = run(drain, 0.0, 4, 100.0, 1250)
    run(drain, now, 4, 1.0, 250)
    assert drain.rate(4) == pytest.approx(4.0, rel=0.25)


def test_a_time_before_the_last_one_counts_for_nothing() -> None:
    drain = ServiceRate(100.0)
    drain.hold(110.0, 4)
    before = drain.rate(4)
    drain.hold(105.0, 4)
    assert drain.rate(4) == before


@given(st.integers(1, 10**6), st.floats(0, 1e6), st.floats(0, 1))
def test_a_wait_is_whole_seconds_and_never_shorter_than_the_true_one(position: int, rate: float, chance: float) -> None:
    wait = retry_after(position, rate, chance)
    true = position / rate if rate else UNKNOWN
    assert wait == int(wait) >= max(1, min(true, LONGEST))
    assert wait <= 1 + 1.5 * max(1, min(true + 1, LONGEST))


@given(st.integers(1, 1000), st.integers(1, 1000), st.floats(0.01, 100), st.floats(0, 1))
def test_who_is_further_behind_waits_no_less(position: int, more: int, rate: float, chance: float) -> None:
    assert retry_after(position + more, rate, chance) >= retry_after(position, rate, chance)


def test_those_refused_together_come_back_apart() -> None:
    assert len({retry_after(20, 1.0, number / 100) for number in range(100)}) == 11
    assert {retry_after(1, 1.0, number / 100) for number in range(100)} == {1.0, 2.0}
