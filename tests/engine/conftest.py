"""One real engine for the whole session, and short-lived ones for the tests that end them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "models" / "pebble"
MODEL = "pebble-chat"
START_LIMIT = 300.0  # seconds; half a minute on two idle cores
SETTINGS = ("--enforce-eager", "--max-model-len", "1024", "--disable-fastapi-docs", "--fingerprint-mode", "none")
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


@dataclass(frozen=True)
class RealEngine:
    """A running vLLM. Its processes share a process group, which bears the pid of the API server."""

    socket: Path
    pid: int

    def core(self) -> int:
        """The pid of the engine core."""
        listing = subprocess.run(["ps", "-eo", "pid,pgid,args"], capture_output=True, text=True, check=True).stdout
        rows = [line.split(maxsplit=2) for line in listing.splitlines()]
        return next(int(pid) for pid, group, args in rows if group == str(self.pid) and "EngineCore" in args)


def command(model: str, socket: Path, drain: int) -> list[str]:
    """The command line of an engine that serves the files of `model` as `MODEL`. `drain` is in seconds."""
    program = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODELS / model)]
    names = ["--served-model-name", MODEL, "--uds", str(socket), "--shutdown-timeout", str(drain)]
    return [*program, *names, "--enable-prompt-tokens-details", *SETTINGS]


@contextmanager
def running(model: str, folder: Path, drain: int = 10) -> Iterator[RealEngine]:
    """A real engine, ready, its log beside its socket in `folder`; afterwards nothing of it is left."""
    socket, log = folder / "engine.sock", folder / "engine.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command(model, socket, drain),
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | ENVIRONMENT,
            start_new_session=True,
        )
        try:
            _await_ready(process, socket, log)
            yield RealEngine(socket, process.pid)
        finally:
            # Killing the API server alone would leave its core and workers behind.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _await_ready(process: "subprocess.Popen[bytes]", socket: Path, log: Path) -> None:
    """Returns when `/health` answers 200."""
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        if b"Application startup complete" in log.read_bytes():
            return
        time.sleep(0.2)
    pytest.fail("the engine did not start:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-30:]))


@pytest.fixture(scope="session")
def real_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealEngine]:
    """The session's engine, serving pebble-chat."""
    with running(MODEL, tmp_path_factory.mktemp("engine")) as engine:
        yield engine
