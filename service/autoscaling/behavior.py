"""The `behavior` of a Horizontal Pod Autoscaler: how fast replicas may be added and removed."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

# A moment in seconds, and either how many replicas were wanted then or how many were added or removed.
Entry = tuple[float, int]


@dataclass(frozen=True)
class Limit:
    """One policy: at most `value` pods, or percent of the pods, within `period` seconds."""

    type: Literal["Pods", "Percent"]
    value: int
    period: float


@dataclass(frozen=True)
class Rules:
    """`scaleUp` or `scaleDown`: the limit that is chosen among `limits`, and the stabilization window in seconds."""

    limits: tuple[Limit, ...]
    window: float = 0.0
    select: Literal["Max", "Min", "Disabled"] = "Max"


# Kubernetes' defaults.
UP = Rules((Limit("Pods", 4, 15), Limit("Percent", 100, 15)))
DOWN = Rules((Limit("Percent", 100, 15),), window=300.0)
UNLIMITED = Rules((Limit("Pods", 2**31 - 1, 15),))  # every number at once


def stabilize(current: int, wanted: int, earlier: Iterable[Entry], up: Rules, down: Rules, now: float) -> int:
    """What is wanted, with regard to what was wanted before.

    Replicas are added up to the least that was wanted in the window for that, and removed down to the most that was
    wanted in the other.
    """
    kept = list(earlier)
    least = min([wanted, *(number for at, number in kept if at > now - up.window)])
    most = max([wanted, *(number for at, number in kept if at > now - down.window)])
    return min(max(current, least), most)


def limited(
    current: int, wanted: int, added: Iterable[Entry], removed: Iterable[Entry], up: Rules, down: Rules, now: float
) -> int:
    """What is wanted, within the rates; `added` and `removed` are the changes so far."""
    if wanted > current:
        return min(wanted, max(current, _bound(current, list(added), list(removed), up, now, rising=True)))
    if wanted < current:
        return max(wanted, min(current, _bound(current, list(added), list(removed), down, now, rising=False)))
    return wanted


def _bound(current: int, added: list[Entry], removed: list[Entry], rules: Rules, now: float, *, rising: bool) -> int:
    if rules.select == "Disabled":
        return current
    bounds = []
    for limit in rules.limits:
        start = current - _changed(added, limit.period, now) + _changed(removed, limit.period, now)
        change = limit.value if limit.type == "Pods" else start * limit.value / 100
        bounds.append(math.ceil(start + change) if rising else math.trunc(start - change))
    return max(bounds) if rising == (rules.select == "Max") else min(bounds)


def _changed(entries: list[Entry], period: float, now: float) -> int:
    return sum(number for at, number in entries if at > now - period)
