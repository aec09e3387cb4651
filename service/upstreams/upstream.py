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

    `request_count` counts the requests that were sent to it, `arrival_count` also those that wait or were refused for
    want of capacity, `ejection_count` how often one of its replicas was ejected, and
    `token_rate` measures how fast they generate. `discovery_error` says which of its names cannot be resolved, and why;
    `discovery_reason`, for clients, only why. Setting `recheck` has them resolved again soon.
    """

    served: ServedModel
    replicas: list[Replica] = field(default_factory=list)
    request_count: int = 0
    arrival_count: int = 0
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

    def candidates(self, now: float, tried: Replica | None, adapter: str | None) -> list[Replica]:
        """The usable replicas with free capacity, or if none has any all usable ones; without `tried`.

        For an `adapter` they are those that have loaded it.
        """
        if tried is None and adapter is None:
            return self.free(now) or self.usable(now) or self.draining()
        # Not `free`: the replica that failed has capacity again, and would hide usable ones that are full.
        others = [
            replica
            for replica in self.usable(now)
            if replica is not tried and (adapter is None or replica.has_adapter(adapter))
        ]
        if tried is None and not others:
            return [replica for replica in self.draining() if adapter is None or replica.has_adapter(adapter)]
        return [replica for replica in others if replica.capacity(now) > 0] or others

    def adapter_condition(self, adapter: str) -> tuple[Condition, str | None]:
        """As `condition`, of an adapter: it is ready where one of the ready replicas has loaded it."""
        condition, reason = self.condition()
        if condition != "ready":
            return condition, reason
        ready = [replica.state for replica in self.replicas if replica.state and replica.ready]
        if any(state.has_adapter(adapter) for state in ready):
            return "ready", None
        reasons = [why for state in ready if (why := state.adapters.get(adapter))]
        if len(reasons) == len(ready):
            return "failed", reasons[0]
        return "starting", "no engine of its base lists it" if self.served.addresses else "loading"

    def capacity(self, now: float) -> int:
        """How many more sequences may be sent to its replicas; below zero where all usable ones exceed their limit."""
        free = 0
        for replica in self.replicas:  # on the hot path, where a list of one would cost as much again
            free += replica.capacity(now)
        return free or -min([replica.in_flight - replica.limit for replica in self.usable(now)], default=0)

    def draining(self) -> list[Replica]:
        """The replicas that finish what was admitted to them before they make room for others."""
        return [replica for replica in self.replicas if replica.state and replica.state.drains]

    def ready_in(self, now: float) -> float | None:
        """The seconds until a replica may be ready, None where that is not known; `now` is monotonic."""
        times = [replica.state.ready_at for replica in self.replicas if replica.state and replica.state.ready_at]
        return max(0.0, min(times) - now) if times else None

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
        self.gpu_time.use(held * self.served.gpus_held / gateways, now)

    def conditions(self) -> Iterator[Condition]:
        """The condition of each replica."""
        return (replica.state.condition if replica.state else "waiting" for replica in self.replicas)
