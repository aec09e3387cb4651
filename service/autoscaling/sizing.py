"""How many replicas a steady rate needs: the fewest that keep a promise, found by simulation."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from service.autoscaling.autoscaler import Fixed
from service.autoscaling.capacity import Capacity
from service.autoscaling.demand import HEADROOM
from service.autoscaling.measured import Measured
from service.autoscaling.simulation import Arrival, Simulation, Site
from service.autoscaling.traffic import made

SECONDS = 900.0  # of a simulated rate
REQUESTS = 500  # of them at least
MOST_REFUSED = 0.001  # of the requests: one in a thousand
LOOKS = 500  # whether a simulation has failed already
SHARE = 0.95  # of the requests whose first token comes in time


@dataclass(frozen=True)
class Need:
    """What a rate needs: the fewest replicas that keep the promise, and those that the formula of `demand` orders."""

    rate: float
    fewest: int
    ordered: int
    measured: Measured


def need(rate: float, capacity: Capacity, site: Site, slowest: float, seed: int) -> Need:
    """The replicas for `rate` requests a second, of which 95 % have their first token within `slowest` seconds."""
    times = capacity.times(None)
    seconds = max(SECONDS, 20 * times[0], REQUESTS / rate)  # long enough for a steady state, and for a share of 95 %
    arrivals = list(made(lambda _: rate, seconds, times, random.Random(seed)))
    fewest, measured = fewest_replicas(arrivals, seconds, capacity, site, slowest)
    ordered = max(1, -int(-rate // (HEADROOM * capacity.requests_per_second)))
    return Need(rate, fewest, max(ordered, fewest), measured)


def fewest_replicas(
    arrivals: list[Arrival],
    until: float,
    capacity: Capacity,
    site: Site,
    slowest: float,
    known: Mapping[int, Measured] | None = None,
) -> tuple[int, Measured]:
    """The fewest replicas, always there, that refuse hardly a request and are in time for 95 % of them.

    `known` are runs of fixed numbers that need not be repeated. Raises ValueError if the first token comes too late
    even without waiting.
    """
    soon = sum(one.number for one in arrivals if one.first <= slowest)
    if soon < SHARE * sum(one.number for one in arrivals):
        raise ValueError(
            f"no number of replicas is enough: a first token takes more than {slowest:g} s without waiting"
        )

    def run(number: int) -> Measured:
        return (known or {}).get(number) or fixed(number, arrivals, until, site)

    busy = int(sum(one.number * one.seconds for one in arrivals) / until / capacity.concurrency)
    low, high, step = 0, max(1, busy), max(1, busy // 64)  # low is too few
    measured = run(high)
    while not keeps(measured, slowest):
        low, high, step = high, high + step, 2 * step
        measured = run(high)
    while high - low > 1:
        middle = (low + high) // 2
        tried = run(middle)
        if keeps(tried, slowest):
            high, measured = middle, tried
        else:
            low = middle
    return high, measured


def fixed(number: int, arrivals: list[Arrival], until: float, site: Site) -> Measured:
    """What happens with so many replicas, until too many requests are refused."""
    simulation = Simulation(replace(site, initial=number), Fixed(number), until / LOOKS)
    return simulation.run(arrivals, until, most_refused=MOST_REFUSED * sum(one.number for one in arrivals))


def keeps(measured: Measured, slowest: float) -> bool:
    """Whether a run refused at most one request in a thousand and was in time for 95 % of all."""
    return measured.refused <= MOST_REFUSED * measured.arrived and measured.within(slowest) >= SHARE
