"""Budgets of a day, how they survive midnight and a restart, and how headers tell of them."""

import pytest

from service.admission.budgets import (
    DAY,
    BudgetState,
    DayBudget,
    anthropic_headers,
    day_of,
    openai_headers,
    span,
    tightest,
)
from service.admission.rate_limits import LimitExceeded, RateLimiter
from service.auth.tenants import Tenant
from tests.admission.harness import FakeClock

NOON = 20_000 * DAY + DAY / 2


def test_a_day_ends_at_midnight_utc_whenever_it_began() -> None:
    wall = FakeClock(NOON)
    budget = DayBudget(100, wall)
    budget.consume(100)
    assert budget.wait(1) == DAY / 2
    wall.now += DAY / 2 - 1
    assert budget.wait(1) == 1
    wall.now += 1
    assert budget.wait(100) == 0
    assert budget.left() == 100


def test_a_correction_belongs_to_the_day_of_its_request() -> None:
    wall = FakeClock(NOON)
    budget = DayBudget(100, wall)
    day = budget.consume(60)
    budget.correct(-50, day)
    assert budget.left() == 90
    wall.now += DAY
    budget.consume(30)
    for amount in (-60, 60):
        budget.correct(amount, day)
    assert budget.left() == 70


def test_more_than_a_whole_day_is_granted_while_nothing_is_used() -> None:
    budget = DayBudget(100, FakeClock(NOON))
    assert budget.wait(250) == 0
    budget.consume(250)
    assert budget.wait(1) == DAY / 2


@pytest.mark.parametrize(
    ("limits", "exceeded"),
    [
        ({"requests_per_day": 2}, LimitExceeded("2 requests per day", DAY / 2)),
        ({"tokens_per_day": 250}, LimitExceeded("250 tokens per day", DAY / 2)),
        ({"tokens_per_day": 250, "tokens_per_minute": 200}, LimitExceeded("250 tokens per day", DAY / 2)),
        ({"requests_per_day": 3, "requests_per_minute": 2}, LimitExceeded("2 requests per minute", 30.0)),
        ({"requests_per_day": 3, "tokens_per_day": 300}, None),
    ],
)
def test_the_limit_that_lasts_longest_is_named(limits: dict[str, int], exceeded: LimitExceeded | None) -> None:
    limiter = RateLimiter(1, FakeClock(NOON)).of(Tenant("x", **limits), 0.0)  # type: ignore[arg-type]
    assert limiter
    for _ in range(2):
        assert limiter.exceeded(100, 0.0) is None
        limiter.charge(100)
    assert limiter.exceeded(100, 0.0) == exceeded


def test_what_was_used_before_a_restart_is_used() -> None:
    tenant = Tenant("x", requests_per_day=10, tokens_per_day=1000)
    limiters = RateLimiter(1, FakeClock(NOON))
    limiters.restore(day_of(NOON), {"x": (9, 400)})
    limiter = limiters.of(tenant, 0.0)
    assert limiter
    assert [state.remaining for state in limiter.states(0.0)] == [1, 600]
    limiter.charge(100).settle(50)
    assert [state.remaining for state in limiter.states(0.0)] == [0, 550]
    stale = RateLimiter(1, FakeClock(NOON + DAY))
    stale.restore(day_of(NOON), {"x": (9, 400)})
    fresh = stale.of(tenant, 0.0)
    assert fresh and fresh.states(0.0)[0].remaining == 10


def test_a_refund_and_a_settlement_come_back_to_the_day() -> None:
    limiter = RateLimiter(1, FakeClock(NOON)).of(Tenant("x", requests_per_day=5, tokens_per_day=1000), 0.0)
    assert limiter
    limiter.charge(300).refund()
    limiter.charge(300).settle(120)
    assert [state.remaining for state in limiter.states(0.0)] == [4, 880]


def test_several_gateways_tell_the_whole_limit_and_their_share_of_what_remains() -> None:
    limiter = RateLimiter(2, FakeClock(NOON)).of(Tenant("x", requests_per_minute=10, tokens_per_day=1000), 0.0)
    assert limiter
    limiter.charge(100)
    assert limiter.states(0.0) == (
        BudgetState("requests", 10, 8, 12.0),
        BudgetState("tokens", 1000, 800, DAY / 2),
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (0.0174, "17ms"), (1, "1s"), (8.64, "8.64s"), (59.9996, "60s"), (360, "6m0s"), (86341, "23h59m1s"),
        (7200, "2h0m0s"),
    ],
)  # fmt: skip
def test_a_span_is_written_as_openai_writes_it(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_headers_tell_the_budget_with_the_least_left() -> None:
    states = [
        BudgetState("requests", 60, 59, 1.0),
        BudgetState("requests", 1000, 12, DAY / 2),
        BudgetState("tokens", 500, -20.5, 62.0),
    ]
    assert openai_headers(tightest(states)) == [
        (b"x-ratelimit-limit-requests", b"1000"),
        (b"x-ratelimit-remaining-requests", b"12"),
        (b"x-ratelimit-reset-requests", b"12h0m0s"),
        (b"x-ratelimit-limit-tokens", b"500"),
        (b"x-ratelimit-remaining-tokens", b"0"),
        (b"x-ratelimit-reset-tokens", b"1m2s"),
    ]
    assert anthropic_headers(states[:1], 0.0) == [
        (b"anthropic-ratelimit-requests-limit", b"60"),
        (b"anthropic-ratelimit-requests-remaining", b"59"),
        (b"anthropic-ratelimit-requests-reset", b"1970-01-01T00:00:01Z"),
    ]
