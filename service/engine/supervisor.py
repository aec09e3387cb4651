"""The life of one replica: sleep until wanted, wait for its turn, start, prove readiness, watch, restart, drain."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from service.config.settings import Settings
from service.engine import demand, gateway_registry, memory_check, state
from service.engine.argv import unknown_flags
from service.engine.command import Command, child_environment
from service.engine.probe import probe
from service.engine.process import EngineProcess
from service.engine.readiness import Readiness
from service.engine.state import EngineState
from service.engine.status_writer import PrintProgress, StatusWriter
from service.engine.watchdog import Watchdog
from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel
from service.transport.pool import ConnectionPool
from service.weights import manifest

BACKOFF = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
STEADY = 300.0  # seconds after which an engine's earlier deaths are forgiven
POLL = 0.25  # seconds between two looks at what the gateways want, and at whose turn it is
LOOK = 1.0  # seconds between two looks at a running engine
SEEN = 0.5  # seconds within which every gateway has read a state file: it looks four times a second
TAKEDOWN = 15.0  # seconds that vLLM may take, beyond the drain, to end its own processes


class _StoppedError(Exception):
    pass


class Supervisor:
    """Keeps the engine of one replica running until `stop`, always or while a gateway wants it."""

    def __init__(
        self,
        served: ServedModel,
        number: int,
        order: int,
        fleet: Fleet,
        settings: Settings,
        print_progress: PrintProgress,
    ) -> None:
        assert settings.run_dir
        self._served, self._order, self._settings, self._run_dir = served, order, settings, settings.run_dir
        self._always = number < served.min_replicas
        self._engines = sum(1 for _ in fleet.replicas())
        self._start = fleet.startup
        self._socket = state.socket_path(self._run_dir, order)
        self._command = Command(served, order, self._run_dir, settings)
        first = EngineState(state.replica_id(served.id, number), served.id, order, "stopped")
        self._status = StatusWriter(self._run_dir, first, print_progress)
        self._transport = ConnectionPool()
        self._process: EngineProcess | None = None
        self._task: asyncio.Task[None] | None = None
        self._following: asyncio.Task[str | None] | None = None
        self._stopping = False

    def start(self) -> None:
        """Begins, in the background."""
        self._await_turn()
        self._task = asyncio.create_task(self._live())

    async def stop(self) -> None:
        """Lets running requests finish within the drain timeout, then ends the engine and all its processes.

        Gateways that stop too come first: what they have accepted may still be on its way to this engine.
        """
        self._stopping = True
        serving = self._status.state.condition in ("ready", "stopping")  # the latter on its way to sleep
        if self._following:
            self._following.cancel()
        deadline = time.monotonic() + self._settings.drain_timeout
        if serving:
            await self._until_left(deadline)
        self._status.show("stopping", "draining")
        if serving:
            await self._until_left(deadline)
        if self._process:
            await self._end(self._process, self._settings.drain_timeout if serving else 0.0)
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._transport.close()
        self._status.show("stopped")

    async def _live(self) -> None:
        deaths = 0
        while True:
            try:
                reason = await self._life()
            except OSError as error:
                reason = f"it could not be started: {error}"
            if self._stopping:
                return
            if reason is None:
                deaths = 0
                continue
            if self._status.age > STEADY:
                deaths = 0
            pause = BACKOFF[min(deaths, len(BACKOFF) - 1)]
            deaths += 1
            self._status.crashed(reason, pause)
            await asyncio.sleep(pause)

    async def _life(self) -> str | None:
        """One life, from the first wish for it; returns why it ended, None where that was no failure."""
        while not self._may_start():
            self._await_turn()
            self._status.retry_write()
            await asyncio.sleep(POLL)
        self._status.begin_start()
        return memory_check.shortage(self._served) or await self._mismatch() or await self._run()

    def _wanted(self) -> bool:
        return self._always or demand.wanted(self._run_dir, self._order)

    def _may_start(self) -> bool:
        # Two that wake together have to see each other wait, where there is room for one.
        if self._status.state.condition == "scaled_to_zero" or not self._wanted():
            return False
        return memory_check.is_its_turn(self._served, self._order, self._run_dir, self._start, self._engines)

    def _await_turn(self) -> None:
        """Shows what this engine waits for: somebody who wants it, or the engines before it."""
        shown, wanted = self._status.state.condition, self._wanted()
        if wanted and shown in ("scaled_to_zero", "stopped"):
            self._status.show("waiting", "its turn to start")
        elif not wanted and shown != "scaled_to_zero":
            self._status.show("scaled_to_zero", "starts when it is asked for")

    async def _mismatch(self) -> str | None:
        """How the weights differ from their manifest, if they have one and do. Hashing goes on in threads."""
        directory = Path(self._served.weights)
        if not manifest.exists(directory):
            return None
        self._status.show("starting", "verifying the weights")
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

    async def _run(self) -> str | None:
        """The engine's process, from start to end; returns why it ended, None where that was no failure."""
        self._socket.unlink(missing_ok=True)
        process = self._process = EngineProcess(self._status.log)
        following = self._following = asyncio.create_task(self._follow(process))
        try:
            self._status.show("starting", "importing vLLM")
            await process.start(self._command.words(), child_environment(self._served, os.environ))
            self._status.started(await process.pid)
            started: list[asyncio.Future[Any]] = [following, process.ended]
            await asyncio.wait(started, return_when=asyncio.FIRST_COMPLETED)
            if not process.ended.done() and not following.cancelled():
                problem = following.result()
                if problem:
                    process.kill()
                    await process.ended
                else:
                    await self._end(process, self._settings.drain_timeout)
                return problem
            status = await process.ended
            if new := self._command.news(unknown_flags(process.tail)):
                return self._without(new)
            return f"{_died(status)}: {process.cause()}"
        finally:
            following.cancel()
            process.close()
            self._process = self._following = None

    def _without(self, unknown: frozenset[str]) -> str | None:
        """Goes on without flags that this vLLM does not know; returns why it cannot, if so."""
        if problem := self._command.learn(unknown):
            return problem
        self._status.show("starting", f"again, without {', '.join(sorted(unknown))}: this vLLM does not know it")
        self._status.log(f"roundhouse: {self._status.state.phase}")
        return None

    async def _follow(self, process: EngineProcess) -> str | None:
        """Sees the engine become ready, and watches it; returns why it must be killed, None when it is not wanted."""
        limit, hang = self._settings.start_timeout, self._settings.hang_timeout
        readiness = Readiness(
            self._socket, self._served, self._transport, limit, lambda: process.heard, self._status.heartbeat
        )
        if problem := await readiness.wait():
            return problem
        self._status.show("ready")
        pulse = Watchdog(str(self._socket), probe(self._served), self._transport, time.monotonic, hang)
        while True:
            if not self._wanted():
                self._status.show("stopping", "nobody asks for it")
                await asyncio.sleep(SEEN)
                if not self._wanted():
                    return None
                self._status.show("ready")
            if reason := await pulse.poll():
                return reason
            self._status.retry_write()
            await asyncio.sleep(LOOK)

    async def _until_left(self, deadline: float) -> None:
        """Gives the gateways time to say that they stop, or to see that this engine does; waits for those that stop."""
        if gateway_registry.registered(self._run_dir):
            await asyncio.sleep(SEEN)
        while time.monotonic() < deadline:
            if not any(gateway_registry.registered(self._run_dir).values()):
                return
            await asyncio.sleep(0.1)

    async def _end(self, process: EngineProcess, drain: float) -> None:
        """Ends the engine and all its processes; what it runs may take `drain` seconds to finish."""
        process.terminate()
        await asyncio.wait([process.ended], timeout=drain + TAKEDOWN)
        process.kill()
        await asyncio.wait([process.ended], timeout=5)


def _died(status: int) -> str:
    if status >= 0:
        return f"the engine ended with exit status {status}"
    hint = " (out of memory?)" if status == -9 else ""
    return f"the engine was killed by signal {-status}{hint}"
