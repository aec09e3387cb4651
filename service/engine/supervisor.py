"""The life of one replica: wait for its turn, start, prove readiness, watch, restart, drain."""

import asyncio
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from service import transport
from service.engine import state
from service.engine.argv import argv, environment, optional, unknown_flags
from service.engine.process import EngineProcess
from service.engine.state import Condition, EngineState
from service.fleet import Fleet, Served
from service.prompts import generation_config
from service.settings import Settings
from service.transport import Deadlines, Transport, TransportError
from service.weights import manifest

GIB = 2**30
BASE_NEED = int(1.2 * GIB)  # what three vLLM processes take beside weights and KV cache
BACKOFF = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
STEADY = 300.0  # seconds after which an engine's earlier deaths are forgiven
HEARTBEAT = 10.0
TAKEDOWN = 15.0  # seconds that vLLM may take, beyond the drain, to end its own processes
# vLLM binds its socket early and once more when it serves: what was sent in between is never answered. So a knock that
# gives up soon comes first; the first token may then have to wait for compilation.
KNOCK = Deadlines(connect=1.0, first_byte=2.0, idle=2.0, total=2.0)
FIRST_TOKEN = Deadlines(connect=1.0, first_byte=120.0, idle=120.0, total=120.0)
PHASES = (
    ("non-default args", "reading the model's configuration"),
    ("Initializing a V1 LLM engine", "starting the engine core"),
    ("Starting to load model", "loading weights"),
    ("Loading weights took", "sizing the KV cache"),
    ("Dynamo bytecode transform", "compiling"),
    ("Capturing CUDA graphs", "capturing CUDA graphs"),
    ("Starting vLLM server", "waiting for its first token"),
)
Say = Callable[[str], None]


class _StoppedError(Exception):
    pass


