"""Every rendered object against the schemas of Kubernetes 1.29 to 1.37, and of the operators whose objects it uses."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.rendering import K8S, RELEASES, Object, Release
from tests.support.each import each

NEWEST = 37
VERSIONS = [f"1.{minor}" for minor in range(29, NEWEST + 1)]
CORE = {
    "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Ingress", "NetworkPolicy", "PersistentVolumeClaim",
    "PodDisruptionBudget", "PriorityClass", "Service", "ServiceAccount",
}  # fmt: skip
CRDS = Path(__file__).parent / "crds"
PUBLISHED = {
    "HTTPRoute": "gateway-api", "PodMonitor": "prometheus-operator", "PrometheusRule": "prometheus-operator",
    "ScaledObject": "keda", "ServiceMonitor": "prometheus-operator",
}  # fmt: skip
# Of those without a published package: every field that there is, as the projects' Go types name them, each with its
# type or its values. Both types of a field are those of Kubernetes' IntOrString.
POOL = {
    "selector": {"matchLabels": dict}, "targetPorts": [{"number": int}], "appProtocol": {"http", "kubernetes.io/h2c"},
    "endpointPickerRef": {
        "group": str, "kind": str, "name": str, "port": {"number": int}, "failureMode": {"FailOpen", "FailClose"},
    },
}  # fmt: skip
GROUPS = {
    "replicas": int, "startupPolicy": {"LeaderCreated", "LeaderReady"},
    "networkConfig": {"subdomainPolicy": {"Shared", "UniquePerReplica"}},
    "rolloutStrategy": {
        "type": {"RollingUpdate"},
        "rollingUpdateConfiguration": {"partition": int, "maxUnavailable": (int, str), "maxSurge": (int, str)},
    },
    "leaderWorkerTemplate": {
        "leaderTemplate": dict, "workerTemplate": dict, "size": int,
        "restartPolicy": {"RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None"},
        "subGroupPolicy": {"subGroupPolicyType": {"LeaderWorker", "LeaderExcluded"}, "subGroupSize": int},
        "volumeClaimTemplates": list, "persistentVolumeClaimRetentionPolicy": dict,
    },
}  # fmt: skip
OWN = {"InferencePool": POOL, "LeaderWorkerSet": GROUPS}
# The port of an endpoint picker is optional but for a Service, which it is unless it says another kind.
REQUIRED = {
    "InferencePool": {"selector", "targetPorts", "endpointPickerRef"}, "InferencePool.selector": {"matchLabels"},
    "InferencePool.targetPorts": {"number"}, "InferencePool.endpointPickerRef": {"name", "port"},
    "LeaderWorkerSet": {"leaderWorkerTemplate"},
}  # fmt: skip
# Whose keys are anybody's.
FREE = {"labels", "annotations", "matchLabels", "expr", "metadata", "nodeSelector"}


def distinct(kinds: set[str]) -> list[Object]:
    """The objects of these kinds in all releases, each once, whatever its name."""
    found: dict[str, Object] = {}
    for release in RELEASES:
        for one in objects(release):
            if one["kind"] in kinds:
                found.setdefault(re.sub(r"llama-2-7b-chat|checksum/\w+\": \"\w+", "", json.dumps(one)), one)
    return list(found.values())


def objects(release: Release) -> Iterator[Object]:
    """Its objects, and the pods of a LeaderWorkerSet as if they were a Deployment's."""
    yield from release.objects
    for workload, pod in release.pods():
        if workload["kind"] == "LeaderWorkerSet":
            metadata = {"name": workload["metadata"]["name"]}
            spec = {"selector": {"matchLabels": pod["metadata"]["labels"]}, "template": pod}
            yield {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def has_image_volume(one: Object) -> bool:
    return '"image": {"reference"' in json.dumps(one)


@pytest.mark.slow
@each("version", VERSIONS, ids=str)
def test_kubernetes_knows_every_field(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its import takes three seconds, of each process that collects tests.
    validation = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    monkeypatch.setattr(validation.utils, "schema_contents", cache(validation.utils.schema_contents))
    checked = distinct(CORE)
    assert {one["kind"] for one in checked} == CORE
    for one in (*checked, *yaml.safe_load_all((K8S / "share.yaml").read_text(encoding="utf-8"))):
        if int(version[2:]) >= 35 or not has_image_volume(one):
            assert validation.validate(one, version, strict=True) == version


def test_there_is_no_kind_without_a_schema() -> None:
    assert {one["kind"] for release in RELEASES for one in release.objects} == CORE | PUBLISHED.keys() | OWN.keys()


@pytest.mark.skipif(not (shutil.which("node") and (CRDS / "node_modules").is_dir()), reason="npm ci in tests/k8s/crds")
def test_operators_take_their_objects() -> None:
    checked = distinct(set(PUBLISHED))
    wrong: list[Object] = [{"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {}, "spec": {}}]
    done = subprocess.run(
        ["node", "validate.mjs"],
        input=json.dumps(checked + wrong),
        cwd=CRDS,
        capture_output=True,
        text=True,
        check=True,
    )
    *said, of_wrong = json.loads(done.stdout)
    assert of_wrong, "the schemas let everything pass"
    assert not [f"{one['kind']}: {what}" for one, what in zip(checked, said, strict=True) if what]
    unknown = {
        f"{one['kind']}: {key}" for one in checked for key in keys(one["spec"]) if key not in fields(one["kind"])
    }
    assert not unknown


@cache
def fields(kind: str) -> frozenset[str]:
    """The names of all fields in the package of this kind, and in those of Kubernetes that it uses.

    Its schemas themselves let unknown fields pass.
    """
    modules = CRDS / "node_modules"
    shared = "@kubernetes-models/apimachinery", "kubernetes-models/autoscaling/v2"
    folders = [modules / "@kubernetes-models" / PUBLISHED[kind], *(modules / name for name in shared)]
    texts = (file.read_text(encoding="utf-8") for folder in folders for file in folder.rglob("*.d.ts"))
    return frozenset(name for text in texts for name in re.findall(r"\"?([A-Za-z-]+)\"?\??:", text))


def keys(value: Any) -> Iterator[str]:
    """Every key within, but of those that are anybody's."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            if key not in FREE:
                yield from keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner)


def test_the_other_operators_have_every_field() -> None:
    def compare(given: Any, known: Any, at: str) -> None:
        if isinstance(known, dict):
            assert REQUIRED.get(at, set()) <= set(given) <= set(known), at
            for key, value in given.items():
                compare(value, known[key], f"{at}.{key}")
        elif isinstance(known, list):
            for one in given:
                compare(one, known[0], at)
        else:
            assert given in known if isinstance(known, set) else isinstance(given, known), at

    checked = distinct(set(OWN))
    assert {one["kind"] for one in checked} == set(OWN)
    for one in checked:
        compare(one["spec"], OWN[one["kind"]], one["kind"])
