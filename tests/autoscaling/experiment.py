"""Signals as they were measured with a real controller and a made-up engine, and the same load simulated.

Measured with kube-controller-manager 1.36.3: 10 requests a second for 150 s, then 2; a replica serves 1 a second and
runs 8 at a time; it is ready after 40 s; the controller synchronizes every 5 s, three times as often as it does by
default; any number of requests may wait; at most 60 replicas. Three settings of that run are not recorded. They are
set here to what explains all its rows together: it lasted 260 s, replicas were removed after a window of 60 s, and
arrivals were counted over 10 s.
"""

from collections.abc import Callable
from dataclasses import dataclass

from service.autoscaling.autoscaler import Hpa, Spec
from service.autoscaling.behavior import UNLIMITED, Rules
from service.autoscaling.capacity import Capacity
from service.autoscaling.demand import Drain, Signal
from service.autoscaling.measured import Measured
from service.autoscaling.policies import of_demand, of_demand_less_starting, queue, queue_value, rate, rate_and_drain
from service.autoscaling.simulation import Simulation, Site
from service.autoscaling.traffic import Phase, made, stepped

CAPACITY = Capacity(requests_per_second=1.0, concurrency=8)
PHASES = (Phase(10, 150), Phase(2, 110))
COLD_START, SYNC, MAXIMUM, DOWN_WINDOW, RATE_WINDOW = 40.0, 5.0, 60, 60.0, 10.0
DRAIN = Drain(30.0, float("inf"))

Signals = Callable[[Capacity, Drain], tuple[Signal, ...]]


@dataclass(frozen=True)
class Row:
    """What was measured of one signal."""

    name: str
    signals: Signals
    peak: int
    pod_seconds: int
    most_queued: int
    up_window: float = 0.0


def queue_and_running(capacity: Capacity, _: Drain) -> tuple[Signal, ...]:
    return (
        Signal("queue", lambda seen: seen.queued, 1),
        Signal("running", lambda seen: seen.running, capacity.concurrency),
    )


ROWS = (
    Row("queue, `Value` 25", queue_value(25), 60, 7074, 471),
    Row("queue, `AverageValue` 25", queue(25), 19, 2704, 471),
    Row("in flight (queued and running), 8", of_demand, 52, 6520, 401),
    Row("in flight, less 8 for each replica that starts", of_demand_less_starting, 35, 5022, 401),
    Row("in flight, up only after 40 s", of_demand, 60, 7687, 762, up_window=40.0),
    Row("queue and running, up only after 40 s", queue_and_running, 60, 7701, 762, up_window=40.0),
    Row("arrival rate ÷ (0.85 × capacity)", rate, 12, 2623, 400),
    Row("arrival rate and the queue over 30 s", rate_and_drain, 26, 4119, 400),
)


def simulated(row: Row) -> Measured:
    """The same load, by the simulator."""
    spec = Spec(
        row.signals(CAPACITY, DRAIN), 1, MAXIMUM, Rules(UNLIMITED.limits, row.up_window),
        Rules(UNLIMITED.limits, DOWN_WINDOW), sync=SYNC,
    )  # fmt: skip
    site = Site(CAPACITY.concurrency, COLD_START, metrics_delay=0.0, rate_window=RATE_WINDOW)
    until = sum(phase.seconds for phase in PHASES)
    return Simulation(site, Hpa(spec), 1.0).run(made(stepped(PHASES), until, CAPACITY.times(None), None), until)
