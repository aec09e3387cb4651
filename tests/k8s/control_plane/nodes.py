"""Nodes that do not exist: what a kubelet would write of its node and of the pods that are bound to it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx

from tests.k8s.control_plane.processes import ControlPlane

NODES = 4
CAPACITY = {"cpu": "64", "memory": "1Ti", "pods": "110", "nvidia.com/gpu": "8", "ephemeral-storage": "2Ti"}
READY = {"type": "Ready", "status": "True", "reason": "Simulated"}
LOOK = 0.2  # seconds between two looks at all pods
START = 3.0  # seconds from a pod's making until it is ready
MERGE = {"content-type": "application/strategic-merge-patch+json"}
Object = dict[str, Any]


@contextmanager
def simulated(plane: ControlPlane) -> Iterator[None]:
    """Has nodes, and runs on them whatever is bound to them: a pod is ready soon, and ends at once."""
    stop = threading.Event()
    with plane.client() as client:
        for number in range(NODES):
            _node(client, f"node-{number}")
        thread = threading.Thread(target=_kubelets, args=(plane, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _node(client: httpx.Client, name: str) -> None:
    labels = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": f"zone-{name[-1]}"}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
    client.post("/api/v1/nodes", json=node).raise_for_status()
    status = {"status": {"capacity": CAPACITY, "allocatable": CAPACITY, "conditions": [READY]}}
    client.patch(f"/api/v1/nodes/{name}/status", json=status, headers=MERGE).raise_for_status()
    open_for_pods(client, name)


def open_for_pods(client: httpx.Client, name: str) -> None:
    """Takes away the taint of a new node; of the controller that would do that there is none."""
    client.patch(f"/api/v1/nodes/{name}", json={"spec": {"taints": None}}, headers=MERGE).raise_for_status()


def _kubelets(plane: ControlPlane, stop: threading.Event) -> None:
    addresses = iter(range(1, 2**16))
    with plane.client() as client:
        while not stop.wait(LOOK):
            for pod in client.get("/api/v1/pods").json().get("items", ()):
                _act(client, pod, addresses)


def _act(client: httpx.Client, pod: Object, addresses: Iterator[int]) -> None:
    metadata = pod["metadata"]
    path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
    if "deletionTimestamp" in metadata:
        client.request("DELETE", path, json={"gracePeriodSeconds": 0})
    elif pod["spec"].get("nodeName") and pod["status"]["phase"] == "Pending" and _age(pod) >= START:
        number = next(addresses)
        client.patch(
            f"{path}/status", json={"status": status(pod, f"10.1.{number // 256}.{number % 256}")}, headers=MERGE
        )


def _age(pod: Object) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(pod["metadata"]["creationTimestamp"])).total_seconds()


def status(pod: Object, address: str) -> Object:
    """That of a pod all of whose containers run and are ready."""
    started = pod["metadata"]["creationTimestamp"]
    kinds = ("Initialized", "ContainersReady", "Ready")
    containers = [
        {"name": one["name"], "image": one["image"], "imageID": one["image"], "ready": True, "started": True,
         "restartCount": 0, "state": {"running": {"startedAt": started}}}
        for one in pod["spec"]["containers"]
    ]  # fmt: skip
    return {
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "startTime": started,
        "conditions": [{"type": kind, "status": "True", "lastTransitionTime": started} for kind in kinds],
        "containerStatuses": containers,
    }  # fmt: skip
