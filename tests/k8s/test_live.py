"""The chart on the cluster that KUBECONFIG names: installed, upgraded, rolled back, drained, scaled.

It needs no GPU. K8S_TEST_GATEWAY_IMAGE and K8S_TEST_ENGINE_IMAGE name the images, `repository:tag`. On simulated nodes,
where no pod really runs, K8S_TEST_SIMULATED=1 leaves out what asks one; K8S_TEST_SMALL=1 says that the nodes have fewer
processors than the engines would reserve. K8S_TEST_METRICS names the file of the numbers
that an adapter for external metrics serves, as tests/k8s/control_plane has one.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.autoscaling import hpa
from tests.k8s import older
from tests.k8s.rendering import K8S, RELEASES, Object, Release, helm, merged, rendered, values
from tests.support.each import each

KUBECONFIG = os.environ.get("KUBECONFIG")
SIMULATED = os.environ.get("K8S_TEST_SIMULATED") == "1"
SMALL = os.environ.get("K8S_TEST_SMALL") == "1"
METRICS = os.environ.get("K8S_TEST_METRICS")
NAMESPACE, RELEASE = "roundhouse-test", "live"
DEFAULT_IMAGES = {"GATEWAY": "roundhouse/gateway:0.1.0", "ENGINE": "roundhouse/engine-cpu:0.1.0"}
TIMEOUT = 600  # seconds, for one step
# Asks again and again until its input ends, and says what each answer was.
ASK = """
import json, select, sys, urllib.request
url, body = "http://127.0.0.1:3000/v1/chat/completions", sys.argv[1].encode()
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, {"content-type": "application/json"})) as answer:
            print(answer.status, *json.load(answer).keys() & {"choices"}, flush=True)
    except urllib.error.HTTPError as error:
        print(error.code, error.read(), flush=True)
"""
pytestmark = [
    pytest.mark.skipif(not KUBECONFIG, reason="KUBECONFIG names no cluster"),
    pytest.mark.slow,
    pytest.mark.timeout(1800),
]


def image(which: str) -> Object:
    repository, _, tag = os.environ.get(f"K8S_TEST_{which}_IMAGE", DEFAULT_IMAGES[which]).rpartition(":")
    return {"repository": repository, "tag": tag}


def given() -> Object:
    """Pebble on the CPU; on simulated nodes without reservations, and on small ones without those of processors."""
    own: Object = {"gateway": {"replicas": 2, "image": image("GATEWAY")},
                   "engineDefaults": {"image": image("ENGINE"), "replicas": 2}}  # fmt: skip
    least: Object = {"requests": {"cpu": "10m"}} if SIMULATED or SMALL else {}
    if SIMULATED:
        least = merged(least, {"requests": {"memory": "64Mi"}, "limits": {"memory": "1Gi"}})
    return merged(merged(values("dev"), own), {name: {"resources": least} for name in ("gateway", "engineDefaults")})


def kubectl(*arguments: str, text: str | None = None) -> str:
    command = ["kubectl", "--namespace", NAMESPACE, *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def get(kind: str, name: str) -> Any:
    return json.loads(kubectl("get", kind, name, "--output", "json"))


def rolled_out(*names: str) -> None:
    for name in names:
        kubectl("rollout", "status", f"deployment/{RELEASE}-roundhouse-{name}", f"--timeout={TIMEOUT}s")


def revisions() -> dict[str, str]:
    """The revision of each Deployment: it grows where pods are replaced."""
    found = json.loads(kubectl("get", "deployments", "--output", "json"))["items"]
    metadata = {one["metadata"]["name"]: one["metadata"] for one in found}
    key, prefix = "deployment.kubernetes.io/revision", f"{RELEASE}-roundhouse-"
    return {name.removeprefix(prefix): one["annotations"][key] for name, one in metadata.items()}


def until(holds: Callable[[], bool], what: str) -> None:
    """Waits until it holds."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < TIMEOUT, f"{what} did not happen"
        time.sleep(0.5)


@dataclass(frozen=True)
class Cluster:
    """The server's minor release, the chart for it, and Helm's actions in the namespace."""

    minor: int
    chart: Path
    helm: Any

    def upgrade(self, given: Object) -> None:
        self.helm.upgrade(self.chart, RELEASE, given, namespace=NAMESPACE, wait="watcher", timeout=TIMEOUT)


@pytest.fixture(scope="module")
def namespace() -> Iterator[None]:
    """One that admits restricted pods alone."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    one = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    kubectl("apply", "--filename", "-", text=json.dumps(one))
    yield
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(scope="module")
def bare(namespace: None, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The cluster, with nothing of the chart in the namespace."""
    version = json.loads(kubectl("version", "--output", "json"))["serverVersion"]["gitVersion"]
    minor = int(version.split(".")[1])
    config = helm.Config(kubeconfig_path=KUBECONFIG, namespace=NAMESPACE)
    return Cluster(minor, older.chart(minor, tmp_path_factory.mktemp("older")), config)


