"""The processes of a control plane, started on free ports of 127.0.0.1 and ended with the context."""

import json
import secrets
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from bench.processes import free_port
from service.config.paths import ROOT

PROGRAMS = ROOT / "build/control-plane/bin"
PATIENCE = 180.0  # seconds for a start, on machines that are shared
USER = "system:admin"


@dataclass(frozen=True)
class ControlPlane:
    """A running one: the address of its API, the `token` of its administrator, its certificate."""

    url: str
    token: str
    certificate: Path
    key: Path

    def client(self) -> httpx.Client:
        """An administrator's."""
        trusted = ssl.create_default_context(cafile=str(self.certificate))
        headers = {"authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, verify=trusted, timeout=30)

    def kubeconfig(self) -> str:
        """For kubectl and Helm."""
        cluster = {"server": self.url, "certificate-authority": str(self.certificate)}
        return json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "local",
            "clusters": [{"name": "local", "cluster": cluster}],
            "users": [{"name": USER, "user": {"token": self.token}}],
            "contexts": [{"name": "local", "context": {"cluster": "local", "user": USER}}],
        })  # fmt: skip


@contextmanager
def running(folder: Path) -> Iterator[ControlPlane]:
    """Starts one whose data and logs are in `folder`."""
    ports = {name: free_port() for name in ("etcd", "peer", "api", "controllers", "scheduler")}
    plane = ControlPlane(
        f"https://127.0.0.1:{ports['api']}", secrets.token_urlsafe(), folder / "tls/apiserver.crt",
        folder / "tls/apiserver.key",
    )  # fmt: skip
    (folder / "tokens.csv").write_text(f'{plane.token},{USER},admin,"system:masters"\n')
    (folder / "kubeconfig").write_text(plane.kubeconfig())
    _accounts(folder)
    etcd = f"http://127.0.0.1:{ports['etcd']}"
    peer = f"http://127.0.0.1:{ports['peer']}"
    leader = ("--kubeconfig", f"{folder}/kubeconfig", "--leader-elect=false", "--bind-address=127.0.0.1",
              "--port=0", "--cert-dir", f"{folder}/tls")  # fmt: skip
    with ExitStack() as stack:

        def start(program: str | Path, *arguments: str) -> None:
            stack.enter_context(process(folder, program, arguments))

        start("etcd", "--data-dir", f"{folder}/etcd", "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
              "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
              "--initial-cluster", f"default={peer}")  # fmt: skip
        start(
            PROGRAMS / "kube-apiserver", "--etcd-servers", etcd, "--bind-address=127.0.0.1",
            "--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none", "--secure-port", str(ports["api"]),
            "--cert-dir", f"{folder}/tls", "--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=RBAC",
            "--enable-admission-plugins=PodSecurityPolicy", "--kubelet-preferred-address-types=InternalIP",
            "--token-auth-file", f"{folder}/tokens.csv", "--service-account-issuer=https://kubernetes.default.svc",
            "--service-account-key-file", f"{folder}/accounts.pub",
            "--service-account-signing-key-file", f"{folder}/accounts.key",
        )  # fmt: skip
        _wait(plane)
        # Without the one that would miss the heartbeats of nodes which do not exist.
        start(
            PROGRAMS / "kube-controller-manager", *leader, "--secure-port", str(ports["controllers"]),
            "--controllers=*,-nodelifecycle", "--horizontal-pod-autoscaler-sync-period=1s",
            "--service-account-private-key-file", f"{folder}/accounts.key", "--root-ca-file", str(plane.certificate),
        )  # fmt: skip
        start(PROGRAMS / "kube-scheduler", *leader, "--secure-port", str(ports["scheduler"]))
        yield plane


def _accounts(folder: Path) -> None:
    """The keys of service accounts' tokens."""
    key = rsa.generate_private_key(65537, 2048)
    (folder / "accounts.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "accounts.pub").write_bytes(public)


@contextmanager
def process(folder: Path, program: str | Path, arguments: tuple[str, ...]) -> Iterator["subprocess.Popen[bytes]"]:
    """Runs a program whose log is in `folder`, and ends it afterwards."""
    with (folder / f"{Path(program).name}.log").open("wb") as log:
        started = subprocess.Popen([program, *arguments], stdout=log, stderr=log)
    try:
        yield started
    finally:
        started.terminate()
        started.wait(30)


def _wait(plane: ControlPlane) -> None:
    """Until the API server is ready. Raises TimeoutError."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            with plane.client() as client:
                if client.get("/readyz").status_code == 200:
                    return
        except (httpx.TransportError, FileNotFoundError):
            pass
        time.sleep(0.2)
    raise TimeoutError(f"the API server is not ready: see {plane.certificate.parents[1]}/kube-apiserver.log")
