"""Runs a command against a control plane of its own: `python -m tests.k8s.control_plane pytest tests/k8s/test_live.py`.

The command finds it by KUBECONFIG, knows by K8S_TEST_SIMULATED that no pod really runs, and sets the numbers that the
HorizontalPodAutoscalers read in the file that K8S_TEST_METRICS names. Its exit status is that of the command.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.k8s.control_plane import metrics, nodes, processes, restricted

PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")


def missing() -> list[str]:
    """What it needs and is not there."""
    absent = [name for name in PROGRAMS if not (processes.PROGRAMS / name).exists()]
    return absent + [name for name in ("etcd", "kubectl") if not shutil.which(name)]


def main(command: list[str]) -> int:
    if absent := missing():
        print(f"no {', '.join(absent)}: tests/k8s/control_plane/build makes Kubernetes' own; on Debian: "
              "apt-get install etcd-server kubernetes-client", file=sys.stderr)  # fmt: skip
        return 2
    with tempfile.TemporaryDirectory(prefix="control-plane-") as name:
        folder = Path(name)
        numbers = folder / "metrics.json"
        with processes.running(folder) as plane, nodes.simulated(plane), metrics.served(plane, numbers):
            restricted.demand(plane)
            found = {"KUBECONFIG": f"{folder}/kubeconfig", "K8S_TEST_SIMULATED": "1", "K8S_TEST_METRICS": str(numbers)}
            return subprocess.run(command, env=os.environ | found).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
