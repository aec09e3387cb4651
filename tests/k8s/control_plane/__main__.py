"""Runs a command against a control plane of its own: `python -m tests.k8s.control_plane pytest tests/k8s/test_live.py`.

The command finds it by KUBECONFIG, knows by K8S_TEST_SIMULATED that no pod really runs, and sets the numbers that the
HorizontalPodAutoscalers read in the file that K8S_TEST_METRICS names. Its exit status is that of the command.

With `--node` before the command, one real node runs the images of gateway and engine, which are built if they are not
there. K8S_TEST_SMALL says that it is a small one.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.images.build import build
from tests.k8s.control_plane import metrics, node, nodes, processes, restricted

PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
TARGETS = ("gateway", "engine-cpu")


def missing() -> list[str]:
    """What it needs and is not there."""
    absent = [name for name in PROGRAMS if not (processes.PROGRAMS / name).exists()]
    return absent + [name for name in ("etcd", "kubectl") if not shutil.which(name)]


def main(command: list[str]) -> int:
    real = command[:1] == ["--node"]
    if absent := missing() + (node.missing() if real else []):
        print(f"no {', '.join(absent)}: tests/k8s/control_plane/build makes Kubernetes' own; on Debian: "
              "apt-get install etcd-server kubernetes-client"
              + (" containerd runc containernetworking-plugins dnsmasq-base iproute2 buildah" if real else ""),
              file=sys.stderr)  # fmt: skip
        return 2
    images = {build(target): f"docker.io/roundhouse/{target}:0.1.0" for target in TARGETS} if real else {}
    with tempfile.TemporaryDirectory(prefix="control-plane-") as name:
        folder = Path(name)
        numbers = folder / "metrics.json"
        with ExitStack() as stack:
            plane = stack.enter_context(processes.running(folder))
            restricted.demand(plane)
            found = {"KUBECONFIG": f"{folder}/kubeconfig"}
            if real:
                stack.enter_context(node.running(plane, folder / "node", images))
                found |= {"K8S_TEST_SMALL": "1"}
            else:
                stack.enter_context(nodes.simulated(plane))
                stack.enter_context(metrics.served(plane, numbers))
                found |= {"K8S_TEST_SIMULATED": "1", "K8S_TEST_METRICS": str(numbers)}
            return subprocess.run(command[real:], env=os.environ | found).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
