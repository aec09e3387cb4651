"""Limits per tenant: its budgets of requests and tokens, and its requests in flight. Pure."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from service.admission.budgets import BudgetState, Counts, DayBudget, TokenBucket, Wall, day_of, used_part
from service.auth.tenants import Tenant
from service.errors import ApiError, ErrorCode, whole_seconds


@dataclass(frozen=True)
class LimitExceeded:
    """The limit that rejects a request, in words, and the seconds until it would admit it; None where not known."""

    limit: str
    seconds: float | None


class OverLimitError(ApiError):
    """The 429 for a request that its tenant's limits refuse for so many seconds; `states` are those of its budgets."""

    def __init__(self, tenant: Tenant, limit: str, seconds: float, states: tuple[BudgetState, ...]) -> None:
        wait = whole_seconds(seconds)
        message = f"Tenant '{tenant.id}' is at its limit of {limit}. Try again in {wait} s."
        super().__init__(ErrorCode.RATE_LIMIT_EXCEEDED, message, retry_after=seconds)
        self.states = states
        self.more_headers: Mapping[str, str] = {}

    @property
    def headers(self) -> dict[str, str]:
        """The headers that the answer has because of the error."""
        return super().headers | dict(self.more_headers)


class Booking(Protocol):
    """What a request has reserved in budgets that several gateways share."""

    @property
    def states(self) -> tuple[BudgetState, ...]:
        """Those budgets, as they were then."""

    def correct(self, requests: int, tokens: float) -> None:
        """Books that much more, or less, than was reserved."""


class Charge(msgspec.Struct, frozen=True):
    """What one request was charged: an estimated `cost` in tokens, on the day with that number.

    `booking` is what it has reserved in shared budgets, if there are some.
    """

    limiter: "TenantLimiter"
    cost: float
    day: int
    booking: Booking | None = None

    def settle(self, tokens: float) -> None:
        """The request has completed: corrects its cost to the `tokens` that it took."""
        self.limiter.settle(self.cost, tokens, self.day)
        if self.booking:
            self.booking.correct(0, tokens - self.cost)

    def refund(self) -> None:
        """The request ends without ever having been admitted: puts everything back that it was charged."""
        self.limiter.refund(self.cost, self.day)
        if self.booking:
            self.booking.correct(-1, -self.cost)

    def give_back(self, tokens: float) -> None:
        """The request, which was settled with these `tokens`, is charged once more: puts back what it was charged."""
        self.limiter.give_back(tokens, self.day)
        if self.booking:
            self.booking.correct(-1, -tokens)

    def states(self, now: float) -> tuple[BudgetState, ...]:
        """The tenant's budgets, as they are now; shared ones as they were when the request reserved its part."""
        return self.booking.states if self.booking else self.limiter.states(now)


class TenantLimiter:
    """The limits of one tenant. `in_flight` counts its requests here, queued or running.

    Where budgets are `shared` they are kept elsewhere, and it limits the requests in flight alone. `wall` is in Unix
    seconds.
    """

    def __init__(
        self, tenant: Tenant, gateways: int, now: float, wall: Wall = time.time, *, shared: bool = False
    ) -> None:  # fmt: skip
        self.in_flight = 0
        self._wall, self._shared = wall, shared
        self._requests: TokenBucket | None = None
        self._tokens: TokenBucket | None = None
        self._day_requests: DayBudget | None = None
        self._day_tokens: DayBudget | None = None
        self.change(tenant, gateways, now)

    def change(self, tenant: Tenant, gateways: int, now: float) -> None:
        """Applies the limits of `tenant`, of which each of `gateways` processes grants an equal part."""
        self.tenant, self._gateways = tenant, gateways
        part = tenant.per_gateway(gateways)
        self._max_in_flight = part.max_in_flight
        self._limits: dict[Counts, tuple[int, int]] = {
            "requests": (tenant.requests_per_minute or 0, tenant.requests_per_day or 0),
            "tokens": (tenant.tokens_per_minute or 0, tenant.tokens_per_day or 0),
        }
        if not self._shared:
            self._requests = _resized(self._requests, part.requests_per_minute, now)
            self._tokens = _resized(self._tokens, part.tokens_per_minute, now)
            self._day_requests = self._resized_day(self._day_requests, part.requests_per_day)
            self._day_tokens = self._resized_day(self._day_tokens, part.tokens_per_day)

    def exceeded(self, cost: float, now: float) -> LimitExceeded | None:
        """The limit that a request of `cost` tokens would exceed now; of several the one that recovers last."""
        if self._max_in_flight is not None and self.in_flight >= self._max_in_flight:
            return LimitExceeded(f"{self.tenant.max_in_flight} requests in flight", None)
        requests = self._requests.wait(1, now) if self._requests else 0.0
        tokens = self._tokens.wait(cost, now) if self._tokens else 0.0
        day_requests = self._day_requests.wait(1) if self._day_requests else 0.0
        day_tokens = self._day_tokens.wait(cost) if self._day_tokens else 0.0
        if requests or tokens or day_requests or day_tokens:
            return longest(self.tenant, requests, tokens, day_requests, day_tokens)
        return None

    def charge(self, cost: float, booking: Booking | None = None) -> Charge:
        """Charges a new request, with an estimated `cost` in tokens."""
        self.in_flight += 1
        if self._requests:
            self._requests.consume(1)
        if self._tokens:
            self._tokens.consume(cost)
        day = self._day_requests.consume(1) if self._day_requests else 0
        if self._day_tokens:
            day = self._day_tokens.consume(cost)
        return Charge(self, cost, day, booking)

    def settle(self, cost: float, tokens: float, day: int = 0) -> None:
        """A request has completed: corrects the `cost` that it was charged on that day to the `tokens` that it took."""
        self.in_flight -= 1
        if self._tokens:
            self._tokens.consume(tokens - cost)
        if self._day_tokens:
            self._day_tokens.correct(tokens - cost, day)

    def refund(self, cost: float, day: int = 0) -> None:
        """A request ends without ever having been admitted: puts everything back that it was charged on that day."""
        self.settle(cost, 0, day)
        self.give_back(0, day)

    def give_back(self, tokens: float, day: int = 0) -> None:
        """A request that was settled with these `tokens` does not count: puts back what is left of its charge."""
        if self._requests:
            self._requests.consume(-1)
        if self._tokens:
            self._tokens.consume(-tokens)
        if self._day_requests:
            self._day_requests.correct(-1, day)
        if self._day_tokens:
            self._day_tokens.correct(-tokens, day)

    def restore(self, requests: float, tokens: float) -> None:
        """Takes what was used today, before this process began, out of the budgets of the day."""
        if self._day_requests:
            self._day_requests.consume(requests)
        if self._day_tokens:
            self._day_tokens.consume(tokens)

    def states(self, now: float) -> tuple[BudgetState, ...]:
        """Of the budgets for requests and of those for tokens the one with the least left, as they are now.

        What remains in this process is told as its share of the whole.
        """
        part, states = self._gateways, []
        minutes: tuple[tuple[Counts, TokenBucket | None, DayBudget | None], ...] = (
            ("requests", self._requests, self._day_requests),
            ("tokens", self._tokens, self._day_tokens),
        )
        for counts, minute, day in minutes:
            in_minute = minute.left(now) if minute else math.inf
            in_day = day.left() if day else math.inf
            limit = self._limits[counts]
            if minute and in_minute <= in_day:
                states.append(BudgetState(counts, limit[0], in_minute * part, minute.reset(in_minute)))
            elif day:
                states.append(BudgetState(counts, limit[1], in_day * part, day.reset(in_day)))
        return tuple(states)

    def used(self, now: float) -> dict[str, float]:
        """The part that is used of each budget, from 0 to 1, by the budget's name."""
        minutes = {"requests_per_minute": self._requests, "tokens_per_minute": self._tokens}
        days = {"requests_per_day": self._day_requests, "tokens_per_day": self._day_tokens}
        left = {name: minute.left(now) / minute.size for name, minute in minutes.items() if minute}
        left |= {name: day.left() / day.size for name, day in days.items() if day}
        return {name: used_part(1 - part) for name, part in left.items()}

    def _resized_day(self, budget: DayBudget | None, size: int | None) -> DayBudget | None:
        if size is None:
            return None
        if budget is None:
            return DayBudget(size, self._wall)
        budget.resize(size)
        return budget


