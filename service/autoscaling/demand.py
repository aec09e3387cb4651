"""How many replicas a load needs: one formula, which the simulator computes and an autoscaler asks of Prometheus.

Replicas are the largest of three, each a sum over the model divided by what one replica may have of it:

    load      (arrivals a second + the smaller of queued / drain seconds and drain cap) / (headroom x capacity)
    in_flight (requests that run) / concurrency
    kv_cache  (usage of the KV caches, summed over the replicas) / 0.8

The second is a floor, so that long requests keep their replicas. It leaves the queue out: a full queue over the
concurrency would order many times what is needed, whatever the cap on its drain.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from service.autoscaling.capacity import Capacity

HEADROOM = 0.85  # of the measured capacity, so that a replica more is there before the last is full
KV_CACHE_TARGET = 0.8
DRAIN_SECONDS = 30.0

Kind = Literal["Value", "AverageValue"]


@dataclass(frozen=True, slots=True)
class Seen:
    """What the metrics say of a model at one moment.

    `arrivals` is a rate a second; `queued` and `running` are requests; `kv_cache` is the usage of the caches, 0 to 1
    each, summed over the ready replicas; `ordered` counts replicas that are ready or starting.
    """

    arrivals: float = 0.0
    queued: float = 0.0
    running: float = 0.0
    kv_cache: float = 0.0
    ready: int = 0
    ordered: int = 0


@dataclass(frozen=True)
class Signal:
    """One metric of an autoscaler: its value now, and its target in Kubernetes' two kinds.

    AverageValue is what each replica may have, so replicas = value / target. Value is what all together may have:
    replicas = ready replicas x value / target. `activation` is what KEDA compares to leave zero replicas.
    """

    name: str
    value: Callable[[Seen], float]
    target: float
    kind: Kind = "AverageValue"
    activation: float = 0.0


@dataclass(frozen=True)
class Drain:
    """How a queue counts: it is to be gone in so many seconds, with at most so many replicas more."""

    seconds: float
    replicas: float


def load(seen: Seen, drain_seconds: float, drain_cap: float) -> float:
    """Requests a second to be served: those that arrive, and the queued ones over `drain_seconds`, up to a cap."""
    return seen.arrivals + min(seen.queued / drain_seconds, drain_cap)


def load_signal(capacity: Capacity, drain: Drain) -> Signal:
    """Arrivals, and the queue over the time within which it shall be gone."""
    target = HEADROOM * capacity.requests_per_second
    return Signal("load", lambda seen: load(seen, drain.seconds, drain.replicas * target), target)


def signals(capacity: Capacity, drain: Drain) -> tuple[Signal, ...]:
    """The three signals of the formula for replicas of this capacity."""
    return (
        load_signal(capacity, drain),
        Signal("in_flight", lambda seen: seen.running, capacity.concurrency),
        Signal("kv_cache", lambda seen: seen.kv_cache, KV_CACHE_TARGET),
    )
