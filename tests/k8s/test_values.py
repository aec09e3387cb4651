"""Values that cannot work are refused when Helm renders, with the key and the reason."""

from typing import Any

import pytest

from tests.k8s.rendering import BASE, MODEL, PROMETHEUS, Object, Release, helm, merged, of_model
from tests.support.each import each

AT = f"models.{MODEL}"
KEDA = {"kind": "keda", "capacityPerReplica": 2}
WITH_PROMETHEUS = {"autoscaling": PROMETHEUS}
CAPPED = of_model(terminationGracePeriodSeconds=100)
OTHER = {"fleet": {"model": "zephyr-7b-beta", "gpus": 1}}

# Over values-one-gpu.yaml, and what is said.
REFUSED: dict[str, tuple[Object, str]] = {
    # Seen by the schema
    "an unknown key": ({"replicas": 2}, "additional properties 'replicas' not allowed"),
    "an unknown key of a model": (of_model(gpu=1), f"at '/models/{MODEL}': additional properties 'gpu' not allowed"),
    "an unknown key of the fleet file": ({"fleet": {"tenant": {}}}, "at '/fleet': additional properties 'tenant'"),
    "an unknown key of its entry": (of_model(fleet={"gpu": 1}), "additional properties 'gpu' not allowed"),
    "a key that the chart sets": (of_model(fleet={"addresses": ["x:1"]}), "'addresses' not allowed"),
    "a wrong type": (of_model(fleet={"gpus": "one"}), f"at '/models/{MODEL}/fleet/gpus': got string, want integer"),
    "a name that is none": ({"models": {"Llama_2": OTHER}}, "does not match pattern"),
    "an unknown kind of cache": (of_model(cache={"kind": "nfs"}), "value must be one of 'emptyDir', 'pvc'"),
    "an image of weights without its digest": (of_model(cache={"image": {"reference": "a/b:1"}}), "sha256:"),
    "latest": (of_model(image={"tag": "latest"}), f"at '/models/{MODEL}/image/tag': 'not' failed"),
    "a secret as a value": ({"secrets": {"apiKey": {"value": "rh_x"}}}, "additional properties 'value' not allowed"),
    "a digest that is none": ({"gateway": {"image": {"digest": "sha256:1"}}}, "at '/gateway/image/digest'"),
    "no gateway": ({"gateway": {"port": 0}}, "at '/gateway/port': minimum: got 0, want 1"),
    # Seen by the templates
    "no models": ({"models": {MODEL: {"enabled": False}}}, "models: name at least one"),
    "three GPUs": (
        of_model(fleet={"gpus": 3}), f"{AT}.fleet.gpus: tensor parallelism cannot use 3 GPUs, since it divides"
    ),
    "more GPUs than tensor parallelism uses": (
        of_model(fleet={"gpus": 4, "engine": {"tensor_parallel_size": 2}}),
        f"{AT}.fleet.gpus: a replica has 4, and tensor_parallel_size × pipeline_parallel_size × data_parallel_size is",
    ),
    "tensor parallelism without GPUs": (
        of_model(fleet={"gpus": 0, "engine": {"tensor_parallel_size": 2}}), "a replica has 0, and"
    ),
    "two models with one alias": (
        {"models": {"other": {"fleet": {"model": "zephyr-7b-beta", "aliases": ["gpt-4o-mini"]}}}},
        f"models.other.fleet: the name 'gpt-4o-mini' is that of {AT} already",
    ),
    "two models with one alias, one of them without a weight": (
        {"models": {MODEL: {"fleet": {"weight": 5}}, "other": {"fleet": {"model": "x/y", "aliases": ["gpt-4o-mini"]}}}},
        f"models.other.fleet: the name 'gpt-4o-mini' is that of {AT} already",
    ),
    "an alias that is a model": ({"fleet": {"aliases": {MODEL: "x"}}}, f"fleet.aliases: the name '{MODEL}' is that of"),
    "a reserved name": (of_model(fleet={"aliases": ["chat"]}), "the name 'chat' is reserved for routing"),
    "two models with one name of objects": ({"models": {"a.b": OTHER, "a-b": OTHER}}, "models.a.b: its objects would"),
    "zero without a demand metric": (
        {**of_model(autoscaling={**KEDA, "minReplicas": 0}), **WITH_PROMETHEUS},
        f"{AT}.autoscaling.minReplicas: scale to zero without a demand metric would never wake the model",
    ),
    "zero without KEDA": (
        of_model(autoscaling={"kind": "hpa", "minReplicas": 0}), "scale to zero needs the gateway's demand metric"
    ),
    "nothing that would start a replica": (of_model(replicas=0), f"{AT}.replicas: with none nothing would start one"),
    "a grace period shorter than the drain": (
        CAPPED, f"{AT}.terminationGracePeriodSeconds: 100 is not more than drain.endpointSeconds + drain.timeoutSeconds"
    ),
    "a gateway's grace period shorter than its drain": (
        {"gateway": {"terminationGracePeriodSeconds": 130}}, "gateway.terminationGracePeriodSeconds: 130 is not more"
    ),
    "less than the least": (
        {**of_model(autoscaling={**KEDA, "minReplicas": 5, "maxReplicas": 2}), **WITH_PROMETHEUS},
        f"{AT}.autoscaling: minReplicas (5) is more than maxReplicas (2)",
    ),
    "KEDA without a Prometheus": (of_model(autoscaling=KEDA), "keda asks a Prometheus: name it in"),
    "a cooldown shorter than a start": (
        {**of_model(autoscaling={**KEDA, "minReplicas": 0, "cooldownSeconds": 600}), **WITH_PROMETHEUS},
        f"{AT}.autoscaling.cooldownSeconds: 600 is less than 1.5 times the startup budget (2700)",
    ),
    "a window shorter than a start": (
        {**of_model(autoscaling={**KEDA, "scaleDown": {"stabilizationWindowSeconds": 300}}), **WITH_PROMETHEUS},
        "scaleDown.stabilizationWindowSeconds: 300 is shorter than a cold start",
    ),
    "more GPUs than the quota": (
        {"autoscaling": {"gpuQuota": 1}, **of_model(replicas=2)}, "take 2 GPUs, more than the 1"
    ),
    "a claim for one node": (of_model(replicas=2), f"{AT}.cache.pvc.accessModes: the model can have 2 pods"),
    "an image volume on an old cluster": (
        {"kubeVersion": "v1.34.2", **of_model(cache={"kind": "image"})}, "need Kubernetes 1.35, and this is 1.34.2"
    ),
    "a hostPath without a path": (of_model(cache={"kind": "hostPath"}), f"{AT}.cache.hostPath.path: name the folder"),
    "GPUs that cannot be divided": (
        of_model(fleet={"gpus": 1}, multiNode={"enabled": True}), "1 cannot be divided among the 2 pods"
    ),
    "a share": ({"fleet": {"shares": {"card": {"gpus": [0], "memory": "76GiB"}}}}, "fleet.shares: engines that share"),
    "a model of a share": (of_model(fleet={"share": "card", "memory": "2GiB"}), f"{AT}.fleet.share: engines that"),
    "a group of pods with too long a name": (
        {"fullnameOverride": "a" * 30,
         "models": {"b" * 30: {"fleet": {"model": "zephyr-7b-beta", "gpus": 2}, "multiNode": {"enabled": True}}}},
        "no pod has a label with more than 48 characters",
    ),
    "nobody let in": ({"secrets": {"apiKey": {"name": ""}}}, "secrets: the gateway would let nobody in"),
    "engines without a key": ({"secrets": {"engineKey": {"name": ""}}}, "secrets.engineKey.name: engines need a key"),
    "keys and no keys": ({"fleet": {"auth": "none"}}, "fleet.auth: it is none, and secrets has API keys"),
    "metrics without a key": (
        {"monitoring": {"serviceMonitor": {"enabled": True}}}, "secrets.metricsKey.name: /metrics asks for a key"
    ),
    "more gateways than engines know of": ({"gateway": {"replicas": 9, "workers": 2}}, "there can be 18 gateway"),
    "an endpoint picker without a name": (of_model(inferencePool={"enabled": True}), "endpointPicker.name: name the"),
    "a route without a Gateway": ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs: name the Gateway"),
    "an ingress without a host": ({"ingress": {"enabled": True}}, "ingress.hosts: name at least one"),
}  # fmt: skip


def message(over: Object) -> str:
    """What Helm says of these values over those for one GPU."""
    with pytest.raises((helm.HelmValuesError, helm.HelmRenderError)) as refused:
        assert Release("", merged(BASE, over)).objects
    return str(refused.value)


@each("name", REFUSED, ids=str)
def test_what_cannot_work_is_refused(name: str) -> None:
    over, text = REFUSED[name]
    assert text in message(over)


def test_all_mistakes_are_named_at_once() -> None:
    mistakes: dict[str, Any] = merged(CAPPED, {"httpRoute": {"enabled": True}, "secrets": {"engineKey": {"name": ""}}})
    said = message(merged(mistakes, of_model(fleet={"gpus": 3})))
    assert [
        key for key in ("secrets.engineKey", "fleet.gpus", "terminationGrace", "httpRoute") if key not in said
    ] == []


def test_models_with_weights_may_share_an_alias() -> None:
    other = {"fleet": {"model": "pebble-base", "aliases": ["gpt-4o-mini"], "weight": 5}}
    assert Release("", merged(BASE, {"models": {MODEL: {"fleet": {"weight": 95}}, "other": other}})).objects