def longest(
    tenant: Tenant, requests: float, tokens: float, day_requests: float, day_tokens: float
) -> LimitExceeded | None:  # fmt: skip
    """The limit with the longest of these waits, in seconds; None if there is nothing to wait for."""
    waits = (
        (day_tokens, tenant.tokens_per_day, "tokens per day"),
        (day_requests, tenant.requests_per_day, "requests per day"),
        (tokens, tenant.tokens_per_minute, "tokens per minute"),
        (requests, tenant.requests_per_minute, "requests per minute"),
    )
    seconds, limit, what = max(waits, key=lambda row: row[0])
    return LimitExceeded(f"{limit} {what}", seconds) if seconds else None


class RateLimiter:
    """The limiters of all tenants that have limits, in one of `gateways` processes that share each limit.

    `shared` says that budgets are kept elsewhere, for all of them together.
    """

    def __init__(self, gateways: int, wall: Wall = time.time, *, shared: bool = False) -> None:
        self._gateways, self._wall, self._shared = gateways, wall, shared
        self._limiters: dict[str, TenantLimiter] = {}
        self._restored: tuple[int, dict[str, tuple[float, float]]] = 0, {}

    def restore(self, day: int, used: Mapping[str, tuple[float, float]]) -> None:
        """Takes the requests and tokens that tenants used on that day before this process began out of its budgets."""
        self._restored = day, dict(used)

    def __len__(self) -> int:
        return len(self._limiters)

    def of(self, tenant: Tenant, now: float) -> TenantLimiter | None:
        """The tenant's limiter with the limits it has now; None for a tenant without limits."""
        limiter = self._limiters.get(tenant.id)
        if limiter and limiter.tenant is tenant:
            return limiter
        if not tenant.is_limited:
            return None
        if limiter is None:
            limiter = TenantLimiter(tenant, self._gateways, now, self._wall, shared=self._shared)
            self._limiters[tenant.id] = limiter
            day, used = self._restored
            if tenant.id in used and day == day_of(self._wall()):
                limiter.restore(*used.pop(tenant.id))
        else:
            limiter.change(tenant, self._gateways, now)
        return limiter

    def used(self, tenant: Tenant, now: float) -> dict[str, float]:
        """The part that is used of each of the tenant's budgets, from 0 to 1."""
        limiter = self.of(tenant, now)
        return limiter.used(now) if limiter else {}

    def keep(self, tenants: Mapping[str, Tenant]) -> None:
        """Drops the limiters of tenants that are gone or no longer limited, once they have nothing in flight."""
        self._limiters = {
            name: limiter
            for name, limiter in self._limiters.items()
            if limiter.in_flight or (name in tenants and tenants[name].is_limited)
        }


def _resized(bucket: TokenBucket | None, size: int | None, now: float) -> TokenBucket | None:
    if size is None:
        return None
    if bucket is None:
        return TokenBucket(size, now)
    bucket.resize(size, now)
    return bucket
