"""From metrics to replicas, by kube-controller-manager's own test cases."""

from typing import Any

import pytest
import yaml

from service.autoscaling import hpa
from service.autoscaling.hpa import Pod, Tolerance
from tests.support.each import each
from tests.support.fleets import ROOT

VECTORS: dict[str, list[dict[str, Any]]] = yaml.safe_load((ROOT / "tests/autoscaling/vectors.yaml").read_text())
TOLERANCE = Tolerance()


@each("case", VECTORS["replicas"], ids=lambda case: case["name"])
def test_replicas_are_those_of_kubernetes(case: dict[str, Any]) -> None:
    current, target = case["current"], case["target"]
    pods = [
        Pod(None, ready=False, request=1000) if value == "unready" else Pod(value, request=1000)
        for value in case.get("pods", [])
    ]
    found: int | None
    match case["kind"]:
        case "utilization":
            found = hpa.by_utilization(current, pods, target, TOLERANCE)
        case "pods":
            found = hpa.by_pods(current, pods, target, TOLERANCE)
        case "Value":
            found = hpa.by_value(current, case["ready"], case["usage"], target, TOLERANCE)
        case _:
            found = hpa.by_average_value(current, case["usage"], target, TOLERANCE)
    assert found == case["expected"]


@pytest.mark.parametrize(
    ("current", "found", "expected"),
    [
        (3, [4, 7, 2], 7),
        (3, [4, None], 4),  # one that is missing does not keep the others from adding
        (5, [2, None], 5),  # but from taking away
        (5, [None, None], 5),
    ],
)
def test_of_several_metrics_the_largest_counts(current: int, found: list[int | None], expected: int) -> None:
    assert hpa.largest(current, found) == expected


def test_zero_replicas_and_no_metrics() -> None:
    assert hpa.by_value(0, 0, 9, 4, TOLERANCE) == 3
    assert hpa.by_average_value(0, 9, 4, TOLERANCE) == 3
    assert hpa.by_pods(2, [Pod(None), Pod(None, ready=False)], 10, TOLERANCE) is None


def test_the_tolerance_may_differ_by_direction() -> None:
    assert hpa.by_average_value(10, 97, 10, Tolerance(down=0.0)) == 10
    assert hpa.by_average_value(10, 89, 10, Tolerance(down=0.2)) == 10
    assert hpa.by_average_value(10, 89, 10, Tolerance(down=0.0)) == 9
    assert hpa.by_average_value(10, 101, 10, Tolerance(up=0.0)) == 11
