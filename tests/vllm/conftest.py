"""Real vLLM engines: one for the whole session, and short-lived ones for the tests that kill them."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from service.catalog import catalog
from service.catalog.engine_args import EngineValue
from service.engine import state
from service.engine.argv import argv, environment
from service.engine.command import program
from service.fleet import fleet
from service.fleet.served_model import ServedModel
from tests.support.services import ROOT, Service

MODEL = "pebble-chat"
START_TIMEOUT = 300.0  # seconds; a start takes half a minute on two idle cores


@dataclass(frozen=True)
class RealEngine:
    """A running vLLM. `pid` is the API server's, and the id of the process group of all its processes."""

    socket: Path
    pid: int

    def core(self) -> int:
        """The pid of the engine core."""
        listing = subprocess.run(["ps", "-eo", "pid,pgid,args"], capture_output=True, text=True, check=True).stdout
        rows = [line.split(maxsplit=2) for line in listing.splitlines()]
        return next(int(pid) for pid, group, args in rows if group == str(self.pid) and "EngineCore" in args)


def served_as_chat(model: str) -> ServedModel:
    """A model of the default fleet with its engine settings, served under the id `MODEL`."""
    known = catalog.load(ROOT / "models")
    served = fleet.load(ROOT / "deploy/fleets/pebble.yaml", known)[model]
    return replace(served, id=MODEL)


@contextmanager
def running(model: str, folder: Path, drain_timeout: int = 10, **engine: EngineValue) -> Iterator[RealEngine]:
    """A ready engine of a model of the default fleet, with extra settings; see `engine_of`."""
    served = served_as_chat(model)
    with engine_of(replace(served, engine={**served.engine, **engine}), folder, drain_timeout) as started:
        yield started


@contextmanager
def engine_of(served: ServedModel, folder: Path, drain_timeout: int = 10) -> Iterator[RealEngine]:
    """A ready engine, its socket and log in `folder`; all its processes are killed afterwards."""
    socket, log = folder / "engine.sock", folder / "engine.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            argv(served, program(""), socket, drain_timeout),
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | environment(served),
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
    """Returns when the log says that the server accepts requests; else fails the test with the log's end."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        if b"Application startup complete" in log.read_bytes():
            return
        time.sleep(0.2)
    pytest.fail("the engine did not start:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-30:]))


@pytest.fixture(scope="session")
def real_engine(pebble: Service) -> RealEngine:
    """The engine of pebble-chat in the session's service, for requests that bypass the gateway."""
    first = state.read(pebble.run_dir, 0)
    assert first
    assert first.model == MODEL
    assert first.pid
    return RealEngine(pebble.socket_of(0), first.pid)
