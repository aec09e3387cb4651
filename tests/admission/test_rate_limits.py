"""Token buckets, and the limits of a tenant: what they admit, and from when on again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admission.budgets import TokenBucket
from service.admission.rate_limits import LimitExceeded, RateLimiter, TenantLimiter
from service.auth.tenants import Tenant

AMOUNTS = st.floats(0.1, 500)
SECONDS = st.floats(0, 300)


@given(st.integers(1, 1000), st.lists(st.tuples(AMOUNTS, SECONDS), max_size=30))
def test_a_bucket_grants_at_most_its_size_plus_its_refill(size: int, steps: list[tuple[float, float]]) -> None:
    bucket, now, consumed = TokenBucket(size, 0.0), 0.0, 0.0
    for amount, pause in steps:
        now += pause
        if not bucket.wait(amount, now):
            # An amount larger than the bucket is granted when it is full, and the debt delays the next ones.
            assert consumed + min(amount, size) <= size + now * size / 60 + 1e-3
            bucket.consume(amount)
            consumed += amount


@given(st.integers(1, 1000), st.lists(AMOUNTS, max_size=10), AMOUNTS)
def test_wait_is_exact(size: int, amounts: list[float], amount: float) -> None:
    bucket = TokenBucket(size, 0.0)
    for consumed in amounts:
        bucket.consume(consumed)
    wait = bucket.wait(amount, 0.0)
    assert bucket.wait(amount, wait * 0.99) > 0 or wait < 1e-3
    assert bucket.wait(amount, wait) == 0


def test_a_clock_that_stops_or_goes_back_refills_nothing() -> None:
    bucket = TokenBucket(60, 100.0)
    bucket.consume(60)
    assert [bucket.wait(1, now) for now in (100.0, 50.0, 100.0)] == [1.0, 1.0, 1.0]


def test_putting_back_does_not_exceed_the_size() -> None:
    bucket = TokenBucket(60, 0.0)
    bucket.consume(-100)
    assert bucket.level == 60


@pytest.mark.parametrize(
    ("tenant", "exceeded"),
    [
        (Tenant("x", max_in_flight=2), LimitExceeded("2 requests in flight", None)),
        (Tenant("x", requests_per_minute=2), LimitExceeded("2 requests per minute", 30.0)),
        (Tenant("x", tokens_per_minute=1200), LimitExceeded("1200 tokens per minute", 35.0)),
        (Tenant("x", tokens_per_minute=1200, requests_per_minute=2), LimitExceeded("1200 tokens per minute", 35.0)),
        (Tenant("x", tokens_per_minute=1200, requests_per_minute=2, max_in_flight=3), None),
    ],
    ids=["in flight", "requests", "tokens", "the longer wait of two", "within all"],
)
def test_exceeded_names_the_limit_and_the_wait(tenant: Tenant, exceeded: LimitExceeded | None) -> None:
    limiter = TenantLimiter(tenant, 1, 0.0)
    for cost in (800, 100):
        assert limiter.exceeded(cost, 0.0) is None
        limiter.charge(cost)
    assert limiter.exceeded(1000 if exceeded else 300, 0.0 if exceeded else 60.0) == exceeded


def test_tokens_are_charged_as_estimated_and_corrected_on_completion() -> None:
    limiter = TenantLimiter(Tenant("x", tokens_per_minute=600), 1, 0.0)
    limiter.charge(500)
    assert limiter.exceeded(200, 0.0) == LimitExceeded("600 tokens per minute", 10.0)
    limiter.settle(500, 100)
    assert limiter.exceeded(500, 0.0) is None
    limiter.charge(100)
    limiter.settle(100, 1000)
    assert limiter.exceeded(100, 0.0) == LimitExceeded("600 tokens per minute", 60.0)


def test_refund_restores_what_was_charged() -> None:
    limiter = TenantLimiter(Tenant("x", requests_per_minute=1, tokens_per_minute=100, max_in_flight=1), 1, 0.0)
    limiter.charge(100)
    assert limiter.exceeded(1, 0.0)
    limiter.refund(100)
    assert limiter.exceeded(100, 0.0) is None


def test_request_larger_than_the_limit_is_admitted_when_the_bucket_is_full() -> None:
    limiter = TenantLimiter(Tenant("x", tokens_per_minute=100), 1, 0.0)
    assert limiter.exceeded(250, 0.0) is None
    limiter.charge(250)
    limiter.settle(250, 250)
    assert limiter.exceeded(10, 0.0) == LimitExceeded("100 tokens per minute", 96.0)


def test_gateway_processes_share_a_limit() -> None:
    tenant = Tenant("x", max_in_flight=4, requests_per_minute=4)
    limiters = [RateLimiter(2).of(tenant, 0.0) for _ in range(2)]
    for limiter in limiters:
        assert limiter
        for _ in range(2):
            assert limiter.exceeded(1, 0.0) is None
            limiter.charge(1)
        assert limiter.exceeded(1, 0.0) == LimitExceeded("4 requests in flight", None)
        limiter.settle(1, 1)
        assert limiter.exceeded(1, 0.0) == LimitExceeded("4 requests per minute", 30.0)


def test_tenant_without_limits_has_no_limiter() -> None:
    limiters = RateLimiter(1)
    assert limiters.of(Tenant("x", weight=2, priority="batch"), 0.0) is None
    assert len(limiters) == 0


def test_changed_limits_apply_at_once_and_keep_what_was_charged() -> None:
    limiters = RateLimiter(1)
    limiter = limiters.of(Tenant("x", requests_per_minute=10), 0.0)
    assert limiter
    for _ in range(10):
        limiter.charge(1)
    assert limiters.of(Tenant("x", requests_per_minute=5, max_in_flight=11), 0.0) is limiter
    assert limiter.exceeded(1, 0.0) == LimitExceeded("5 requests per minute", 12.0)
    limiter.charge(1)
    assert limiter.exceeded(1, 60.0) == LimitExceeded("11 requests in flight", None)
    limiters.of(Tenant("x", max_in_flight=12), 0.0)
    assert limiter.exceeded(1, 0.0) is None


def test_limiters_of_removed_tenants_are_dropped_once_idle() -> None:
    limiters = RateLimiter(1)
    limited = {name: Tenant(name, max_in_flight=1) for name in ("stays", "busy", "gone", "freed")}
    for tenant in limited.values():
        assert limiters.of(tenant, 0.0)
    busy = limiters.of(limited["busy"], 0.0)
    assert busy
    busy.charge(1)
    limiters.keep({"stays": limited["stays"], "freed": Tenant("freed")})
    assert len(limiters) == 2
    busy.settle(1, 1)
    limiters.keep({"stays": limited["stays"]})
    assert len(limiters) == 1
