"""The entrance of every generation request: its tenant's limits first, then a slot or the queue of its model."""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from service.admission.budgets import Wall
from service.admission.flow import Ticket
from service.admission.rate_limits import Booking, LimitExceeded, OverLimitError, RateLimiter, TenantLimiter
from service.admission.service_rate import retry_after
from service.admission.slots import Capacity, Clock, Slot, SlotPool, Waiting
from service.auth.tenants import Priority, Tenant
from service.config.settings import Settings
from service.errors import ApiError
from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel

if TYPE_CHECKING:
    from service.admission.shared_budgets import SharedBudgets


class Admission:
    """Admits a request if its tenant is within its limits and its model has free capacity, else queues or rejects it.

    `jitter` returns floats from 0 to 1, which spread the `Retry-After` of rejected requests; `wall` is in Unix seconds.
    Where all gateways count budgets together, in `shared`, a request of a tenant that has some reserves there first.
    """

    def __init__(
        self, settings: Settings, clock: Clock, jitter: Callable[[], float], wall: Wall = time.time,
        shared: "SharedBudgets | None" = None,
    ) -> None:  # fmt: skip
        self._timeout, self._clock, self._jitter = settings.queue_timeout, clock, jitter
        self.shared = shared
        self._limiter = RateLimiter(settings.gateway_processes, wall, shared=shared is not None)
        self._pools: dict[str, SlotPool] = {}

    def acquire(
        self,
        served: ServedModel,
        tenant: Tenant,
        priority: Priority,
        cost: float,
        capacity: Capacity,
        now: float,
        timeout: float | None = None,
        sequences: int = 1,
        session: str | None = None,
        booking: Booking | None = None,
    ) -> Slot:
        """Slots of the model, held at once or queued for at most `timeout` seconds (None: the fleet's or settings').

        `cost` is the estimate of the request's tokens, prompt and output, and `sequences` what it is for the engine, at
        least 1. The queued requests of one `session` of the tenant take turns with those of its others. `capacity` is
        called for every later admission too, so it must read the replicas each time. `booking` is what the request has
        reserved in shared budgets. Raises 429 if the tenant is over a limit, and 503 if the queue is full or the
        expected wait longer than the timeout.
        """
        pool = self._pools.get(served.id) or self._open(served.id)
        pool.capacity = capacity
        cost = cost if cost > 1.0 else 1.0
        limiter = self._limiter.of(tenant, now)
        if limiter and (exceeded := limiter.exceeded(cost, now)):
            raise self._over_limit(limiter, exceeded, pool, now)
        if pool.queued:
            pool.admit_queued(now)  # the replicas may have gained capacity since the last release
        if not pool.queued and capacity(now) > pool.unassigned:
            slot = Slot(pool, cost, sequences)
            pool.acquire(sequences, now)
        else:
            ticket = Ticket(tenant, priority, cost, sequences, session)
            if timeout is None:
                timeout = served.timeouts.queue or self._timeout
            slot = Slot(pool, cost, sequences, ticket, now + timeout)
            pool.enqueue(slot, ticket, served.max_queued, now)
        if limiter:
            slot.charge = limiter.charge(cost, booking)
        return slot

    def restore(self, day: int, used: Mapping[str, tuple[float, float]]) -> None:
        """Takes the requests and tokens that tenants used on that day out of what this process grants them."""
        self._limiter.restore(day, used)

    def used_budgets(self, tenant: Tenant, now: float) -> dict[str, float]:
        """The part that is used of each of the tenant's budgets, from 0 to 1, by the budget's name."""
        return self.shared.used(tenant) if self.shared else self._limiter.used(tenant, now)

    def wake_waiters(self, model_id: str | None = None) -> None:
        """Admits queued requests after the capacity of replicas has changed, of one model or of all (None)."""
        now = self._clock()
        for pool in self._pools.values():
            if model_id is None or pool.model_id == model_id:
                pool.admit_queued(now)

    def apply(self, fleet: Fleet) -> None:
        """Applies a changed fleet: drops the pools and limiters of what is gone once idle. Requests are unaffected."""
        ids = {served.id for served in fleet.served}
        self._pools = {name: pool for name, pool in self._pools.items() if name in ids or pool.held or pool.queued}
        self._limiter.keep(fleet.tenants)
        self.wake_waiters()

    def load(self, model_id: str) -> int:
        """How many requests of this model are admitted."""
        pool = self._pools.get(model_id)
        return pool.held if pool else 0

    def sequences(self, model_id: str) -> int:
        """How many sequences the admitted requests of this model are for its engines."""
        pool = self._pools.get(model_id)
        return pool.sequences if pool else 0

    def queued(self, model_id: str) -> int:
        """How many requests are queued for this model."""
        pool = self._pools.get(model_id)
        return len(pool.queued) if pool else 0

    def waiting(self, model_id: str, tenant: str | None, most: int) -> list[Waiting]:
        """The requests queued for this model, of a tenant or of all (None); see `SlotPool.waiting`."""
        pool = self._pools.get(model_id)
        return pool.waiting(tenant, most) if pool else []

    def demand(self, model_id: str) -> int:
        """How many requests this model has, admitted and queued."""
        return self.load(model_id) + self.queued(model_id)

    def peak_demand(self, model_id: str) -> int:
        """The highest demand since the last call for this model, so that a request shorter than the interval counts."""
        pool = self._pools.get(model_id)
        if pool is None:
            return 0
        peak, pool.peak = pool.peak, pool.held + len(pool.queued)
        return peak

    def _open(self, model_id: str) -> SlotPool:
        return self._pools.setdefault(model_id, SlotPool(model_id, self._clock, self._jitter))

    def _over_limit(self, limiter: TenantLimiter, exceeded: LimitExceeded, pool: SlotPool, now: float) -> ApiError:
        seconds = exceeded.seconds or retry_after(1, pool.service_rate.rate(limiter.in_flight), self._jitter())
        return OverLimitError(limiter.tenant, exceeded.limit, seconds, limiter.states(now))