class Supervisor:
    """Keeps the engine of one replica running until `stop`."""

    def __init__(self, served: Served, number: int, order: int, fleet: Fleet, settings: Settings, say: Say) -> None:
        assert settings.run_dir
        self._served, self._order, self._settings, self._say = served, order, settings, say
        self._run_dir = settings.run_dir
        self._socket = state.socket_path(self._run_dir, order)
        self._engines = sum(1 for _ in fleet.replicas())
        self._start = fleet.start
        self._transport = Transport()
        self._process: EngineProcess | None = None
        self._task: asyncio.Task[None] | None = None
        self._began = 0.0
        self._stopping = False
        self._unknown: frozenset[str] = frozenset()
        self._state = EngineState(state.replica_id(served.id, number), served.id, order, "waiting")

    def start(self) -> None:
        """Begins, in the background."""
        self._show("waiting", "its turn to start")
        self._task = asyncio.create_task(self._live())

    async def stop(self) -> None:
        """Lets running requests finish within the drain timeout, then ends the engine and all its processes."""
        self._stopping = True
        self._show("stopping", "draining")
        process = self._process
        if process and self._task:
            process.terminate()
            await asyncio.wait([self._task], timeout=self._settings.drain_timeout + TAKEDOWN)
            process.kill()
            await asyncio.wait([self._task], timeout=5)
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._transport.close()
        self._show("stopped")

    async def _live(self) -> None:
        deaths = 0
        while True:
            await self._turn()
            self._began = time.monotonic()
            reason = self._shortage() or await self._mismatch() or await self._run_once()
            if self._stopping:
                return
            if reason is None:
                continue
            if time.monotonic() - self._began > STEADY:
                deaths = 0
            pause = BACKOFF[min(deaths, len(BACKOFF) - 1)]
            deaths += 1
            self._state = replace(self._state, restarts=self._state.restarts + 1, pid=None)
            self._show("failed", f"starts again in {pause:g} s", reason)
            await asyncio.sleep(pause)

    async def _turn(self) -> None:
        """Waits until the engines before this one are through, as far as cores and memory demand it."""
        while True:
            free = psutil.virtual_memory().available
            at_once = state.slots(self._start, os.cpu_count() or 1, free, need(self._served))
            earlier = [state.read(self._run_dir, order) for order in range(self._order)]
            if state.may_start(self._order, earlier, at_once, self._engines):
                return
            await asyncio.sleep(0.5)

    def _shortage(self) -> str | None:
        """Why there is no room for this engine, if there is none. A GPU's memory is vLLM's own business."""
        free, wanted = psutil.virtual_memory().available, need(self._served)
        if self._served.gpus or free >= wanted:
            return None
        return (
            f"no memory for another engine: it needs about {wanted / GIB:.1f} GiB and {free / GIB:.1f} GiB are free. "
            "Serve fewer models or replicas, or lower VLLM_CPU_KVCACHE_SPACE in the fleet file."
        )

    async def _mismatch(self) -> str | None:
        """How the weights differ from their manifest, if they have one and do. Hashing goes on in threads."""
        directory = Path(self._served.weights)
        if not manifest.exists(directory):
            return None
        self._show("starting", "verifying the weights")
        try:
            problems = await asyncio.to_thread(manifest.verify, directory, advance=self._go_on)
        except _StoppedError:
            return None
        if not problems:
            return None
        more = f", and {len(problems) - 1} more differ" if len(problems) > 1 else ""
        return f"its weights are not what was pulled: {directory / problems[0].file} {problems[0].what}{more}"

    def _go_on(self, count: int) -> None:
        """Ends a verification that nobody waits for any more."""
        if self._stopping:
            raise _StoppedError

    async def _run_once(self) -> str | None:
        """One life of the engine, from start to end; returns why it ended, None where it shall start again at once."""
        self._socket.unlink(missing_ok=True)
        process = self._process = EngineProcess(self._on_line)
        readiness = asyncio.create_task(self._until_ready())
        try:
            vllm, drain = program(self._settings.engine_program), self._settings.drain_timeout
            command = argv(self._served, vllm, self._socket, drain, self._generation(), self._unknown)
            self._show("starting", "importing vLLM")
            await process.start(command, child_environment(self._served, os.environ))
            self._state = replace(self._state, pid=await process.pid)
            started: list[asyncio.Future[Any]] = [readiness, process.ended]
            await asyncio.wait(started, return_when=asyncio.FIRST_COMPLETED)
            if not process.ended.done() and not self._stopping:
                problem = readiness.result()
                if problem:
                    process.kill()
                    await process.ended
                    return problem
                self._show("ready")
            status = await process.ended
            if new := unknown_flags(process.tail) - self._unknown:
                return self._learn(new)
            return f"{_died(status)}: {process.cause()}"
        finally:
            readiness.cancel()
            process.close()
            self._process = None

    def _learn(self, unknown: frozenset[str]) -> str | None:
        """Remembers flags that this vLLM does not know; returns why it cannot do without one, if it cannot."""
        needed = sorted(unknown - optional(self._served))
        if needed:
            return (
                f"this vLLM does not know {', '.join(needed)}: install a release that does, or, for a setting of the "
                "fleet file, leave it out or mark it 'optional' there"
            )
        self._unknown |= unknown
        self._show("starting", f"again, without {', '.join(sorted(unknown))}: this vLLM does not know it")
        self._on_line(f"roundhouse: {self._state.phase}")
        return None

    def _generation(self) -> Path | None:
        """The folder of the generation_config.json that this engine needs; None where the weights' own will do."""
        config = generation_config(self._served.model, Path(self._served.weights))
        if config is None:
            return None
        folder = self._run_dir / f"e{self._order}.generation"
        folder.mkdir(exist_ok=True)
        (folder / "generation_config.json").write_text(json.dumps(config))
        return folder

    async def _until_ready(self) -> str | None:
        """Asks for one token until it comes; returns a reason if it does not come in time."""
        began = beat = time.monotonic()
        problem: str | None = "no socket yet"
        while True:
            if self._socket.exists():
                problem = await self._probe()
                if problem is None:
                    return None
            now = time.monotonic()
            if now - began > self._settings.start_timeout:
                return f"no token within {self._settings.start_timeout:g} s of its start: {problem}"
            if now - beat > HEARTBEAT:
                beat = now
                self._say(f"{self._state.replica}  {self._state.phase}, {now - self._began:.0f} s")
            await asyncio.sleep(0.25)

    async def _probe(self) -> str | None:
        """One token from the engine; returns what went wrong instead."""
        try:
            status = await self._ask(transport.get("/health"), KNOCK)
            if status == 200:
                status = await self._ask(transport.post(*probe(self._served)), FIRST_TOKEN)
        except TransportError as error:
            return str(error)
        return None if status == 200 else f"its answer to a first request has status {status}"

    async def _ask(self, request: bytes, deadlines: Deadlines) -> int:
        address = str(self._socket)
        exchange = await self._transport.send(address, request, deadlines)
        try:
            status = await exchange.head()
            await exchange.read_all(2**20)
        finally:
            self._transport.release(address, exchange)
        return status

    def _on_line(self, line: str) -> None:
        with (self._run_dir / f"{self._state.replica}.log").open("a") as log:
            log.write(line + "\n")
        if self._state.condition == "starting":
            for mark, phase in PHASES:
                if mark in line:
                    self._show("starting", phase)

    def _show(self, condition: Condition, phase: str = "", reason: str | None = None) -> None:
        self._state = replace(self._state, condition=condition, phase=phase, reason=reason, since=time.time())
        state.write(self._run_dir, self._state)
        elapsed = f" after {time.monotonic() - self._began:.0f} s" if self._began else ""
        words = ", ".join(part for part in (condition, phase, reason) if part)
        self._say(f"{self._state.replica}  {words}{elapsed}")


def need(served: Served) -> int:
    """Bytes of memory that an engine without a GPU will take: processes, weights, KV cache."""
    weights = Path(served.weights)
    size = sum(file.stat().st_size for file in weights.glob("*.safetensors")) if weights.is_dir() else 0
    return BASE_NEED + size + int(served.env.get("VLLM_CPU_KVCACHE_SPACE", "4")) * GIB


def probe(served: Served) -> tuple[str, bytes]:
    """Path and body of the smallest real request that this model can answer."""
    if served.variant == "embedding":
        return "/v1/embeddings", json.dumps({"model": served.id, "input": "1"}).encode()
    fields = {"model": served.id, "prompt": "1", "max_tokens": 1, "temperature": 0}
    return "/v1/completions", json.dumps(fields).encode()


def program(configured: str) -> list[str]:
    """The command that is vLLM's server here: what is configured, or the CLI, or where there is none its module."""
    if configured:
        return shlex.split(configured)
    try:
        metadata.version("vllm")
    except metadata.PackageNotFoundError:
        # The CPU build's distribution has another name, and the CLI does not start without the usual one.
        return [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    return [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve"]


def child_environment(served: Served, environ: Mapping[str, str]) -> dict[str, str]:
    """The engine's whole environment: ours without what is meant for BentoML and the gateway."""
    kept = {key: value for key, value in environ.items() if not key.startswith(("ROUNDHOUSE_", "PROMETHEUS_", "BENTO"))}
    return {**kept, **environment(served)}


def _died(status: int) -> str:
    if status >= 0:
        return f"the engine ended with exit status {status}"
    hint = " (out of memory?)" if status == -9 else ""
    return f"the engine was killed by signal {-status}{hint}"
