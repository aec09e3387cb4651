"""The chart as Helm renders it, and the values that the tests render it with."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.fleets import ROOT

helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")

K8S = ROOT / "k8s"
CHART = K8S / "chart"
RELEASE, NAMESPACE = "llm", "ai"
KINDS = ("dev", "one-gpu", "production", "air-gapped")
Object = dict[str, Any]
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C takes a tenth of the time


def values(kind: str) -> Object:
    """Those of `k8s/values-<kind>.yaml`."""
    found: Object = yaml.safe_load((K8S / f"values-{kind}.yaml").read_text(encoding="utf-8"))
    return found


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> Object:
    """As Helm puts one values file over another."""
    both = dict(first)
    for key, value in second.items():
        old = both.get(key)
        both[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return both


def rendered(chart: Path, given: Object, name: str = RELEASE, namespace: str = NAMESPACE) -> list[Object]:
    """The objects of a release of the chart with these values. Raises HelmValuesError or HelmRenderError."""
    with helm.Chart.load(chart) as loaded:
        texts = loaded.render(given, name=name, namespace=namespace)
    files = (text for path, text in texts.items() if path.endswith(".yaml"))
    return [one for text in files for one in yaml.load_all(text, LOADER) if one]


class Release:
    """What Helm would install with these values, rendered when first asked for; `name` is what the case is called.

    `objects` raises HelmValuesError or HelmRenderError.
    """

    def __init__(self, name: str, given: Object) -> None:
        self.name, self.given = name, given

    @cached_property
    def objects(self) -> list[Object]:
        return rendered(CHART, self.given)

    def of(self, *kinds: str) -> list[Object]:
        """Its objects of these kinds."""
        return [one for one in self.objects if one["kind"] in kinds]

    def named(self, kind: str, name: str) -> Object:
        """The object of this kind and name."""
        (found,) = (one for one in self.of(kind) if one["metadata"]["name"] == name)
        return found

    def pods(self) -> Iterator[tuple[Object, Object]]:
        """Every workload with each of its pod templates."""
        for one in self.of("Deployment"):
            yield one, one["spec"]["template"]
        for one in self.of("LeaderWorkerSet"):
            for role in ("leaderTemplate", "workerTemplate"):
                yield one, one["spec"]["leaderWorkerTemplate"][role]

    def fleet(self) -> str:
        """The text of the fleet file."""
        return str(self.named("ConfigMap", f"{RELEASE}-roundhouse-fleet")["data"]["fleet.yaml"])


MODEL = "llama-2-7b-chat"
SCALING = {"maxReplicas": 3, "capacityPerReplica": 2.5}
PROMETHEUS = {"prometheus": {"serverAddress": "http://prometheus:9090"}}
WATCHED = {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True, "runbookUrl": "https://x.example/"}}
METRICS_KEY = {"metricsKey": {"name": "keys"}}


def of_model(**own: Any) -> Object:
    """Values of one-gpu with more of its model."""
    return {"models": {MODEL: own}}


# Each over values-one-gpu.yaml.
FEATURES: dict[str, Object] = {
    "hpa": {**of_model(autoscaling={"kind": "hpa", **SCALING}, cache={"kind": "emptyDir"},
                       compileCache={"kind": "emptyDir"}), "monitoring": WATCHED, "secrets": METRICS_KEY},
    "keda": {**of_model(autoscaling={"kind": "keda", "minReplicas": 0, **SCALING, "maxReplicas": 1}),
             "autoscaling": PROMETHEUS, "monitoring": WATCHED, "secrets": METRICS_KEY},
    "several nodes": of_model(
        fleet={"gpus": 16}, multiNode={"enabled": True}, cache={"pvc": {"accessModes": ["ReadWriteMany"]}},
        compileCache={"kind": "emptyDir"}, inferencePool={"enabled": True, "endpointPicker": {"name": "picker"}},
    ),
    "host paths": of_model(cache={"kind": "hostPath", "hostPath": {"path": "/srv/weights"}},
                           compileCache={"kind": "hostPath", "hostPath": {"path": "/srv/compiled"}}),
    "a claim that exists": of_model(cache={"pvc": {"existingClaim": "weights"}}, replicas=3,
                                    compileCache={"kind": "emptyDir"}),
    "an old cluster": {"kubeVersion": "1.29"},
    "an inference pool": of_model(inferencePool={"enabled": True, "endpointPicker": {"name": "picker"}}),
    "an ingress": {"ingress": {"enabled": True, "className": "nginx", "hosts": ["llm.example.org"],
                               "tls": [{"hosts": ["llm.example.org"], "secretName": "tls"}],
                               "nginx": {"enabled": True}}},
    "signed-on users": {"fleet": {"sign_on": {"issuer": "https://id.example.org", "audience": "llm",
                                              "tenants": {"ml": "default"}}}},
    "a revision and a large number": of_model(fleet={"engine": {"revision": "v1", "max_num_batched_tokens": 1048576}}),
    "everything said": {
        "commonLabels": {"team": "ml"}, "serviceAccount": {"create": False, "name": "own"},
        "networkPolicy": {"enabled": False},
        "gateway": {"env": {"ROUNDHOUSE_QUEUE_TIMEOUT": 20}, "autoscaling": {"enabled": True}, "podLabels": {"a": "b"},
                    "nodeSelector": {"x": "y"}, "tolerations": [{"operator": "Exists"}],
                    "affinity": {"nodeAffinity": {}},
                    "topologySpreadConstraints": [
                        {"topologyKey": "rack", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}],
                    "image": {"registry": "r.example", "digest": "sha256:" + 64 * "a"},
                    "service": {"type": "LoadBalancer", "annotations": {"a": "b"}}},
        "priorityClasses": {"create": True},
        **of_model(runtimeClassName="nvidia", env={"HTTPS_PROXY": "http://proxy:3128"}, podAnnotations={"a": "b"}),
    },
}  # fmt: skip


BASE = values("one-gpu")
# Every values file, and every feature over the one for one GPU.
RELEASES = [
    *(Release(kind, values(kind)) for kind in KINDS),
    *(Release(name, merged(BASE, over)) for name, over in FEATURES.items()),
]
