"""All replicas of one served model."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from service.engine.state import Condition
from service.fleet.served_model import ServedModel
from service.upstreams.gpu_time import GpuTime
from service.upstreams.replica import Replica
from service.upstreams.token_rate import TokenRate

# A model is in the best condition that one of its replicas is in: `scaled_to_zero` before `failed`, because a request
# activates the one, while the other may never recover.
BEST_FIRST: tuple[Condition, ...] = ("ready", "starting", "waiting", "scaled_to_zero", "failed", "stopping", "stopped")
HOLD_GPUS: tuple[Condition, ...] = ("ready", "starting", "stopping")


@dataclass(eq=False)
class Upstream:
    """A served model and its replicas. Times are monotonic seconds.

    `request_count` counts its requests so far, `ejection_count` how often one of its replicas was ejected, and
    `token_rate` measures how fast they generate. `discovery_error` says which of its names cannot be resolved, and why;
    `discovery_reason`, for clients, only why. Setting `recheck` has them resolved again soon.
    """

    served: ServedModel
    replicas: list[Replica] = field(default_factory=list)
    request_count: int = 0
    ejection_count: int = 0
    gpu_time: GpuTime = field(default_factory=GpuTime)
    token_rate: TokenRate = field(default_factory=TokenRate)
    discovery_error: str | None = None
    discovery_reason: str | None = None
    recheck: asyncio.Event = field(default_factory=asyncio.Event)

    def usable(self, now: float) -> list[Replica]:
        """The replicas that are ready and not ejected, whether or not they have capacity."""
        return [replica for replica in self.replicas if replica.usable(now)]

    def free(self, now: float) -> list[Replica]:
        """The replicas that have capacity for another request."""
        return [replica for replica in self.replicas if replica.capacity(now) > 0]

    def capacity(self, now: float) -> int:
        """How many more sequences may be sent to its replicas; below zero where all usable ones exceed their limit."""
        free = sum([replica.capacity(now) for replica in self.replicas])
        return free or -min([replica.in_flight - replica.limit for replica in self.usable(now)], default=0)

    def has_alternative(self, replica: Replica) -> bool:
        """Whether another replica is ready and its circuit breaker closed, so that this one may be ejected."""
        return any(other.ready and other.breaker.closed for other in self.replicas if other is not replica)

    def condition(self) -> tuple[Condition, str | None]:
        """The best condition of its replicas, and the reason or phase, if that is not `ready`."""
        states = [replica.state for replica in self.replicas if replica.state]
        for condition in BEST_FIRST:
            for state in states:
                if state.condition == condition:
                    return condition, state.reason or (state.phase if condition != "ready" else None)
        if not self.served.addresses:
            return "waiting", "its engine service has not started yet"
        if self.served.min_replicas or self.replicas:
            return "waiting", self._lookup_problem or "its engines have not been reached yet"
        return "scaled_to_zero", self._lookup_problem

    @property
    def _lookup_problem(self) -> str | None:
        return self.discovery_reason and f"one of its addresses: {self.discovery_reason}"

    def update_gpu_time(self, gateways: int, now: float) -> None:
        """Counts the GPUs of its engines that run, start or end; each of `gateways` processes has an equal part."""
        held = sum(condition in HOLD_GPUS for condition in self.conditions())
        self.gpu_time.use(held * self.served.gpus / gateways, now)

    def conditions(self) -> Iterator[Condition]:
        """The condition of each replica."""
        return (replica.state.condition if replica.state else "waiting" for replica in self.replicas)
