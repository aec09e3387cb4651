"""What the chart gives to Prometheus and Grafana."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.k8s.rendering import CHART, RELEASE, RELEASES, Release, merged, values
from tests.support.fleets import ROOT

(PRODUCTION,) = (one for one in RELEASES if one.name == "production")


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    """Those of a cluster with KEDA, and those that a HorizontalPodAutoscaler reads."""
    files = []
    for release in (one for one in RELEASES if one.name in ("production", "hpa")):
        (rules,) = release.of("PrometheusRule")
        files.append(tmp_path / f"{release.name}.yaml")
        files[-1].write_text(yaml.safe_dump(rules["spec"]))
    done = subprocess.run(["promtool", "check", "rules", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


OURS = f'horizontalpodautoscaler="keda-hpa-{RELEASE}-roundhouse-bad"'
WELL = f'horizontalpodautoscaler="keda-hpa-{RELEASE}-roundhouse-well"'
OTHER = 'horizontalpodautoscaler="somebody-elses"'
CONDITION = 'kube_horizontalpodautoscaler_status_condition{{condition="{}",status="{}",{}}}'
DESIRED, MOST = (
    "kube_horizontalpodautoscaler_status_desired_replicas{%s}",
    "kube_horizontalpodautoscaler_spec_max_replicas{%s}",
)
# By alert: series with their values of each minute, how many minutes it takes to fire, and that of `bad` it does.
FIRES: dict[str, tuple[dict[str, str], int]] = {
    "RoundhouseAutoscalerBlind": (
        {
            CONDITION.format("ScalingActive", "false", OURS): "1x30",
            CONDITION.format("ScalingActive", "false", WELL): "1x3 0x27",  # for a moment
            CONDITION.format("AbleToScale", "false", WELL): "1x30",
            CONDITION.format("ScalingActive", "true", WELL): "1x30",
            CONDITION.format("ScalingActive", "false", OTHER): "1x30",
        },
        5,
    ),
    "RoundhouseAutoscalerAtMost": (
        {
            DESIRED % OURS: "4x30", MOST % OURS: "4x30",
            DESIRED % WELL: "3x30", MOST % WELL: "4x30",
            DESIRED % OTHER: "4x30", MOST % OTHER: "4x30",
            DESIRED % WELL.replace("well", "single"): "1x30", MOST % WELL.replace("well", "single"): "1x30",
        },
        15,
    ),
}  # fmt: skip


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_alerts_on_kubernetes_fire_when_they_should_and_not_otherwise(tmp_path: Path) -> None:
    (rules,) = PRODUCTION.of("PrometheusRule")
    groups = [group for group in rules["spec"]["groups"] if group["name"] == "roundhouse-kubernetes"]
    assert [rule["alert"] for group in groups for rule in group["rules"]] == list(FIRES)
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    tests = [
        {
            "name": alert,
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": f'count by (horizontalpodautoscaler) (ALERTS{{alertname="{alert}",alertstate="firing"}})',
                    "eval_time": f"{minutes}m",
                    "exp_samples": [{"labels": f"{{{OURS}}}", "value": 1}] if fires else [],
                }
                for minutes, fires in ((after - 1, False), (after + 1, True))
            ],
        }
        for alert, (series, after) in FIRES.items()
    ]
    asked = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(asked))
    done = subprocess.run(["promtool", "test", "rules", "tests.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_alert_leads_to_its_runbook() -> None:
    (rules,) = PRODUCTION.of("PrometheusRule")
    alerts = [rule for group in rules["spec"]["groups"] for rule in group["rules"] if "alert" in rule]
    text = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    titles = [line[3:].lower() for line in text.splitlines() if line.startswith("## ")]
    slugs = {"".join(c for c in title if c.isalnum() or c in " -_").replace(" ", "-") for title in titles}
    for alert in alerts:
        page, _, section = alert["annotations"]["runbook_url"].partition("#")
        assert page == "https://git.example.org/roundhouse/docs/runbook.md"
        assert section in slugs, alert["alert"]
    own = [rule for rule in alerts if "horizontalpodautoscaler" in rule["expr"]]
    assert own and all(f".*{RELEASE}-roundhouse-.*" in rule["expr"] for rule in own)


def test_alerts_on_kubernetes_can_be_left_out() -> None:
    over = {"monitoring": {"prometheusRule": {"kubeStateMetrics": False}}}
    (rules,) = Release("", merged(values("production"), over)).of("PrometheusRule")
    assert "kube_" not in json.dumps(rules)


def test_grafana_finds_the_dashboards() -> None:
    found = {}
    for one in PRODUCTION.of("ConfigMap"):
        if one["metadata"]["labels"].get("grafana_dashboard") == "1":
            ((name, text),) = one["data"].items()
            found[name.removeprefix("roundhouse-")] = json.loads(text)
    assert found == {file.name: json.loads(file.read_text()) for file in (CHART / "files/dashboards").iterdir()}
    assert len(found) == 4


def test_prometheus_has_its_own_key() -> None:
    (monitor,) = PRODUCTION.of("ServiceMonitor")
    assert monitor["spec"]["endpoints"][0]["authorization"] == {
        "type": "Bearer",
        "credentials": {"name": "roundhouse-keys", "key": "metrics-key"},
    }
