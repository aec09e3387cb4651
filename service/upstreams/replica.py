"""One engine as the gateway sees it."""

import asyncio
from dataclasses import dataclass, field

from service.engine.engine_stats import EngineStats
from service.engine.state import EngineState
from service.upstreams.breaker import Breaker


@dataclass(eq=False)
class Replica:
    """One engine as the gateway sees it. Its `address` is a Unix socket's path or `host:port`.

    `id` says nothing of the address, because clients see it; `log_name` is for the operator. `in_flight` counts the
    sequences of this gateway process' requests there, and while it is below `limit` the replica takes another request.
    `stats` is the engine's last
    sample, None if that is older than a few seconds. Setting `recheck` has the engine checked at once.
    """

    id: str
    address: str
    state: EngineState | None = None
    in_flight: int = 0
    limit: int = 256
    stats: EngineStats | None = None
    breaker: Breaker = field(default_factory=Breaker)
    recheck: asyncio.Event = field(default_factory=asyncio.Event)
    remote: bool = False
    log_name: str = field(init=False)  # the id, with the address of an engine that runs elsewhere

    def __post_init__(self) -> None:
        self.log_name = f"{self.id}@{self.address}" if self.remote else self.id

    @property
    def ready(self) -> bool:
        """Whether the engine passed its last health check."""
        return self.state is not None and self.state.condition == "ready"

    def has_adapter(self, id: str) -> bool:
        """Whether the engine has loaded the adapter."""
        return self.state is not None and self.state.has_adapter(id)

    def usable(self, now: float) -> bool:
        """Whether a request may be sent there, whether or not there is a slot; `now` is in monotonic seconds."""
        # On the hot path, as `capacity`: so what it asks is written out.
        state = self.state
        if state is None or state.condition != "ready":
            return False
        return not self.breaker.ejections or self.breaker.usable(now)

    def capacity(self, now: float) -> int:
        """How many more sequences may be sent there; `now` is in monotonic seconds."""
        state = self.state
        if state is None or state.condition != "ready":
            return 0
        if self.breaker.ejections:
            return 1 if self.breaker.usable(now) else 0
        remaining = self.limit - self.in_flight
        return remaining if remaining > 0 else 0
