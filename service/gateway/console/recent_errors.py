"""The last errors that requests ended in, for the console: whose, what and when, never what was asked. Bounded."""

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from service.observability.record import Record

KEPT = 50  # errors of one tenant, so that none loses sight of its own by another's
MOST_TENANTS = 512  # with errors; the one whose last error is oldest is forgotten first


class SeenError(NamedTuple):
    """A request that ended in an error, at `time` in Unix seconds. `model` is one of the fleet, or empty."""

    time: float
    status: int
    code: str
    model: str
    endpoint: str
    request_id: str
    tenant: str


class RecentErrors:
    """The last errors of each tenant; callers without a valid key are the tenant ''. `clock` is in Unix seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._of_tenant: dict[str, deque[SeenError]] = {}

    def observe(self, record: Record, tenant: str) -> None:
        """Keeps the error of a request that has ended, if it had one."""
        if record.code is None:
            return
        tenant = record.tenant or tenant
        kept = self._of_tenant.pop(tenant, None)
        if kept is None:
            kept = deque(maxlen=KEPT)
            if len(self._of_tenant) >= MOST_TENANTS:
                del self._of_tenant[next(iter(self._of_tenant))]
        self._of_tenant[tenant] = kept
        kept.append(
            SeenError(
                self._clock(), record.status, record.code, record.model, record.endpoint, record.request_id, tenant
            )
        )

    def of(self, tenant: str | None) -> list[SeenError]:
        """Those of the tenant, or of all (None): the newest first, at most KEPT."""
        found = (
            [one for kept in self._of_tenant.values() for one in kept]
            if tenant is None
            else self._of_tenant.get(tenant, ())
        )
        return sorted(found, key=lambda one: one.time, reverse=True)[:KEPT]
