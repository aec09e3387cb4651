"""A setup as a running service: `roundhouse serve` with its own fleet file."""

import asyncio
import ctypes
import functools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from bench.gpu import flags, machine, weights
from bench.gpu.schedule import Setup, Subject
from service.catalog import catalog
from service.config.paths import ROOT
from service.config.settings import Settings
from service.engine import state
from service.engine.argv import argv, unknown_flags
from service.engine.command import program
from service.engine.keeper import PR_SET_PDEATHSIG
from service.fleet import fleet
from service.fleet.served_model import ServedModel
from service.transport import pool
from service.transport.pool import ConnectionPool, Deadlines, TransportError

UTILIZATION = 0.92  # vLLM 0.32's default, set explicitly so that other releases use it too
QUICK = Deadlines(connect=5.0, first_byte=120.0, idle=120.0, total=120.0)
STOP = 60.0  # seconds that a service may take to end
DRAIN = Settings().drain_timeout
MOST = 1024  # requests in flight: more than any measurement sends


class StartError(Exception):
    """An engine did not start; the message is its own reason, `engines` the command lines that were tried."""

    def __init__(self, message: str, engines: list[list[str]] | None = None) -> None:
        super().__init__(message)
        self.engines = engines or []


@dataclass(frozen=True)
class Running:
    """A service whose engines are ready. `began` is when it was started, by the monotonic clock.

    `memory_before` is what was in use on the card before, in bytes. `folder` holds fleet, sockets and logs.
    """

    setup: Setup
    folder: Path
    address: str
    served: tuple[ServedModel, ...]
    process: "subprocess.Popen[bytes]"
    began: float
    ready: float
    memory_before: int | None

    def socket(self, number: int = 0) -> str:
        """Where engine `number` of the setup listens."""
        return str(state.socket_path(self.folder, number))

    def log(self, number: int = 0) -> str:
        """What engine `number` has said so far."""
        return _log(self.folder, self.served[number].id)

    def commands(self) -> list[list[str]]:
        """The command lines of its engines."""
        return _commands(self.folder, self.served)

    def gateway_seconds(self) -> float:
        """CPU seconds that the gateway's process has used so far."""
        times = _gateway(self.process.pid).cpu_times()
        return float(times.user + times.system)

    async def fetch(self, path: str, number: int = 0, body: bytes | None = None) -> bytes:
        """An answer of engine `number`, asked past the gateway; TransportError where it is not a success."""
        client, address = ConnectionPool(), self.socket(number)
        wire = pool.get_request(path) if body is None else pool.post_request(path, body)
        try:
            exchange = await client.send(address, wire, QUICK)
            try:
                status, answer = await exchange.head(), await exchange.read_all(2**26)
            finally:
                client.release(address, exchange)
        finally:
            client.close()
        if not 200 <= status < 300:
            raise TransportError(f"{path}: status {status}: {answer[:300].decode(errors='replace')}")
        return answer


