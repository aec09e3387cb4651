"""One engine as the gateway sees it."""

import asyncio
from dataclasses import dataclass, field

from service.engine.engine_stats import EngineStats
from service.engine.state import EngineState
from service.upstreams.breaker import Breaker


@dataclass(eq=False)
class Replica:
    """One engine as the gateway sees it. Its `address` is a socket's path or `host:port`; times are monotonic seconds.

    `in_flight` counts the requests that this gateway has there and `limit` bounds them; `stats` is what the engine
    last said of its load, not older than a few seconds. Whoever doubts that the engine works sets `doubt`.
    """

    id: str
    address: str
    state: EngineState | None = None
    in_flight: int = 0
    limit: int = 256
    stats: EngineStats | None = None
    breaker: Breaker = field(default_factory=Breaker)
    recheck: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ready(self) -> bool:
        """Whether its engine says, or has shown, that it answers."""
        return self.state is not None and self.state.condition == "ready"

    def usable(self, now: float) -> bool:
        """Whether a request may be sent there."""
        return self.ready and self.breaker.usable(now)

    def capacity(self, now: float) -> int:
        """How many more requests may be sent there now."""
        # Asked several times for each request, so nothing is called that need not be.
        state = self.state
        if state is None or state.condition != "ready":
            return 0
        if self.breaker.ejections:
            return 1 if self.breaker.usable(now) else 0
        left = self.limit - self.in_flight
        return left if left > 0 else 0
