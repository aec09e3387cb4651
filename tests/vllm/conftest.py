"""Real vLLM engines: one for the whole session, and short-lived ones for the tests that kill them."""

import asyncio
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import MappingProxyType

import psutil
import pytest

from service.catalog import catalog
from service.catalog.engine_args import EngineValue
from service.engine import keeper, state
from service.engine.argv import argv
from service.engine.command import child_environment, program
from service.engine.preload import Pipes, Preload
from service.fleet import fleet
from service.fleet.served_model import ServedModel
from tests.support.services import ROOT, Service

MODEL = "pebble-chat"
START_TIMEOUT = 300.0  # seconds; a start takes half a minute on two idle cores


@dataclass(frozen=True)
class RealEngine:
    """A running vLLM. `pid` is the API server's."""

    socket: Path
    pid: int

    def core(self) -> int:
        """The pid of the engine core."""
        processes = psutil.Process(self.pid).children(recursive=True)
        found: int = next(process.pid for process in processes if "EngineCore" in " ".join(process.cmdline()))
        return found


def served_as_chat(model: str) -> ServedModel:
    """A model of the default fleet with its engine settings, served under the id `MODEL`."""
    known = catalog.load(ROOT / "models")
    served = fleet.load(ROOT / "deploy/fleets/pebble.yaml", known)[model]
    return replace(served, id=MODEL)


@contextmanager
def running(
    model: str, folder: Path, variables: Mapping[str, str] = MappingProxyType({}), **engine: EngineValue
) -> Iterator[RealEngine]:
    """A ready engine of a model of the default fleet, with extra settings; see `engine_of`."""
    served = served_as_chat(model)
    with engine_of(replace(served, engine={**served.engine, **engine}), folder, variables=variables) as started:
        yield started


@contextmanager
def engine_of(
    served: ServedModel, folder: Path, drain_timeout: int = 10, variables: Mapping[str, str] = MappingProxyType({})
) -> Iterator[RealEngine]:
    """A ready engine, its socket and log in `folder`; all its processes are killed afterwards.

    It is forked as the product forks its engines: of one process for all that these tests start. `variables` are added
    to its environment.
    """
    socket, log = folder / "engine.sock", folder / "engine.log"
    control_read, control = os.pipe()
    status, status_write = os.pipe()
    with log.open("wb") as out, os.fdopen(control, "wb", 0) as commands, os.fdopen(status, "rb", 0) as found:
        pipes = Pipes(control_read, status_write, out.fileno())
        command = argv(served, program(""), socket, drain_timeout)
        environment = {**child_environment(served, os.environ), **variables}
        with ThreadPoolExecutor(1) as thread:  # the test may have an event loop of its own
            forked = thread.submit(lambda: asyncio.run(forks().start(command, environment, None, pipes))).result()
        os.close(control_read)
        os.close(status_write)
        assert forked, "the engine could not be forked"
        found.readline()  # the keeper's
        engine = psutil.Process(int(found.readline()))
        try:
            _await_ready(engine, socket, log)
            yield RealEngine(socket, engine.pid)
        finally:
            with suppress(BrokenPipeError):
                commands.write(keeper.KILL)
            found.read()  # until the keeper has ended, and all that it has started


@cache
def forks() -> Preload:
    """What starts the engines of these tests; it ends with them."""
    return Preload(forks_folder())


@cache
def forks_folder() -> Path:
    return Path(mkdtemp(prefix="roundhouse-tests-"))


def pytest_sessionfinish() -> None:
    if forks.cache_info().currsize:
        forks().close()
        shutil.rmtree(forks_folder(), ignore_errors=True)


def _await_ready(process: psutil.Process, socket: Path, log: Path) -> None:
    """Returns when the log says that the server accepts requests; else fails the test with the log's end."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.is_running():
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
