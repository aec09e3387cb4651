"""Rates and windows, by kube-controller-manager's own test cases."""

from typing import Any

from service.autoscaling.behavior import DOWN, UP, Entry, Limit, Rules, limited, stabilize
from tests.autoscaling.test_hpa import VECTORS
from tests.support.each import each

NOW = 10_000.0
SPREAD = 120.0  # seconds over which earlier changes are spread


def rules(case: dict[str, Any], direction: str, default: Rules) -> Rules:
    if direction not in case:
        return default
    pods, pods_period, percent, percent_period = case[direction]
    limits = [Limit("Pods", pods, pods_period)] if pods else []
    limits += [Limit("Percent", percent, percent_period)] if percent else []
    return Rules(tuple(limits), select=case.get("select", "Max"))


def spread(changes: list[int]) -> list[Entry]:
    """The changes in the middle of equal parts of the last 120 s, the first the longest ago."""
    part = SPREAD / max(1, len(changes))
    return [(NOW - SPREAD + part * (number + 0.5), change) for number, change in enumerate(changes)]


@each("case", VECTORS["limits"], ids=lambda case: case["name"])
def test_rates_are_those_of_kubernetes(case: dict[str, Any]) -> None:
    found = limited(
        case["current"], case["wanted"], spread(case.get("added", [])), spread(case.get("removed", [])),
        rules(case, "up", UP), rules(case, "down", DOWN), NOW,
    )  # fmt: skip
    assert min(max(found, case["min"]), case["max"]) == case["expected"]


@each("case", VECTORS["windows"], ids=lambda case: case["name"])
def test_windows_are_those_of_kubernetes(case: dict[str, Any]) -> None:
    earlier = [(NOW - ago, wanted) for ago, wanted in case["earlier"]]
    found = stabilize(
        case["current"], case["wanted"], earlier, Rules(UP.limits, case["up"]), Rules(DOWN.limits, case["down"]), NOW
    )
    assert found == case["expected"]


def test_disabled_moves_nothing() -> None:
    off = Rules((Limit("Pods", 4, 15),), select="Disabled")
    assert limited(3, 9, [], [], off, DOWN, NOW) == 3
    assert limited(9, 3, [], [], UP, off, NOW) == 9