@asynccontextmanager
async def started(setup: Setup, gpus: int, limit: float, ready: int | None = None) -> AsyncIterator[Running]:
    """The service of a setup, ready; afterwards it and all that it started are gone.

    `gpus` is 1 on a card and 0 for the rehearsal. `limit` is how many seconds the start may take. `ready` is how many
    of its engines must be ready, in order; all where None. Raises StartError.
    """
    folder = Path(tempfile.mkdtemp(prefix="rh-gpu-"))
    try:
        served = write_fleet(setup, folder, gpus)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        memory, began = machine.memory_in_use(), time.monotonic()
        process = _launch(setup, folder, port, limit)
        try:
            try:
                await _until_ready(setup, folder, process, served[:ready], limit)
            except StartError as error:
                raise StartError(str(error), _commands(folder, served[:ready])) from None
            address = f"127.0.0.1:{port}"
            running = Running(setup, folder, address, served, process, began, time.monotonic(), memory)
            await _until_known(address, served[:ready])
            yield running
        finally:
            await asyncio.to_thread(_stop, process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def until_ready(running: Running, limit: float) -> float:
    """Waits until all engines of a setup are ready; returns the seconds since its start."""
    await _until_ready(running.setup, running.folder, running.process, running.served, limit)
    return time.monotonic() - running.began


async def _until_known(address: str, served: tuple[ServedModel, ...]) -> None:
    """Waits until the gateway has seen that these are ready: it looks a few times a second."""
    client = ConnectionPool()
    try:
        async with asyncio.timeout(QUICK.total):
            while True:
                exchange = await client.send(address, pool.get_request("/v1/models"), QUICK)
                try:
                    await exchange.head()
                    rows = json.loads(await exchange.read_all(2**20))["data"]
                finally:
                    client.release(address, exchange)
                if {one.id for one in served} <= {row["id"] for row in rows if row["state"] == "ready"}:
                    return
                await asyncio.sleep(0.05)
    except (TimeoutError, TransportError) as error:
        raise StartError(f"the engines are ready and the gateway does not say so: {error}") from None
    finally:
        client.close()


def _commands(folder: Path, served: tuple[ServedModel, ...]) -> list[list[str]]:
    """The command lines of engines, without where this machine keeps things."""
    vllm = program(os.environ.get("ROUNDHOUSE_ENGINE_PROGRAM", ""))
    whole = [
        argv(
            one, vllm, state.socket_path(folder, number), DRAIN, None, unknown_flags(_log(folder, one.id).splitlines())
        )
        for number, one in enumerate(served)
    ]
    places = {sys.executable: "python", f"{folder}/": "", f"{ROOT}/": ""}
    return [[functools.reduce(lambda text, place: text.replace(*place), places.items(), word) for word in words]
            for words in whole]  # fmt: skip


def write_fleet(setup: Setup, folder: Path, gpus: int) -> tuple[ServedModel, ...]:
    """Writes a fleet file for the setup, and weights without contents, into `folder`; `gpus` is 1 on a card, else 0."""
    models = [_entry(one, weights.write(one.model, folder / one.model.id, one.context), setup, gpus)
              for one in setup.subjects]  # fmt: skip
    written: dict[str, Any] = {"models": models, "extra_fields": ["ignore_eos"]}
    if len(models) > 1 and gpus:
        # An engine measures the card's memory while it starts, and another one's start would be taken for its own.
        written["startup"] = "sequential"
    (folder / "fleet.yaml").write_text(yaml.safe_dump(written, sort_keys=False), encoding="utf-8")
    return fleet.load(folder / "fleet.yaml", catalog.load(ROOT / "models")).served


def _entry(subject: Subject, place: Path, setup: Setup, gpus: int) -> dict[str, Any]:
    engine: dict[str, Any] = {"load_format": "dummy", "dtype": "bfloat16", "max_model_len": subject.context}
    if gpus:
        engine["gpu_memory_utilization"] = UTILIZATION
    if subject.form == "fp8":
        engine["quantization"] = "fp8"
    unknown = dict.fromkeys(flags.lacking(flags.installed()))  # null leaves a flag out
    return {
        "model": subject.model.id, "weights": str(place), "gpus": gpus, "max_in_flight": MOST,
        "engine": engine | unknown | setup.engine, "env": setup.env,
    }  # fmt: skip


def _launch(setup: Setup, folder: Path, port: int, limit: float) -> "subprocess.Popen[bytes]":
    """`roundhouse serve`, which the kernel stops when we die: nothing is left behind on a borrowed card."""
    command = [sys.executable, "-m", "service.cli", "serve", "--fleet", str(folder / "fleet.yaml"), "--port", str(port)]
    environment = environment_of(setup, folder, limit)
    with (folder / "serve.log").open("wb") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=lambda: ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
        )  # fmt: skip


def environment_of(setup: Setup, folder: Path, limit: float) -> dict[str, str]:
    """The variables of the service."""
    environment = {
        **os.environ,
        "ROUNDHOUSE_RUN_DIR": str(folder),
        "ROUNDHOUSE_START_TIMEOUT": str(limit),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", "")))),
        # Without this BentoML gives each engine a card of its own, and two on one card is what we want to see.
        "BENTOML_DISABLE_GPU_ALLOCATION": "1",
    }
    if "enable_sleep_mode" in setup.engine:
        # vLLM offers /sleep and /wake_up only so, and the service gives no engine of a card of its own these routes.
        vllm = program(os.environ.get("ROUNDHOUSE_ENGINE_PROGRAM", ""))
        environment["ROUNDHOUSE_ENGINE_PROGRAM"] = shlex.join(["env", "VLLM_SERVER_DEV_MODE=1", *vllm])
    if machine.card():
        environment.setdefault("CUDA_VISIBLE_DEVICES", "0")
    return environment


async def _until_ready(
    setup: Setup, folder: Path, process: "subprocess.Popen[bytes]", served: tuple[ServedModel, ...], limit: float
) -> None:
    deadline = time.monotonic() + limit
    while True:
        seen = [state.read(folder, number) for number in range(len(served))]
        if all(one and one.condition == "ready" for one in seen):
            return
        for one in seen:
            if one and one.condition == "failed" and one.restarts > setup.retries:
                raise StartError(f"{one.model}: {one.reason}")
        if process.poll() is not None:
            last = (folder / "serve.log").read_text(errors="replace").strip().splitlines()[-3:]
            raise StartError(f"the service ended: {' / '.join(last)}")
        if time.monotonic() > deadline:
            told = [f"{one.model} {one.condition}, {one.phase}" for one in seen if one and one.condition != "ready"]
            raise StartError(f"not ready within {limit:.0f} s: {'; '.join(told)}")
        await asyncio.sleep(0.1)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Ends the service as Ctrl-C does; what does not end in time is killed with all its children."""
    children = []
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in psutil.wait_procs(children, timeout=STOP)[1]:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def _gateway(root: int) -> psutil.Process:
    """The worker process of the gateway among the service's processes."""
    for one in psutil.Process(root).children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if re.search(r"--service-name gateway\b", " ".join(one.cmdline())):
                return one
    raise LookupError("the gateway's process is not among those of the service")


def _log(folder: Path, model: str) -> str:
    try:
        return (folder / f"{state.replica_id(model, 0)}.log").read_text(errors="replace")
    except OSError:
        return ""
