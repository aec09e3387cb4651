"""What a tenant may still do, and when again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admission.rate_limits import Bucket, Budget, Budgets, LimitExceeded
from service.auth.tenants import Tenant

AMOUNTS = st.floats(0.1, 500)
SECONDS = st.floats(0, 300)


@given(st.integers(1, 1000), st.lists(st.tuples(AMOUNTS, SECONDS), max_size=30))
def test_no_more_is_spent_than_a_full_bucket_and_what_flows_in(size: int, steps: list[tuple[float, float]]) -> None:
    bucket, now, spent = Bucket(size, 0.0), 0.0, 0.0
    for amount, pause in steps:
        now += pause
        if not bucket.wait(amount, now):
            # One that is larger than the bucket goes when it is full, and the debt keeps the next ones out.
            assert spent + min(amount, size) <= size + now * size / 60 + 1e-3
            bucket.spend(amount)
            spent += amount


@given(st.integers(1, 1000), st.lists(AMOUNTS, max_size=10), AMOUNTS)
def test_the_wait_is_the_true_one(size: int, spent: list[float], amount: float) -> None:
    bucket = Bucket(size, 0.0)
    for one in spent:
        bucket.spend(one)
    wait = bucket.wait(amount, 0.0)
    assert bucket.wait(amount, wait * 0.99) > 0 or wait < 1e-3
    assert bucket.wait(amount, wait) == 0


def test_a_clock_that_stands_or_steps_back_fills_nothing() -> None:
    bucket = Bucket(60, 100.0)
    bucket.spend(60)
    assert [bucket.wait(1, now) for now in (100.0, 50.0, 100.0)] == [1.0, 1.0, 1.0]


def test_what_is_put_back_never_overfills() -> None:
    bucket = Bucket(60, 0.0)
    bucket.spend(-100)
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
    ids=["in flight", "requests", "tokens", "the later of two", "within all"],
)
def test_each_bound_says_when_it_allows_more(tenant: Tenant, exceeded: LimitExceeded | None) -> None:
    budget = Budget(tenant, 1, 0.0)
    for cost in (800, 100):
        assert budget.exceeded(cost, 0.0) is None
        budget.enter(cost)
    assert budget.exceeded(1000 if exceeded else 300, 0.0 if exceeded else 60.0) == exceeded


def test_tokens_are_reserved_as_thought_and_corrected_at_the_end() -> None:
    budget = Budget(Tenant("x", tokens_per_minute=600), 1, 0.0)
    budget.enter(500)
    assert budget.exceeded(200, 0.0) == LimitExceeded("600 tokens per minute", 10.0)
    budget.leave(500, 100)
    assert budget.exceeded(500, 0.0) is None
    budget.enter(100)
    budget.leave(100, 1000)
    assert budget.exceeded(100, 0.0) == LimitExceeded("600 tokens per minute", 60.0)


def test_who_was_turned_away_has_spent_nothing() -> None:
    budget = Budget(Tenant("x", requests_per_minute=1, tokens_per_minute=100, max_in_flight=1), 1, 0.0)
    budget.enter(100)
    assert budget.exceeded(1, 0.0)
    budget.cancel(100)
    assert budget.exceeded(100, 0.0) is None


def test_one_larger_than_the_budget_goes_when_nothing_else_was_spent() -> None:
    budget = Budget(Tenant("x", tokens_per_minute=100), 1, 0.0)
    assert budget.exceeded(250, 0.0) is None
    budget.enter(250)
    budget.leave(250, 250)
    assert budget.exceeded(10, 0.0) == LimitExceeded("100 tokens per minute", 96.0)


def test_gateways_share_a_budget() -> None:
    tenant = Tenant("x", max_in_flight=4, requests_per_minute=4)
    budgets = [Budgets(2).of(tenant, 0.0) for _ in range(2)]
    for budget in budgets:
        assert budget
        for _ in range(2):
            assert budget.exceeded(1, 0.0) is None
            budget.enter(1)
        assert budget.exceeded(1, 0.0) == LimitExceeded("4 requests in flight", None)
        budget.leave(1, 1)
        assert budget.exceeded(1, 0.0) == LimitExceeded("4 requests per minute", 30.0)


def test_a_tenant_without_bounds_costs_nothing() -> None:
    budgets = Budgets(1)
    assert budgets.of(Tenant("x", weight=2, priority="batch"), 0.0) is None
    assert len(budgets) == 0


def test_changed_bounds_count_at_once_and_what_was_spent_stays_so() -> None:
    budgets = Budgets(1)
    budget = budgets.of(Tenant("x", requests_per_minute=10), 0.0)
    assert budget
    for _ in range(10):
        budget.enter(1)
    assert budgets.of(Tenant("x", requests_per_minute=5, max_in_flight=11), 0.0) is budget
    assert budget.exceeded(1, 0.0) == LimitExceeded("5 requests per minute", 12.0)
    budget.enter(1)
    assert budget.exceeded(1, 60.0) == LimitExceeded("11 requests in flight", None)
    budgets.of(Tenant("x", max_in_flight=12), 0.0)
    assert budget.exceeded(1, 0.0) is None


def test_who_is_gone_is_forgotten_when_nothing_is_in_flight() -> None:
    budgets = Budgets(1)
    bound = {name: Tenant(name, max_in_flight=1) for name in ("stays", "busy", "gone", "freed")}
    for tenant in bound.values():
        assert budgets.of(tenant, 0.0)
    busy = budgets.of(bound["busy"], 0.0)
    assert busy
    busy.enter(1)
    budgets.keep({"stays": bound["stays"], "freed": Tenant("freed")})
    assert len(budgets) == 2
    busy.leave(1, 1)
    budgets.keep({"stays": bound["stays"]})
    assert len(budgets) == 1
