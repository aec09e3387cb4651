"""What must hold of everything that the chart renders, whatever the values."""

import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from k8s import build, schema
from service.cli.__main__ import main
from service.config.settings import VARIABLES
from tests.k8s.rendering import CHART, K8S, KINDS, RELEASES, Object, Release, helm, values
from tests.support.each import each
from tests.support.fleets import ROOT

every_release = each("release", RELEASES, ids=lambda one: one.name)


@each("kind", KINDS)
def test_helm_finds_nothing_to_say(kind: str) -> None:
    report = helm.lint(CHART, values(kind), strict=True)
    assert not report["errors"]
    assert not [one for one in report["messages"] if one["severity"] > 1]


def test_what_is_generated_is_current() -> None:
    stale = [file for make in (build.files, build.plain) for file, text in make() if file.read_text() != text]
    assert not stale, "python -m k8s.build writes them"
    written = {file.name for file, _ in build.plain()} | {"namespace.yaml"}
    assert {file.name for file in (K8S / "plain").iterdir()} == written


def containers(pod: Object) -> Iterator[Object]:
    yield from (*pod["spec"]["containers"], *pod["spec"].get("initContainers", ()))


def is_part(selector: Object, labels: Object) -> bool:
    return bool(selector) and selector.items() <= labels.items()


@every_release
def test_pods_are_restricted(release: Release) -> None:
    """The Pod Security Standard `restricted`, but for a hostPath that somebody asked for."""
    for _, pod in release.pods():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] >= 1000
        assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        assert spec["enableServiceLinks"] is spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        kinds = {key for volume in spec["volumes"] for key in volume if key != "name"}
        allowed = {"configMap", "secret", "emptyDir", "persistentVolumeClaim", "image"}
        assert kinds <= allowed | ({"hostPath"} if release.name == "host paths" else set())
        for one in containers(pod):
            context = one["securityContext"]
            assert context["readOnlyRootFilesystem"] and context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {mount["name"] for mount in one["volumeMounts"]} <= {volume["name"] for volume in spec["volumes"]}
            assert re.fullmatch(r"[^:]+(:\d+/[^:]+)?(:(?!latest)[^:/]+|@sha256:[0-9a-f]{64})", one["image"])


@every_release
def test_a_pod_that_ends_has_time_to(release: Release) -> None:
    for _, pod in release.pods():
        one = pod["spec"]["containers"][0]
        if "lifecycle" not in one:
            continue
        stop = one["lifecycle"]["preStop"]
        asleep = int(stop["sleep"]["seconds"] if "sleep" in stop else stop["exec"]["command"][1])
        assert ("exec" in stop) is (release.name == "an old cluster")
        drain = next(int(each["value"]) for each in one["env"] if each["name"] == "ROUNDHOUSE_DRAIN_TIMEOUT")
        assert pod["spec"]["terminationGracePeriodSeconds"] > asleep + drain


@every_release
def test_a_cold_start_is_waited_for(release: Release) -> None:
    budgets = [0]
    for workload, pod in release.pods():
        one = pod["spec"]["containers"][0]
        if one["name"] != "engine" or "startupProbe" not in one:
            continue
        probe = one["startupProbe"]
        budget = next(int(each["value"]) for each in one["env"] if each["name"] == "ROUNDHOUSE_START_TIMEOUT")
        budgets.append(budget)
        assert probe["periodSeconds"] * probe["failureThreshold"] > budget
        assert workload["spec"].get("progressDeadlineSeconds", budget + 1) > budget
        for scaled in release.of("ScaledObject"):
            if scaled["metadata"]["name"] == workload["metadata"]["name"] and scaled["spec"]["minReplicaCount"] == 0:
                assert scaled["spec"]["cooldownPeriod"] >= 1.5 * budget
                assert scaled["spec"]["initialCooldownPeriod"] >= 1.5 * budget
    (gateway,) = (one for one in release.of("Deployment") if one["metadata"]["name"].endswith("-gateway"))
    assert gateway["spec"]["progressDeadlineSeconds"] > max(budgets)


@every_release
def test_one_autoscaler_at_most_decides_how_many_pods_there_are(release: Release) -> None:
    scalers = release.of("ScaledObject", "HorizontalPodAutoscaler")
    targets = [(one["spec"]["scaleTargetRef"]["kind"], one["spec"]["scaleTargetRef"]["name"]) for one in scalers]
    assert len(targets) == len(set(targets))
    for workload in release.of("Deployment", "LeaderWorkerSet"):
        scaled = (workload["kind"], workload["metadata"]["name"]) in targets
        assert ("replicas" in workload["spec"]) is not scaled
    for one in scalers:
        spec = one["spec"]
        least, most = (spec.get(f"{bound}ReplicaCount", spec.get(f"{bound}Replicas")) for bound in ("min", "max"))
        assert 0 <= least <= most
        behaviour = spec.get("behavior") or spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        assert behaviour["scaleDown"]["stabilizationWindowSeconds"] >= 600
        if one["kind"] == "ScaledObject":
            assert all(each["metricType"] == "AverageValue" for each in spec["triggers"])
            assert least <= spec["fallback"]["replicas"] <= most


