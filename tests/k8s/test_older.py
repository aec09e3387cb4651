"""What the live suite changes of the chart for an old API server: names alone, and all that such a server lacks."""

from pathlib import Path

import pytest
import yaml

from tests.k8s import older
from tests.k8s.rendering import BASE, CHART, FEATURES, Object, merged, rendered


def objects(chart: Path, feature: str, minor: int) -> list[Object]:
    return rendered(chart, merged(merged(BASE, FEATURES[feature]), {"kubeVersion": f"1.{minor}"}))


def test_a_server_that_the_chart_allows_gets_the_chart(tmp_path: Path) -> None:
    assert older.chart(older.LEAST, tmp_path) == CHART


@pytest.mark.parametrize("feature", ["hpa", "everything said"])
def test_an_old_server_gets_the_same_objects_by_names_that_it_has(feature: str, tmp_path: Path) -> None:
    new, old = objects(CHART, feature, 29), objects(older.chart(20, tmp_path), feature, 20)
    names = {(one["apiVersion"], one["kind"]) for one in old}
    assert ("policy/v1", "PodDisruptionBudget") not in names
    assert ("autoscaling/v2beta2", "HorizontalPodAutoscaler") in names
    assert "matchLabelKeys" in yaml.safe_dump(new) and "matchLabelKeys" not in yaml.safe_dump(old)
    assert len(new) == len(old)
    for before, after in zip(new, old, strict=True):
        assert before["metadata"]["name"] == after["metadata"]["name"] and before["kind"] == after["kind"]
