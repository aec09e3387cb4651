"""What each tenant may still do: pure, with the time passed in."""

from collections.abc import Mapping
from dataclasses import dataclass

from service.auth.tenants import Tenant

MINUTE = 60.0
ROUNDING = 1e-6  # how much less than enough is enough: what sums of fractions lose


class Bucket:
    """What may be spent: filled evenly, `size` in a minute, never above `size`. Times are monotonic seconds.

    What turns out to cost more than there was is owed: the level falls below zero.
    """

    def __init__(self, size: float, now: float) -> None:
        self.size = self.level = size
        self._at = now

    def wait(self, amount: float, now: float) -> float:
        """Seconds until so much may be spent. More than the whole bucket may be when it is full."""
        if now > self._at:
            self._fill(now)
        lacking = (amount if amount < self.size else self.size) - self.level
        return lacking / self.size * MINUTE if lacking > ROUNDING else 0.0

    def spend(self, amount: float) -> None:
        """Takes so much out, or puts it back where it is below zero."""
        level = self.level - amount
        self.level = level if level < self.size else self.size

    def resize(self, size: float, now: float) -> None:
        """Another size from now on."""
        if now > self._at:
            self._fill(now)
        self.size, self.level = size, min(size, self.level)

    def _fill(self, now: float) -> None:
        level = self.level + (now - self._at) * self.size / MINUTE
        self.level = level if level < self.size else self.size
        self._at = now


@dataclass(frozen=True)
class LimitExceeded:
    """The bound that is reached, in words, and the seconds until it allows the request; None where nobody can tell."""

    bound: str
    seconds: float | None


class Budget:
    """What one tenant has in flight here, waiting or running, and may still spend."""

    def __init__(self, tenant: Tenant, gateways: int, now: float) -> None:
        self.in_flight = 0
        self._requests: Bucket | None = None
        self._tokens: Bucket | None = None
        self.change(tenant, gateways, now)

    def change(self, tenant: Tenant, gateways: int, now: float) -> None:
        """Takes the bounds of `tenant`, of which one of so many gateways grants its part."""
        self.tenant = tenant
        part = tenant.per_gateway(gateways)
        self._most = part.max_in_flight
        self._requests = _changed(self._requests, part.requests_per_minute, now)
        self._tokens = _changed(self._tokens, part.tokens_per_minute, now)

    def exceeded(self, cost: float, now: float) -> LimitExceeded | None:
        """What keeps a request of `cost` tokens from coming in now."""
        if self._most is not None and self.in_flight >= self._most:
            return LimitExceeded(f"{self.tenant.max_in_flight} requests in flight", None)
        requests = self._requests.wait(1, now) if self._requests else 0.0
        tokens = self._tokens.wait(cost, now) if self._tokens else 0.0
        if not (requests or tokens):
            return None
        if requests > tokens:
            return LimitExceeded(f"{self.tenant.requests_per_minute} requests per minute", requests)
        return LimitExceeded(f"{self.tenant.tokens_per_minute} tokens per minute", tokens)

    def enter(self, cost: float) -> None:
        """A request comes in that is thought to take `cost` tokens."""
        self.in_flight += 1
        if self._requests:
            self._requests.spend(1)
        if self._tokens:
            self._tokens.spend(cost)

    def leave(self, cost: float, tokens: float) -> None:
        """It goes, and took so many tokens."""
        self.in_flight -= 1
        if self._tokens:
            self._tokens.spend(tokens - cost)

    def cancel(self, cost: float) -> None:
        """It goes and was never let in: it has spent nothing."""
        self.in_flight -= 1
        if self._requests:
            self._requests.spend(-1)
        if self._tokens:
            self._tokens.spend(-cost)


class Budgets:
    """The budgets of all tenants who have bounds, in one of `gateways` processes that share them out."""

    def __init__(self, gateways: int) -> None:
        self._gateways = gateways
        self._budgets: dict[str, Budget] = {}

    def __len__(self) -> int:
        return len(self._budgets)

    def of(self, tenant: Tenant, now: float) -> Budget | None:
        """The tenant's budget under the bounds it has now; None where it has none."""
        if not _is_bounded(tenant):
            return None
        budget = self._budgets.get(tenant.id)
        if budget is None:
            budget = self._budgets[tenant.id] = Budget(tenant, self._gateways, now)
        elif budget.tenant is not tenant:
            budget.change(tenant, self._gateways, now)
        return budget

    def keep(self, tenants: Mapping[str, Tenant]) -> None:
        """Forgets those of tenants who are gone or no longer bounded, once they have nothing in flight."""
        self._budgets = {
            name: budget
            for name, budget in self._budgets.items()
            if budget.in_flight or (name in tenants and _is_bounded(tenants[name]))
        }


def _is_bounded(tenant: Tenant) -> bool:
    return (
        tenant.requests_per_minute is not None
        or tenant.tokens_per_minute is not None
        or tenant.max_in_flight is not None
    )


def _changed(bucket: Bucket | None, size: int | None, now: float) -> Bucket | None:
    if size is None:
        return None
    if bucket is None:
        return Bucket(size, now)
    bucket.resize(size, now)
    return bucket
