"""The peers between load and stub engine: none, our service, or another router in its own virtual environment.

Each peer of PEERS is a context manager that gives a Peer which answers.
"""

import http.client
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench import processes
from bench.cost.load import PATH
from bench.cost.stub import WORD

MODEL = "pebble-chat"
CONNECT = "30"  # seconds: a gateway that the machine stops for a second must not count as an engine that is gone
START = 120.0  # seconds that a peer may take until it answers
QUICK = 5.0
CACHE = Path("~/.cache/roundhouse/rivals").expanduser()


class PeerError(Exception):
    """A peer cannot be installed, or does not answer."""


@dataclass(frozen=True)
class Place:
    """Where peers run: before the `stub` on that port, on a `core` of their own, with their files in `folder`.

    Without a `core` they run on all. `cache` is where rivals are installed. Output goes to `log`; None makes a file for
    each peer in `folder`. `workers` are gateway processes of ours.
    """

    stub: int
    core: int | None
    folder: Path
    cache: Path = CACHE
    log: Path | None = None
    workers: int = 1


@dataclass(frozen=True)
class Peer:
    """Something that answers on a port of 127.0.0.1; `pid` is its first process, None where there is nothing."""

    port: int
    pid: int | None


@dataclass(frozen=True)
class Rival:
    """A gateway of others: what pip installs, and its command with places for `{port}`, `{stub}` and `{metrics}`."""

    package: str
    command: str

    def install(self, cache: Path) -> Path:
        """Its virtual environment, made where it is not there yet; pip says what it does."""
        folder = cache / self.package
        done = folder / "installed"
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=True)
            pip = subprocess.run([folder / "bin/python", "-m", "pip", "install", "--quiet", self.package], check=False)
            if pip.returncode:
                raise PeerError(f"pip could not install {self.package}; its own words are above")
            done.touch()
        return folder

    @contextmanager
    def running(self, place: Place) -> Iterator[Peer]:
        """The rival before the stub."""
        folder = self.install(place.cache)
        ports = {"port": processes.free_port(), "metrics": processes.free_port(), "stub": place.stub}
        program, *words = self.command.format(**ports).split()
        with _answering([str(folder / "bin" / program), *words], ports["port"], place) as peer:
            yield peer


RIVALS = {
    "smg": Rival(
        "smg==1.13.0",
        "smg launch --host 127.0.0.1 --port {port} --worker-urls http://127.0.0.1:{stub} --backend vllm "
        "--policy round_robin --log-level warn --prometheus-port {metrics}",
    ),
    "vllm-router": Rival(
        "vllm-router==0.1.17",
        "vllm-router --host 127.0.0.1 --port {port} --worker-urls http://127.0.0.1:{stub} "
        "--policy round_robin --log-level warning --prometheus-port {metrics}",
    ),
}


@contextmanager
def direct(place: Place) -> Iterator[Peer]:
    """Nothing between: what the others add to."""
    yield Peer(place.stub, None)


@contextmanager
def roundhouse(place: Place) -> Iterator[Peer]:
    """The service as `make serve` runs it, behind BentoML, with all that is on by default."""
    with tempfile.TemporaryDirectory(prefix="rh-", dir=place.folder) as name:
        port, fleet = processes.free_port(), Path(name) / "fleet.yaml"
        entry = {"model": MODEL, "addresses": [f"127.0.0.1:{place.stub}"], "max_in_flight": 1024}
        fleet.write_text(yaml.safe_dump({"models": [entry]}))
        environment = {"ROUNDHOUSE_RUN_DIR": name, "ROUNDHOUSE_CONNECT_TIMEOUT": CONNECT}
        environment |= {"ROUNDHOUSE_WORKERS": str(place.workers)}
        with _answering(processes.serve(fleet, port), port, place, environment) as peer:
            yield peer


PEERS: dict[str, Callable[[Place], AbstractContextManager[Peer]]] = {
    "direct": direct,
    "roundhouse": roundhouse,
    **{name: rival.running for name, rival in RIVALS.items()},
}


@contextmanager
def stub(core: int, folder: Path) -> Iterator[tuple[int, int]]:
    """The stub engine on a core; gives its port and its process."""
    port = processes.free_port()
    command = [sys.executable, "-m", "bench.cost.stub", "--port", str(port), "--model", MODEL]
    with processes.running(command, folder / "stub.log", core) as process:
        _await("the stub engine", port, process, folder / "stub.log")
        yield port, process.pid


def ask(port: int, path: str, fields: dict[str, object]) -> bytes:
    """The body of the answer to a POST; b"" where there is none."""
    url, headers = f"http://127.0.0.1:{port}{path}", {"content-type": "application/json"}
    request = urllib.request.Request(url, json.dumps(fields).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=QUICK) as answer:
            found: bytes = answer.read()
            return found
    except (OSError, http.client.HTTPException):
        return b""


@contextmanager
def _answering(
    command: list[str], port: int, place: Place, environment: dict[str, str] | None = None
) -> Iterator[Peer]:
    log = place.log or place.folder / f"{port}.log"
    with processes.running(command, log, place.core, environment) as process:
        _await(" ".join(command[:4]), port, process, log)
        yield Peer(port, process.pid)


def _await(name: str, port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Waits until a chat is answered as the stub answers it."""
    chat: dict[str, object] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}]}
    deadline = time.monotonic() + START
    while WORD.encode() not in ask(port, PATH, chat):
        if process.poll() is not None or time.monotonic() > deadline:
            last = " / ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
            raise PeerError(f"{name} does not answer: {last}")
        time.sleep(0.1)