@pytest.fixture(scope="module")
def cluster(bare: Cluster) -> Iterator[Cluster]:
    """The same with the release installed, which is removed at the end."""
    try:
        bare.helm.install(bare.chart, RELEASE, given(), namespace=NAMESPACE, wait="watcher", timeout=TIMEOUT)
        yield bare
    finally:
        bare.helm.uninstall(RELEASE, ignore_not_found=True)


@pytest.fixture(scope="module")
def kinds(bare: Cluster) -> set[str]:
    """The kinds of objects that the server knows."""
    return {line.split()[-1] for line in kubectl("api-resources", "--no-headers").splitlines()}


def taken(objects: list[Object], kinds: set[str]) -> None:
    """Has the server judge them, as server-side apply does it: unknown fields are refused."""
    known = [one for one in objects if one["kind"] in kinds]
    assert known
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": known})
    kubectl("apply", "--server-side", "--dry-run=server", "--filename", "-", text=text)


@each("release", RELEASES, ids=lambda release: release.name)
def test_the_server_takes_every_object_of(release: Release, bare: Cluster, kinds: set[str]) -> None:
    given = merged(release.given, {"kubeVersion": release.given.get("kubeVersion") or f"1.{bare.minor}"})
    if bare.minor < 35 and "reference" in json.dumps(given):
        with pytest.raises(helm.HelmRenderError, match="image volumes need Kubernetes"):
            rendered(bare.chart, given)
        return
    taken(rendered(bare.chart, given), kinds)


def test_the_server_takes_the_plain_manifests(bare: Cluster, kinds: set[str]) -> None:
    text = older.renamed(kubectl("kustomize", str(K8S / "plain")), bare.minor)
    own = {"metadata": {"namespace": NAMESPACE}}
    taken([merged(one, own) for one in yaml.safe_load_all(text) if one["kind"] != "Namespace"], kinds)


def test_the_namespace_refuses_a_pod_that_is_not_restricted(bare: Cluster) -> None:
    container = {"name": "root", "image": "debian:12", "securityContext": {"runAsUser": 0}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root", "namespace": NAMESPACE},
           "spec": {"containers": [container]}}  # fmt: skip
    command = ["kubectl", "apply", "--dry-run=server", "--filename", "-"]
    done = subprocess.run(command, input=json.dumps(pod), capture_output=True, text=True)
    assert "PodSecurity" in done.stderr


def test_pods_are_admitted_as_they_are(cluster: Cluster) -> None:
    """Restricted by what they say themselves, and not by what an admission adds."""

    def contexts(spec: Object) -> list[Object]:
        return [one["securityContext"] for one in (spec, *spec["containers"], *spec.get("initContainers", ()))]

    rolled_out("gateway", "pebble-chat", "pebble-code")
    for one in json.loads(kubectl("get", "deployments", "--output", "json"))["items"]:
        chosen = ",".join(f"{key}={value}" for key, value in one["spec"]["selector"]["matchLabels"].items())
        pods = json.loads(kubectl("get", "pods", "--selector", chosen, "--output", "json"))["items"]
        assert pods
        for pod in pods:
            assert contexts(pod["spec"]) == contexts(one["spec"]["template"]["spec"])


def test_the_release_is_installed(cluster: Cluster) -> None:
    rolled_out("gateway", "pebble-chat", "pebble-code")
    of_model = f"kubernetes.io/service-name={RELEASE}-roundhouse-pebble-chat"

    def addresses() -> int:
        slices = json.loads(kubectl("get", "endpointslices", "--selector", of_model, "--output", "json"))["items"]
        return sum(len(one["endpoints"] or ()) for one in slices)

    until(lambda: addresses() == 2, "an address for each replica behind the model's name")


