"""Kubernetes' Horizontal Pod Autoscaler, as kube-controller-manager computes it: from metrics to a number of replicas.

Its rules on rates and windows are in behavior.py.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """By how much usage / target may differ from 1 before anything is done."""

    up: float = 0.1
    down: float = 0.1

    def holds(self, ratio: float) -> bool:
        """Whether the ratio is close enough to 1 to leave everything as it is."""
        return 1.0 - self.down <= ratio <= 1.0 + self.up


@dataclass(frozen=True)
class Pod:
    """A replica as a metric of each pod sees it. `value` is None where the metric is missing.

    `request` is what the pod asked for, which utilization is a share of. A pod that is deleted or has failed is left
    out by whoever makes the list.
    """

    value: float | None
    ready: bool = True
    request: float = 0.0


def by_value(current: int, ready: int, usage: float, target: float, tolerance: Tolerance) -> int:
    """Replicas for an Object or External metric with a target of type Value: ready pods x usage / target."""
    ratio = usage / target
    if current == 0:
        return math.ceil(ratio)
    return current if tolerance.holds(ratio) else math.ceil(ratio * ready)


def by_average_value(current: int, usage: float, target: float, tolerance: Tolerance) -> int:
    """Replicas for an Object or External metric with a target of type AverageValue: usage / target.

    The tolerance is of usage / (target x current replicas), whether these are ready or not.
    """
    if current and tolerance.holds(usage / (target * current)):
        return current
    return math.ceil(usage / target)


def by_pods(current: int, pods: Sequence[Pod], target: float, tolerance: Tolerance) -> int | None:
    """Replicas for a metric of each pod with a target of type AverageValue; None if no ready pod has the metric."""
    return _by_ratio(
        current, pods, lambda values: sum(values.values()) / len(values) / target, lambda _: target, tolerance
    )


def by_utilization(current: int, pods: Sequence[Pod], target: float, tolerance: Tolerance) -> int | None:
    """Replicas for a resource, whose target is a share of what the pods request, in percent."""

    def ratio(values: dict[int, float]) -> float:
        return int(100 * sum(values.values()) / sum(pods[one].request for one in values)) / target

    return _by_ratio(current, pods, ratio, lambda pod: pod.request * max(1.0, target / 100), tolerance)


def largest(current: int, found: Iterable[int | None]) -> int:
    """What the metrics want together: the most that one of them wants.

    Where one has no value (None), the others may add replicas but take none away; where none has, nothing changes.
    """
    wanted = list(found)
    known = [number for number in wanted if number is not None]
    if not known:
        return current
    return max(known) if len(known) == len(wanted) else max(current, *known)


def _by_ratio(
    current: int,
    pods: Sequence[Pod],
    ratio_of: Callable[[dict[int, float]], float],
    assumed: Callable[[Pod], float],
    tolerance: Tolerance,
) -> int | None:
    """Pods that count x their usage / target, where `ratio_of` has the values by the pods' places.

    Pods whose metric is missing, or which are not ready, count against a change: as idle when it adds replicas, the
    missing ones as `assumed` when it removes some.
    """
    values = {place: pod.value for place, pod in enumerate(pods) if pod.ready and pod.value is not None}
    missing = [place for place, pod in enumerate(pods) if pod.ready and pod.value is None]
    unready = [place for place, pod in enumerate(pods) if not pod.ready]
    if not values:
        return None
    ratio = ratio_of(values)
    if not missing and not (unready and ratio > 1.0):
        return current if tolerance.holds(ratio) else math.ceil(ratio * len(values))
    if ratio < 1.0:
        values |= {place: assumed(pods[place]) for place in missing}
    elif ratio > 1.0:
        values |= dict.fromkeys([*missing, *unready], 0.0)
    again = ratio_of(values)
    if tolerance.holds(again) or (ratio < 1.0) != (again < 1.0):
        return current
    wanted = math.ceil(again * len(values))
    turns = wanted > current if again < 1.0 else wanted < current
    return current if turns else wanted
