"""A real node: containerd, a kubelet, and names for Services, on which the chart's own images run as pods (root alone).

There is no kube-proxy: the name of a Service leads to its pods, as that of a headless one does.
"""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.images.build import buildah
from tests.k8s.control_plane.nodes import open_for_pods
from tests.k8s.control_plane.processes import PATIENCE, PROGRAMS, ControlPlane, process

NAME = "node-0"
BRIDGE, GATEWAY, PODS = "roundhouse0", "10.1.0.1", "10.1.0.0/24"
PAUSE = "localhost/roundhouse/pause:test"  # the program that holds a pod's namespaces; Kubernetes' own
TOOLS = ("containerd", "runc", "ctr", "dnsmasq", "ip", "buildah")
Object = dict[str, Any]
LOOK = 0.5  # seconds between two looks at the addresses of Services
CONTAINERD = """
version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
"""
KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"}, "address": GATEWAY, "cgroupDriver": "cgroupfs",
    "clusterDNS": [GATEWAY], "clusterDomain": "cluster.local", "failSwapOn": False, "enforceNodeAllocatable": [],
    "imageGCHighThresholdPercent": 100, "evictionHard": {"memory.available": "100Mi"},
}  # fmt: skip


@contextmanager
def running(plane: ControlPlane, folder: Path, images: dict[str, str]) -> Iterator[None]:
    """Has a node with these images, buildah's name to the cluster's; yields when it takes pods.

    Its pods end with it.
    """
    (folder / "cni").mkdir(parents=True)
    (folder / "containerd.toml").write_text(CONTAINERD.format(folder=folder, pause=PAUSE))
    (folder / "cni/10-pods.conflist").write_text(json.dumps(_network(folder)))
    (folder / "kubelet.json").write_text(json.dumps(KUBELET))
    hosts, socket = folder / "hosts", folder / "containerd.sock"
    hosts.touch()
    with ExitStack() as stack:
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
        stack.callback(_run, "ip", "link", "delete", BRIDGE)
        _run("ip", "address", "add", f"{GATEWAY}/24", "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        stack.enter_context(process(folder, "containerd", ("--config", str(folder / "containerd.toml"))))
        _wait(socket.exists, "containerd's socket")
        stack.callback(_end, folder)
        for name, known in {**images, _pause(folder): PAUSE}.items():
            _load(folder, name, known)
        names = stack.enter_context(process(folder, "dnsmasq", (
            "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", f"--addn-hosts={hosts}",
            f"--listen-address={GATEWAY}", "--bind-interfaces", "--local-ttl=1", "--pid-file=", "--user=root",
        )))  # fmt: skip
        stack.enter_context(process(folder, PROGRAMS / "kubelet", (
            "--config", str(folder / "kubelet.json"), "--kubeconfig", str(folder.parent / "kubeconfig"),
            "--hostname-override", NAME, "--root-dir", str(folder / "kubelet"), "--cert-dir", str(folder / "tls"),
            "--container-runtime=remote", f"--container-runtime-endpoint=unix://{socket}", f"--node-ip={GATEWAY}",
        )))  # fmt: skip
        with plane.client() as client:
            _wait(lambda: _takes_pods(client), f"node {NAME} (see {folder}/kubelet.log)")
        stack.enter_context(_named(plane, hosts, names.pid))
        yield


def _network(folder: Path) -> Object:
    """That of pods, for the container network interface: a bridge."""
    own = {"type": "host-local", "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}],
           "dataDir": f"{folder}/addresses"}  # fmt: skip
    plugin = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipam": own}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [plugin]}


def _takes_pods(client: httpx.Client) -> bool:
    """Whether the node is ready; then it is open for pods."""
    found = client.get(f"/api/v1/nodes/{NAME}")
    if found.status_code != 200:
        return False
    ready = {one["type"]: one["status"] for one in found.json()["status"].get("conditions", ())}
    if ready.get("Ready") != "True":
        return False
    open_for_pods(client, NAME)
    return True


@contextmanager
def _named(plane: ControlPlane, hosts: Path, pid: int) -> Iterator[None]:
    """Keeps the addresses of ready pods under the names of their Services."""
    stop = threading.Event()

    def keep() -> None:
        with plane.client() as client:
            while not stop.wait(LOOK):
                text = "".join(_lines(client))
                if text != hosts.read_text():
                    hosts.write_text(text)
                    os.kill(pid, signal.SIGHUP)

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _lines(client: httpx.Client) -> Iterator[str]:
    for one in client.get("/api/v1/endpoints").json().get("items", ()):
        metadata = one["metadata"]
        for subset in one.get("subsets") or ():
            for address in subset.get("addresses", ()):
                yield f"{address['ip']} {metadata['name']}.{metadata['namespace']}.svc.cluster.local\n"


def _pause(folder: Path) -> str:
    """Builds the image of a pod's first process from Kubernetes' source; returns its name."""
    source = PROGRAMS.parent / "go/src/k8s.io/kubernetes/build/pause/linux/pause.c"
    _run("gcc", "-Os", "-static", "-o", str(folder / "pause"), str(source))
    container = buildah("from", "scratch")
    buildah("add", container, folder / "pause", "/pause")
    buildah("config", "--entrypoint", '["/pause"]', "--user", "65535:65535", container)
    buildah("commit", "--rm", container, PAUSE)
    return PAUSE


def _load(folder: Path, name: str, known: str) -> None:
    """Gives containerd an image of buildah's under the name that pods have for it."""
    archive = folder / "image.tar"
    buildah("push", name, f"docker-archive:{archive}:{known}")
    _containerd(folder, "images", "import", str(archive))
    archive.unlink()


def _end(folder: Path) -> None:
    """Ends what is left of pods and their mounts, which outlive the kubelet and containerd."""
    for task in _containerd(folder, "tasks", "list", "--quiet").split():
        # One that has just ended cannot be deleted, which is said in many words.
        subprocess.run([*_client(folder), "tasks", "delete", "--force", task], stderr=subprocess.DEVNULL)
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    for path in reversed([one for one in mounts if one.startswith(f"{folder}/")]):
        _run("umount", "--lazy", path)


def _containerd(folder: Path, *words: str) -> str:
    return _run(*_client(folder), *words)


def _client(folder: Path) -> list[str]:
    return ["ctr", "--address", str(folder / "containerd.sock"), "--namespace", "k8s.io"]


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=1800).stdout


def _wait(holds: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > until:
            raise TimeoutError(f"{what}: not within {PATIENCE:g} s")
        time.sleep(LOOK)


def missing() -> list[str]:
    """What it needs and is not there."""
    absent = [name for name in TOOLS if not shutil.which(name)]
    return absent + ([] if (PROGRAMS / "kubelet").exists() else ["kubelet"])