@pytest.mark.skipif(SIMULATED, reason="simulated pods answer nothing")
def test_a_pod_of_the_namespace_gets_answers_while_the_engines_of_its_model_are_replaced(cluster: Cluster) -> None:
    rolled_out("gateway", "pebble-chat")
    body = {"model": "pebble-chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16}
    asking = ["kubectl", "--namespace", NAMESPACE, "exec", "--stdin", f"deployment/{RELEASE}-roundhouse-gateway", "--"]
    program = subprocess.Popen(
        [*asking, "python3", "-c", ASK, json.dumps(body)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        kubectl("rollout", "restart", f"deployment/{RELEASE}-roundhouse-pebble-chat")
        rolled_out("pebble-chat")
    finally:
        said, _ = program.communicate(timeout=TIMEOUT)  # which ends its input
    assert said
    assert set(said.splitlines()) == {"200 choices"}


def test_a_new_setting_of_one_model_replaces_its_pods_alone_and_can_be_taken_back(cluster: Cluster) -> None:
    before = revisions()
    changed = merged(given(), {"models": {"pebble-code": {"fleet": {"engine": {"max_num_seqs": 8}}}}})
    cluster.upgrade(changed)
    rolled_out("pebble-code")
    after = revisions()
    assert {name for name in before if before[name] != after[name]} == {"pebble-code"}
    assert "max_num_seqs" in get("configmap", f"{RELEASE}-roundhouse-fleet")["data"]["fleet.yaml"]
    cluster.helm.rollback(RELEASE, version=1, wait="watcher", timeout=TIMEOUT)
    rolled_out("pebble-code")
    assert "max_num_seqs" not in get("configmap", f"{RELEASE}-roundhouse-fleet")["data"]["fleet.yaml"]


def test_a_drain_takes_one_engine_at_a_time(cluster: Cluster) -> None:
    rolled_out("pebble-chat")
    pods = json.loads(kubectl("get", "pods", "--selector", "roundhouse/model=pebble-chat", "--output", "json"))["items"]
    assert len(pods) == 2
    version = "policy/v1" if cluster.minor >= 22 else "policy/v1beta1"

    def evict(pod: str) -> subprocess.CompletedProcess[str]:
        eviction = {"apiVersion": version, "kind": "Eviction", "metadata": {"name": pod, "namespace": NAMESPACE}}
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
        command = ["kubectl", "create", "--raw", path, "--filename", "-"]
        return subprocess.run(command, input=json.dumps(eviction), capture_output=True, text=True)

    # At once, as the drains of two nodes: a while later there would be another pod in its place.
    with ThreadPoolExecutor() as threads:
        done = list(threads.map(evict, [one["metadata"]["name"] for one in pods]))
    assert sorted(one.returncode for one in done) == [0, 1]
    assert any("disruption budget" in one.stderr for one in done)
    rolled_out("pebble-chat")


def test_a_model_is_scaled(cluster: Cluster) -> None:
    name = f"deployment/{RELEASE}-roundhouse-pebble-code"
    for replicas in (3, 1):
        kubectl("scale", name, f"--replicas={replicas}")
        rolled_out("pebble-code")
        found = get("deployment", f"{RELEASE}-roundhouse-pebble-code")
        assert found["status"]["readyReplicas"] == replicas


@pytest.mark.skipif(not METRICS, reason="K8S_TEST_METRICS names no file of an adapter")
def test_a_model_follows_its_load_as_the_simulator_has_it(cluster: Cluster) -> None:
    seconds = 10  # a window may not be shorter than a cold start, which is nothing here
    target, most = 2.5, 6
    scaling = {"kind": "hpa", "maxReplicas": most, "capacityPerReplica": target, "scaleUp": {"pods": most},
               "scaleDown": {"stabilizationWindowSeconds": seconds, "periodSeconds": 1, "pods": most}}  # fmt: skip
    model = {"startup": {"budgetSeconds": seconds}, "autoscaling": scaling}
    # Its object alone: where there is no Prometheus operator, the server knows no rules, which the chart has beside it.
    rules = {"prometheusRule": {"enabled": True}}
    full = merged(given(), {"models": {"pebble-code": model}, "monitoring": rules, "kubeVersion": f"1.{cluster.minor}"})
    objects = rendered(cluster.chart, full, RELEASE, NAMESPACE)
    (scaler,) = (one for one in objects if one["kind"] == "HorizontalPodAutoscaler")
    kubectl("apply", "--server-side", "--filename", "-", text=json.dumps(scaler))
    name = f"{RELEASE}-roundhouse-pebble-code"
    path = f"/apis/{scaler['apiVersion']}/namespaces/{NAMESPACE}/horizontalpodautoscalers/{name}"

    def state() -> tuple[int, float]:
        """The replicas that it wants, and the load that it has seen: -1 if none as yet."""
        status = json.loads(kubectl("get", "--raw", path))["status"]
        seen = [one["external"] for one in status.get("currentMetrics") or () if one.get("external")]
        averages = {one["metric"]["name"]: quantity(one["current"]["averageValue"]) for one in seen}
        average = averages.get("roundhouse_autoscaling_load")
        load = -1.0 if average is None else average * int(status["currentReplicas"])
        return int(get("deployment", name)["spec"]["replicas"]), load

    wanted = 1
    # Within the tolerance nothing changes, and more than the most is never had.
    for load in (0.0, 9.9, 10.9, 11.2, 100.0, 1.0):
        Path(str(METRICS)).write_text(json.dumps({"roundhouse_autoscaling_load": load}))
        wanted = min(most, max(1, hpa.by_average_value(wanted, load, target, hpa.Tolerance())))

        def follows(load: float = load, wanted: int = wanted) -> bool:
            replicas, seen = state()
            return replicas == wanted and abs(seen - load) < 0.05

        until(follows, f"{wanted} replicas at a load of {load}")
    assert wanted == 1


def quantity(text: str) -> float:
    """A number as Kubernetes writes it, such as 2475m."""
    return float(text.removesuffix("m")) / (1000 if text.endswith("m") else 1)
