"""All replicas of one served model."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from service.engine.state import Condition
from service.fleet.served_model import ServedModel
from service.upstreams.replica import Replica

# A model is as well as its best replica: one that sleeps wakes when it is asked for, one that failed may not return.
BEST_FIRST: tuple[Condition, ...] = ("ready", "starting", "waiting", "scaled_to_zero", "failed", "stopping", "stopped")


@dataclass(eq=False)
class Upstream:
    """A served model and its replicas. `request_count` counts its requests; `trouble` says why addresses are not known.

    Whoever doubts that the addresses are still right sets `doubt`.
    """

    served: ServedModel
    replicas: list[Replica] = field(default_factory=list)
    request_count: int = 0
    trouble: str | None = None
    recheck: asyncio.Event = field(default_factory=asyncio.Event)

    def usable(self, now: float) -> list[Replica]:
        """The replicas that may be asked, whether or not they have room."""
        return [replica for replica in self.replicas if replica.usable(now)]

    def free(self, now: float) -> list[Replica]:
        """The replicas that have room for another request."""
        return [replica for replica in self.replicas if replica.capacity(now) > 0]

    def capacity(self, now: float) -> int:
        """How many more requests may be sent now."""
        return sum([replica.capacity(now) for replica in self.replicas])

    def has_alternative(self, replica: Replica) -> bool:
        """Whether it can do without this one: another one is ready and has nothing held against it."""
        return any(one.ready and one.breaker.closed for one in self.replicas if one is not replica)

    def condition(self) -> tuple[Condition, str | None]:
        """The model's state in one word, and the reason when it is not `ready`."""
        states = [replica.state for replica in self.replicas if replica.state]
        for wanted in BEST_FIRST:
            for one in states:
                if one.condition == wanted:
                    return wanted, one.reason or (one.phase if wanted != "ready" else None)
        if not self.served.addresses:
            return "waiting", "its engine service has not started yet"
        if self.served.min_replicas or self.replicas:
            return "waiting", self.trouble or "its engines have not been reached yet"
        return "scaled_to_zero", self.trouble

    def conditions(self) -> Iterator[Condition]:
        """The condition of each replica."""
        return (one.state.condition if one.state else "waiting" for one in self.replicas)