@every_release
def test_what_selects_pods_finds_them(release: Release) -> None:
    pods = [pod["metadata"]["labels"] for _, pod in release.pods()]
    for workload, pod in release.pods():
        if workload["kind"] == "Deployment":
            assert is_part(workload["spec"]["selector"]["matchLabels"], pod["metadata"]["labels"])
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor", "InferencePool"):
        for one in release.of(kind):
            selector = one["spec"].get("selector") or one["spec"]["podSelector"]
            labels = dict(selector.get("matchLabels", selector))
            labels.pop("leaderworkerset.sigs.k8s.io/worker-index", None)  # which the operator sets
            assert any(is_part(labels, pod) for pod in pods), one["metadata"]["name"]
    ports = {port["name"] for _, pod in release.pods() for port in pod["spec"]["containers"][0].get("ports", ())}
    for one in release.of("ServiceMonitor"):
        services = [each["metadata"]["labels"] for each in release.of("Service")]
        assert sum(is_part(one["spec"]["selector"]["matchLabels"], labels) for labels in services) == 1
    for one in release.of("ServiceMonitor", "PodMonitor"):
        assert {each["port"] for each in one["spec"].get("endpoints") or one["spec"]["podMetricsEndpoints"]} <= ports


def test_only_leaders_of_several_nodes_get_requests() -> None:
    (release,) = (one for one in RELEASES if one.name == "several nodes")
    (group,) = release.of("LeaderWorkerSet")
    name = group["metadata"]["name"]
    for kind in ("Service", "InferencePool"):
        selector = release.named(kind, name)["spec"]["selector"]
        labels = selector.get("matchLabels", selector)
        assert labels["leaderworkerset.sigs.k8s.io/worker-index"] == "0"
    # With the operator's own Service for all groups, which has the name of the group, workers would find no leader.
    assert group["spec"]["networkConfig"] == {"subdomainPolicy": "UniquePerReplica"}


@every_release
def test_a_disruption_budget_never_blocks_a_drain(release: Release) -> None:
    for one in release.of("PodDisruptionBudget"):
        assert one["spec"]["maxUnavailable"] in (1, "1")
        assert "minAvailable" not in one["spec"]


@every_release
def test_a_pod_says_only_what_roundhouse_understands(release: Release) -> None:
    for _, pod in release.pods():
        for one in containers(pod):
            names = {each["name"] for each in one["env"] if each["name"].startswith("ROUNDHOUSE_")}
            assert names <= set(VARIABLES)
            if "command" not in one:
                name, *arguments = one["args"]
                main.commands[name].make_context(name, arguments, resilient_parsing=False)


@every_release
def test_engines_are_reached_by_gateways_and_prometheus_alone(release: Release) -> None:
    if release.name == "everything said":
        assert not release.of("NetworkPolicy")
        return
    guarded = [one["spec"]["podSelector"]["matchLabels"] for one in release.of("NetworkPolicy")]
    for _, pod in release.pods():
        assert sum(is_part(labels, pod["metadata"]["labels"]) for labels in guarded) == 1
    for one in release.of("NetworkPolicy"):
        if "roundhouse/model" not in one["spec"]["podSelector"]["matchLabels"]:
            continue
        peers = one["spec"]["ingress"][0]["from"]
        assert peers[0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "gateway"
        monitoring = {"kubernetes.io/metadata.name": "monitoring"}
        assert all(peer == {"namespaceSelector": {"matchLabels": monitoring}} for peer in peers[1:])


def test_no_release_holds_a_secret() -> None:
    """Secrets are named, never made: a value would be stored with Helm's release."""
    for release in RELEASES:
        assert not release.of("Secret")
        for _, pod in release.pods():
            engine = pod["spec"]["containers"][0]
            assert "HF_TOKEN" not in {one["name"] for one in engine["env"]}


def test_values_and_their_schema_have_the_same_keys() -> None:
    """So each value is described where it stands, and nothing is described that is not there."""
    written = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    known = schema.values()
    known["properties"].pop("global")

    def compare(at: str, given: Object, described: Object) -> None:
        properties = described.get("properties")
        if properties is None or not given or at.endswith(".resources"):
            return
        assert set(given) == set(properties), at
        for key, value in given.items():
            if isinstance(value, dict):
                compare(f"{at}.{key}", value, properties[key])

    known["properties"]["engineDefaults"] = schema.model()
    known["properties"]["fleet"] = {}
    compare("values", written, known)


def test_the_page_names_only_values_that_exist() -> None:
    written = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

    def paths(given: Object, before: str = "") -> Iterator[str]:
        for key, value in given.items():
            yield before + key
            if isinstance(value, dict):
                yield from paths(value, f"{before}{key}.")

    known = {*paths(written), *paths(written["engineDefaults"])}
    named = re.findall(r"`((?:[a-zA-Z]+\.)+[a-zA-Z]+)`", (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8"))
    roots = {path.split(".")[0] for path in known} - {"fleet"}
    assert not {name for name in named if name.split(".")[0] in roots} - known


def test_kustomize_takes_the_plain_manifests() -> None:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    done = subprocess.run(["kubectl", "kustomize", K8S / "plain"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    objects = list(yaml.safe_load_all(done.stdout))
    assert {one["metadata"].get("namespace") for one in objects if one["kind"] != "Namespace"} == {"roundhouse"}
