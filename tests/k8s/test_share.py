"""The manifest of models that share a GPU, in one pod: its fleet and its settings."""

from pathlib import Path

import yaml

from service.config.settings import VARIABLES, Settings
from service.fleet.shares import assigned_cards, too_many_asleep
from tests.support.fleets import ROOT, load

OBJECTS = {one["kind"]: one for one in yaml.safe_load_all((ROOT / "k8s/share.yaml").read_text(encoding="utf-8"))}
POD = OBJECTS["Deployment"]["spec"]["template"]["spec"]
GIB = 2**30


def test_the_pod_has_what_its_fleet_takes(tmp_path: Path) -> None:
    served = load(tmp_path, OBJECTS["ConfigMap"]["data"]["fleet.yaml"]).served
    assert {one.part.keep for one in served if one.part} == {"always", "warm", "cold"}
    (container,) = POD["containers"]
    limits = container["resources"]["limits"]
    cards = {card for order, _ in enumerate(served) for card in assigned_cards(served, order) or ()}
    assert len(cards) == int(limits["nvidia.com/gpu"])
    assert too_many_asleep(served, (int(limits["memory"].removesuffix("Gi")) - 10) * GIB) is None
    settings = {one["name"]: one["value"] for one in container["env"]}
    assert {name for name in settings if name.startswith("ROUNDHOUSE_")} <= set(VARIABLES)
    graceful = 10 + int(settings["ROUNDHOUSE_DRAIN_TIMEOUT"])
    assert POD["terminationGracePeriodSeconds"] >= graceful + 40
    assert container["ports"][0]["containerPort"] == Settings().port


def test_the_pod_is_restricted() -> None:
    context = POD["securityContext"]
    assert context["runAsNonRoot"]
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    for one in (*POD["containers"], *POD["initContainers"]):
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert {mount["name"] for mount in one["volumeMounts"]} <= {volume["name"] for volume in POD["volumes"]}
