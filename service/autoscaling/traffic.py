"""Traffic that is made up: steps, a daily curve, bursts. The same seed makes the same requests."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from service.autoscaling.simulation import Arrival

DAY = 86_400.0
LONGEST = 366 * DAY  # of what is simulated
STEP = 0.1  # seconds within which requests arrive together
STEPS = 100_000  # at most, so that a simulation of a week takes seconds
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY}
MANY = 30.0  # expected requests of a step from which the normal distribution is close to Poisson's

Rate = Callable[[float], float]  # requests a second at a second


class Phase(NamedTuple):
    """Requests a second, for so many seconds."""

    rate: float
    seconds: float


class Burst(NamedTuple):
    """Requests a second on top, for so many seconds, every so many seconds."""

    rate: float
    seconds: float
    every: float


def seconds_of(text: str) -> float:
    """`90`, `90s`, `15m`, `2h`, `7d` → seconds; raises ValueError for anything else."""
    unit = UNITS.get(text[-1:])
    found = _number(text[:-1] if unit else text, "a duration such as 90s, 15m, 2h or 7d") * (unit or 1.0)
    if found > LONGEST:
        raise ValueError(f"'{text}' is longer than {LONGEST / DAY:g} days")
    return found


def phases_of(text: str) -> tuple[Phase, ...]:
    """`10:150s,2:5m` → phases; raises ValueError."""
    phases = []
    for part in text.split(","):
        rate, colon, duration = part.strip().partition(":")
        if not colon:
            raise ValueError(f"'{part}' is not RATE:DURATION, such as 10:150s")
        phases.append(Phase(_number(rate, "requests a second"), seconds_of(duration)))
    if not 0 < sum(one.seconds for one in phases) <= LONGEST:
        raise ValueError(f"the steps last no time, or longer than {LONGEST / DAY:g} days")
    return tuple(phases)


def daily_of(text: str) -> tuple[float, float]:
    """`2:20` → the least and the most requests a second of a day; raises ValueError."""
    low, colon, high = text.partition(":")
    if not colon:
        raise ValueError(f"'{text}' is not LEAST:MOST, requests a second, such as 2:20")
    found = _number(low, "requests a second"), _number(high, "requests a second")
    if found[0] > found[1]:
        raise ValueError(f"the least, {low}, is more than the most, {high}")
    return found


def burst_of(text: str) -> Burst:
    """`50:30s:10m` → a burst; raises ValueError."""
    parts = text.split(":")
    if len(parts) != 3:
        raise ValueError(f"'{text}' is not RATE:DURATION:EVERY, such as 50:30s:10m")
    found = Burst(_number(parts[0], "requests a second"), seconds_of(parts[1]), seconds_of(parts[2]))
    if not found.every:
        raise ValueError("a burst comes every so many seconds, more than 0")
    return found


def stepped(phases: Sequence[Phase]) -> Rate:
    """The rate of these phases, one after the other; 0 after the last."""

    def rate(at: float) -> float:
        for phase in phases:
            if at < phase.seconds:
                return phase.rate
            at -= phase.seconds
        return 0.0

    return rate


def daily(low: float, high: float) -> Rate:
    """A cosine over the day: least at 04:00, most at 16:00, where the second 0 is midnight."""
    middle, swing = (low + high) / 2, (high - low) / 2
    return lambda at: middle - swing * math.cos(2 * math.pi * (at / DAY - 1 / 6))


def with_burst(rate: Rate, burst: Burst) -> Rate:
    """The rate, and the burst on top of it, first after one interval."""
    return lambda at: rate(at) + (burst.rate if at >= burst.every and at % burst.every < burst.seconds else 0.0)


def made(rate: Rate, until: float, times: tuple[float, float], chance: random.Random | None) -> Iterator[Arrival]:
    """Requests from 0 to `until` seconds; `times` are those of `Capacity.times`.

    Their number in each step is Poisson's, so they come independently of each other; without `chance` they are even.
    """
    step = max(STEP, until / STEPS)
    seconds, first = times
    due = 0.0
    for number in range(math.ceil(until / step)):
        start = number * step
        expected = rate(start) * step
        if chance:
            count, at = _poisson(expected, chance), start + step * chance.random()
        else:
            due += expected
            count, at = int(due + 1e-9), start
            due -= count
        if count:
            yield Arrival(at, count, seconds, first)


def _poisson(expected: float, chance: random.Random) -> int:
    if expected > MANY:
        return max(0, round(chance.gauss(expected, math.sqrt(expected))))
    least, product, count = math.exp(-expected), chance.random(), 0
    while product > least:
        product *= chance.random()
        count += 1
    return count


def _number(text: str, what: str) -> float:
    try:
        found = float(text)
    except ValueError:
        raise ValueError(f"'{text}' is not {what}") from None
    if not 0 <= found < math.inf:
        raise ValueError(f"'{text}' is not {what}: it must be a number from 0 on")
    return found
