"""Ways to scale a model, by name, which a simulation compares side by side."""

from collections.abc import Callable
from dataclasses import dataclass

from service.autoscaling.behavior import Limit, Rules
from service.autoscaling.capacity import Capacity
from service.autoscaling.demand import HEADROOM, Drain, Seen, Signal, load_signal, signals

QUEUED = 5.0  # waiting requests for each replica, where only these count

# As the Helm chart: up at once, to twice as many or two more; down one by one, long after a cold start.
UP = Rules((Limit("Percent", 100, 60), Limit("Pods", 2, 60)))
DOWN_PERIOD = 120.0  # seconds
DOWN_WINDOW = 600.0  # seconds, at least
COLD_STARTS = 1.5  # cold starts: replicas that start now are not taken away before they have served


@dataclass(frozen=True)
class Policy:
    """`signals` makes the metrics of an autoscaler from a replica's capacity and how a queue counts."""

    summary: str
    signals: Callable[[Capacity, Drain], tuple[Signal, ...]]


def down(pods: int, window: float) -> Rules:
    """So many replicas are removed in two minutes, after a window of so many seconds."""
    return Rules((Limit("Pods", pods, DOWN_PERIOD),), window)


def demand(seen: Seen) -> float:
    """Requests in flight and queued."""
    return seen.queued + seen.running


def rate(capacity: Capacity, _: Drain) -> tuple[Signal, ...]:
    """Arrivals alone."""
    return (Signal("rate", lambda seen: seen.arrivals, HEADROOM * capacity.requests_per_second),)


def rate_and_drain(capacity: Capacity, drain: Drain) -> tuple[Signal, ...]:
    """Arrivals, and the queue over the time within which it shall be gone."""
    return (load_signal(capacity, drain),)


def of_demand(capacity: Capacity, _: Drain) -> tuple[Signal, ...]:
    """Requests in flight and queued, over what a replica runs at a time."""
    return (Signal("demand", demand, capacity.concurrency),)


def of_demand_less_starting(capacity: Capacity, _: Drain) -> tuple[Signal, ...]:
    """The same, less what the replicas that start will take."""

    def value(seen: Seen) -> float:
        return max(0.0, demand(seen) - capacity.concurrency * (seen.ordered - seen.ready))

    return (Signal("demand_less_starting", value, capacity.concurrency),)


def queue(target: float = QUEUED) -> Callable[[Capacity, Drain], tuple[Signal, ...]]:
    """Waiting requests, a target for each replica."""
    return lambda _capacity, _drain: (Signal("queue", lambda seen: seen.queued, target),)


def queue_value(target: float = QUEUED) -> Callable[[Capacity, Drain], tuple[Signal, ...]]:
    """Waiting requests, one target for all replicas, which multiplies by the ready ones."""
    return lambda _capacity, _drain: (Signal("queue", lambda seen: seen.queued, target, "Value"),)


POLICIES = {
    "load": Policy("arrivals and a capped drain of the queue, in flight as a floor, KV cache as a guard", signals),
    "rate": Policy("arrivals alone", rate),
    "rate-and-drain": Policy("arrivals and a capped drain of the queue", rate_and_drain),
    "demand": Policy("requests in flight and queued", of_demand),
    "demand-less-starting": Policy("the same, less what starting replicas will take", of_demand_less_starting),
    "queue": Policy(f"waiting requests, {QUEUED:g} for each replica", queue()),
    "queue-value": Policy(f"waiting requests, {QUEUED:g} for all together (type Value)", queue_value()),
}
