"""The measured service rate, and the Retry-After computed from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admission.service_rate import DEFAULT_WAIT, MAX_WAIT, ServiceRate, retry_after


def simulate(service_rate: ServiceRate, now: float, slots: int, seconds: float, rounds: int) -> float:
    """Holds all slots, with `rounds` requests of `seconds` one after another in each; returns the time at the end."""
    for _ in range(rounds):
        now += seconds
        for _ in range(slots):
            service_rate.complete(now, slots)
    return now


@pytest.mark.parametrize("slots", [1, 4, 64, 300])
@pytest.mark.parametrize("seconds", [0.01, 1.0, 40.0])
def test_rate_is_slots_per_second_of_service(slots: int, seconds: float) -> None:
    service_rate = ServiceRate(0.0)
    simulate(service_rate, 0.0, slots, seconds, 200)
    assert service_rate.rate(slots) == pytest.approx(slots / seconds, rel=0.15)


def test_rate_is_measured_after_one_completion_per_slot() -> None:
    service_rate = ServiceRate(0.0)
    assert not service_rate.is_measured(0)
    for _ in range(7):
        service_rate.complete(1.0, 8)
    assert not service_rate.is_measured(8)
    service_rate.complete(1.0, 8)
    assert service_rate.is_measured(8)
    assert not service_rate.is_measured(0)


def test_a_burst_that_began_together_does_not_look_like_a_hang() -> None:
    service_rate = ServiceRate(0.0)
    now = simulate(service_rate, 0.0, 256, 1.0, 10)
    service_rate.observe(now + 0.99, 256)
    assert service_rate.rate(256) > 192


def test_idle_time_does_not_lower_the_rate() -> None:
    service_rate = ServiceRate(0.0)
    now = simulate(service_rate, 0.0, 4, 2.0, 25)
    before = service_rate.rate(4)
    service_rate.observe(now + 86400.0, 0)
    assert service_rate.rate(4) == before


def test_rate_at_low_load_predicts_the_rate_at_full_load() -> None:
    service_rate = ServiceRate(0.0)
    simulate(service_rate, 0.0, 1, 2.0, 200)
    assert service_rate.rate(100) == pytest.approx(50.0, rel=0.05)


def test_rate_falls_while_nothing_completes() -> None:
    service_rate = ServiceRate(0.0)
    now = simulate(service_rate, 0.0, 4, 1.0, 50)
    rates = []
    for _ in range(4):
        now += 60.0
        service_rate.observe(now, 4)
        rates.append(service_rate.rate(4))
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.5


def test_rate_adapts_to_a_change() -> None:
    service_rate = ServiceRate(0.0)
    now = simulate(service_rate, 0.0, 4, 100.0, 1250)
    simulate(service_rate, now, 4, 1.0, 250)
    assert service_rate.rate(4) == pytest.approx(4.0, rel=0.25)


def test_a_clock_that_goes_back_is_ignored() -> None:
    service_rate = ServiceRate(100.0)
    service_rate.observe(110.0, 4)
    before = service_rate.rate(4)
    service_rate.observe(105.0, 4)
    assert service_rate.rate(4) == before


@given(st.integers(1, 10**6), st.floats(0, 1e6), st.floats(0, 1))
def test_retry_after_is_whole_seconds_and_at_least_the_expected_wait(position: int, rate: float, jitter: float) -> None:
    wait = retry_after(position, rate, jitter)
    expected = position / rate if rate else DEFAULT_WAIT
    assert wait == int(wait) >= max(1, min(expected, MAX_WAIT))
    assert wait <= 1 + 1.5 * max(1, min(expected + 1, MAX_WAIT))


@given(st.integers(1, 1000), st.integers(1, 1000), st.floats(0.01, 100), st.floats(0, 1))
def test_retry_after_grows_with_the_position(position: int, more: int, rate: float, jitter: float) -> None:
    assert retry_after(position + more, rate, jitter) >= retry_after(position, rate, jitter)


def test_jitter_spreads_clients_rejected_together() -> None:
    assert len({retry_after(20, 1.0, number / 100) for number in range(100)}) == 11
    assert {retry_after(1, 1.0, number / 100) for number in range(100)} == {1.0, 2.0}
