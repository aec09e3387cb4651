"""Limits per tenant: requests and tokens per minute, as token buckets, and requests in flight. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from service.auth.tenants import Tenant

MINUTE = 60.0
TOLERANCE = 1e-6  # of an amount: summed fractions may fall short of it by rounding


class TokenBucket:
    """A token bucket that holds at most `size` and refills by `size` per minute. Times are monotonic seconds.

    `level` is negative while more has been consumed than was available, which happens when a request takes more tokens
    than estimated.
    """

    def __init__(self, size: float, now: float) -> None:
        self.size = self.level = size
        self._refilled_at = now

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` is available; an amount larger than the bucket is available when it is full."""
        if now > self._refilled_at:
            self._refill(now)
        missing = (amount if amount < self.size else self.size) - self.level
        return missing / self.size * MINUTE if missing > TOLERANCE else 0.0

    def consume(self, amount: float) -> None:
        """Takes `amount` out, available or not; a negative amount is put back."""
        level = self.level - amount
        self.level = level if level < self.size else self.size

    def resize(self, size: float, now: float) -> None:
        """Changes the size, and with it the refill rate, from now on."""
        if now > self._refilled_at:
            self._refill(now)
        self.size, self.level = size, min(size, self.level)

    def _refill(self, now: float) -> None:
        level = self.level + (now - self._refilled_at) * self.size / MINUTE
        self.level = level if level < self.size else self.size
        self._refilled_at = now


@dataclass(frozen=True)
class LimitExceeded:
    """The limit that rejects a request, in words, and the seconds until it would admit it; None where not known."""

    limit: str
    seconds: float | None


class TenantLimiter:
    """The limits of one tenant. `in_flight` counts its requests here, queued or running."""

    def __init__(self, tenant: Tenant, gateways: int, now: float) -> None:
        self.in_flight = 0
        self._requests: TokenBucket | None = None
        self._tokens: TokenBucket | None = None
        self.change(tenant, gateways, now)

    def change(self, tenant: Tenant, gateways: int, now: float) -> None:
        """Applies the limits of `tenant`, of which each of `gateways` processes grants an equal part."""
        self.tenant = tenant
        part = tenant.per_gateway(gateways)
        self._max_in_flight = part.max_in_flight
        self._requests = _resized(self._requests, part.requests_per_minute, now)
        self._tokens = _resized(self._tokens, part.tokens_per_minute, now)

    def exceeded(self, cost: float, now: float) -> LimitExceeded | None:
        """The limit that a request of `cost` tokens would exceed now; of two the one that takes longer to recover."""
        if self._max_in_flight is not None and self.in_flight >= self._max_in_flight:
            return LimitExceeded(f"{self.tenant.max_in_flight} requests in flight", None)
        requests = self._requests.wait(1, now) if self._requests else 0.0
        tokens = self._tokens.wait(cost, now) if self._tokens else 0.0
        if not (requests or tokens):
            return None
        if requests > tokens:
            return LimitExceeded(f"{self.tenant.requests_per_minute} requests per minute", requests)
        return LimitExceeded(f"{self.tenant.tokens_per_minute} tokens per minute", tokens)

    def charge(self, cost: float) -> None:
        """Charges a new request, with an estimated `cost` in tokens."""
        self.in_flight += 1
        if self._requests:
            self._requests.consume(1)
        if self._tokens:
            self._tokens.consume(cost)

    def settle(self, cost: float, tokens: float) -> None:
        """A request has completed: corrects the `cost` that it was charged to the `tokens` that it took."""
        self.in_flight -= 1
        if self._tokens:
            self._tokens.consume(tokens - cost)

    def refund(self, cost: float) -> None:
        """A request ends without ever having been admitted: puts everything back that it was charged."""
        self.in_flight -= 1
        if self._requests:
            self._requests.consume(-1)
        if self._tokens:
            self._tokens.consume(-cost)


class RateLimiter:
    """The limiters of all tenants that have limits, in one of `gateways` processes that share each limit."""

    def __init__(self, gateways: int) -> None:
        self._gateways = gateways
        self._limiters: dict[str, TenantLimiter] = {}

    def __len__(self) -> int:
        return len(self._limiters)

    def of(self, tenant: Tenant, now: float) -> TenantLimiter | None:
        """The tenant's limiter with the limits it has now; None for a tenant without limits."""
        if not _is_limited(tenant):
            return None
        limiter = self._limiters.get(tenant.id)
        if limiter is None:
            limiter = self._limiters[tenant.id] = TenantLimiter(tenant, self._gateways, now)
        elif limiter.tenant is not tenant:
            limiter.change(tenant, self._gateways, now)
        return limiter

    def keep(self, tenants: Mapping[str, Tenant]) -> None:
        """Drops the limiters of tenants that are gone or no longer limited, once they have nothing in flight."""
        self._limiters = {
            name: limiter
            for name, limiter in self._limiters.items()
            if limiter.in_flight or (name in tenants and _is_limited(tenants[name]))
        }


def _is_limited(tenant: Tenant) -> bool:
    return (
        tenant.requests_per_minute is not None
        or tenant.tokens_per_minute is not None
        or tenant.max_in_flight is not None
    )


def _resized(bucket: TokenBucket | None, size: int | None, now: float) -> TokenBucket | None:
    if size is None:
        return None
    if bucket is None:
        return TokenBucket(size, now)
    bucket.resize(size, now)
    return bucket
