"""Supervises one replica: scale to zero, startup order, start, readiness, watchdog, restart with backoff, drain."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from service.config.settings import Settings
from service.engine import demand, gateway_registry, memory_check, state
from service.engine.argv import unknown_flags
from service.engine.command import Command, child_environment
from service.engine.evidence import EvidenceCollector, Run
from service.engine.probe import probe_request
from service.engine.process import EngineProcess
from service.engine.readiness import Readiness
from service.engine.state import EngineState
from service.engine.status_writer import PrintProgress, StatusWriter
from service.engine.watchdog import Watchdog
from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel
from service.observability.background import keep_running
from service.transport.pool import ConnectionPool
from service.weights import manifest

BACKOFF = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)  # seconds before the first, second … restart in a row
STABLE_AFTER = 300.0  # seconds since an engine's start after which its earlier crashes no longer count
PENDING_POLL = 0.25  # seconds between two checks of whether this engine is needed and may start
WATCH_INTERVAL = 1.0  # seconds between two checks of a ready engine
PROPAGATION = 0.5  # seconds after which every gateway has seen a new state: they read the files four times a second
EXIT_TIMEOUT = 15.0  # seconds that vLLM may take, beyond the drain timeout, to end its own processes

KILL_TIMEOUT = 5.0  # seconds that the kernel may take to end killed processes


class _StoppedError(Exception):
    pass


class Supervisor:
    """Keeps the engine of one replica running until `stop`: always, or while a gateway needs it.

    `number` counts the replicas of the model, `order` those of the fleet in startup order, both from 0.
    """

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
        self._always_on = number < served.min_replicas
        self._parser_choice = None if number else served.parser_choice  # once for all replicas
        self._print_progress = print_progress
        self._engines = sum(1 for _ in fleet.replicas())
        self._startup = fleet.startup
        self._socket = state.socket_path(self._run_dir, order)
        self._command = Command(served, order, self._run_dir, settings)
        initial = EngineState(state.replica_id(served.id, number), served.id, order, "stopped")
        self._status = StatusWriter(self._run_dir, initial, print_progress)
        self._evidence = EvidenceCollector(self._status, order, self._run_dir, settings)
        self._transport = ConnectionPool()
        self._process: EngineProcess | None = None
        self._task: asyncio.Task[None] | None = None
        self._monitoring: asyncio.Task[str | None] | None = None
        self._stopping = False

    def start(self) -> None:
        """Starts supervising in the background."""
        if self._parser_choice:
            self._print_progress(f"{self._status.state.replica}  {self._parser_choice}")
        self._show_pending()
        self._task = asyncio.create_task(keep_running("supervisor", self._supervise, self._failed))

    async def stop(self) -> None:
        """Lets running requests finish within the drain timeout, then ends the engine and all its processes.

        Gateways that stop at the same time go first: requests that they have accepted may still be on their way here.
        """
        self._stopping = True
        serving = self._status.state.condition in ("ready", "stopping")  # the latter while scaling down
        if self._monitoring:
            self._monitoring.cancel()
        deadline = time.monotonic() + self._settings.drain_timeout
        if serving:
            await self._wait_for_draining_gateways(deadline)
        self._status.show("stopping", "draining")
        if serving:
            await self._wait_for_draining_gateways(deadline)
        if self._process:
            await self._end(self._process, self._settings.drain_timeout if serving else 0.0)
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._transport.close()
        self._status.show("stopped")
        self._status.close()

    def _failed(self, task: str, error: BaseException) -> None:
        """Publishes that the supervisor itself failed: it has ended the engine, and starts again by itself."""
        self._status.crashed(f"its {task} failed: {type(error).__name__}: {error}")

    async def _supervise(self) -> None:
        """Runs the engine again and again, with backoff after crashes."""
        crashes = 0
        while not self._stopping:
            try:
                reason = await self._run_once()
            except OSError as error:
                reason = f"it could not be started: {error}"
            if self._stopping:
                return
            if reason is None:
                crashes = 0
                continue
            if self._status.age > STABLE_AFTER:
                crashes = 0
            delay = BACKOFF[min(crashes, len(BACKOFF) - 1)]
            crashes += 1
            self._status.crashed(reason, f"starts again in {delay:g} s")
            await asyncio.sleep(delay)

    async def _run_once(self) -> str | None:
        """Waits until the engine is needed and may start, then runs it; returns why it failed, None if it did not."""
        while not self._may_start():
            self._show_pending()
            self._status.retry_write()
            await asyncio.sleep(PENDING_POLL)
        self._status.begin_start()
        return memory_check.shortage(self._served) or await self._verify_weights() or await self._run_process()

    def _needed(self) -> bool:
        return self._always_on or demand.wanted(self._run_dir, self._order)

    def _may_start(self) -> bool:
        # An engine scaled to zero is first shown as waiting, so that two activated at once count each other as pending.
        if self._status.state.condition == "scaled_to_zero" or not self._needed():
            return False
        return memory_check.may_start_now(self._served, self._order, self._run_dir, self._startup, self._engines)

    def _show_pending(self) -> None:
        """Shows what the start waits for: demand, or the startup order."""
        shown, needed = self._status.state.condition, self._needed()
        if needed and shown in ("scaled_to_zero", "stopped"):
            self._status.show("waiting", "queued for startup")
        elif not needed and shown != "scaled_to_zero":
            self._status.show("scaled_to_zero", "starts on demand")

    async def _verify_weights(self) -> str | None:
        """How the weights differ from their manifest, if they have one and do. The hashes are computed in a thread."""
        directory = Path(self._served.weights)
        if not manifest.exists(directory):
            return None
        self._status.show("starting", "verifying the weights")
        try:
            problems = await asyncio.to_thread(manifest.verify, directory, advance=self._abort_if_stopping)
        except _StoppedError:
            return None
        if not problems:
            return None
        more = f", and {len(problems) - 1} more differ" if len(problems) > 1 else ""
        return f"its weights are not what was pulled: {directory / problems[0].file} {problems[0].what}{more}"

    def _abort_if_stopping(self, _: int) -> None:
        """Called as the verification advances, since a thread cannot be cancelled."""
        if self._stopping:
            raise _StoppedError

    async def _run_process(self) -> str | None:
        """Runs the engine's process from start to end; returns why it failed, None if it did not."""
        self._socket.unlink(missing_ok=True)
        process = EngineProcess(self._status.log)
        run = self._evidence.run(process, self._command.build(), child_environment(self._served, os.environ))
        self._process = process
        monitoring = self._monitoring = asyncio.create_task(self._monitor(run))
        try:
            self._status.show("starting", "importing vLLM")
            await process.start(run.argv, run.environment)
            self._status.started(await process.pid)
            outcomes: list[asyncio.Future[Any]] = [monitoring, process.ended]
            await asyncio.wait(outcomes, return_when=asyncio.FIRST_COMPLETED)
            if not process.ended.done() and not monitoring.cancelled():
                problem = monitoring.result()
                if problem:
                    problem = await self._evidence.keep(run, problem)
                    process.kill()
                    await process.ended
                else:
                    await self._end(process, self._settings.drain_timeout)
                return problem
            status = await process.ended
            if flags := self._command.newly_unknown(unknown_flags(process.tail)):
                return self._retry_without(flags)
            reason = f"{_exit_reason(status)}: {process.cause()}"
            return reason if self._stopping else await self._evidence.keep(run, reason, status)
        finally:
            monitoring.cancel()
            if process.is_running:  # this method failed: the next start needs the memory
                process.kill()
                await asyncio.wait([process.ended], timeout=KILL_TIMEOUT)
            process.close()
            self._process = self._monitoring = None

    def _retry_without(self, flags: frozenset[str]) -> str | None:
        """Leaves flags that this vLLM does not know out of the next start; returns why not, if one is required."""
        if problem := self._command.leave_out(flags):
            return problem
        self._status.show("starting", f"again without {', '.join(sorted(flags))}, unknown to this vLLM")
        self._status.log(f"roundhouse: {self._status.state.phase}")
        return None

    async def _monitor(self, run: Run) -> str | None:
        """Waits for readiness, then watches the engine; returns why to kill it, None when it is no longer needed."""
        start_timeout, hang_timeout = self._settings.start_timeout, self._settings.hang_timeout
        readiness = Readiness(
            self._socket,
            self._served,
            self._transport,
            start_timeout,
            lambda: run.process.last_output,
            self._status.heartbeat,
        )
        if problem := await readiness.wait():
            return problem
        self._status.show("ready")
        probe = probe_request(self._served)
        watchdog = Watchdog(str(self._socket), probe, self._transport, time.monotonic, hang_timeout)
        while True:
            if not self._needed():
                self._status.show("stopping", "scaling down: no demand")
                await asyncio.sleep(PROPAGATION)
                if not self._needed():
                    return None
                self._status.show("ready")
            reason = await watchdog.poll()
            run.sampled(watchdog.stats)
            if reason:
                return reason
            self._status.retry_write()
            await asyncio.sleep(WATCH_INTERVAL)

    async def _wait_for_draining_gateways(self, deadline: float) -> None:
        """Waits until no gateway is draining, or until `deadline`.

        Before that it gives the gateways time to see this engine's state, or to announce that they drain.
        """
        if gateway_registry.registered(self._run_dir):
            await asyncio.sleep(PROPAGATION)
        while time.monotonic() < deadline:
            if not any(gateway_registry.registered(self._run_dir).values()):
                return
            await asyncio.sleep(0.1)

    async def _end(self, process: EngineProcess, drain_timeout: float) -> None:
        """Stops the engine and all its processes; running requests may take `drain_timeout` seconds to finish."""
        process.terminate()
        await asyncio.wait([process.ended], timeout=drain_timeout + EXIT_TIMEOUT)
        process.kill()
        await asyncio.wait([process.ended], timeout=KILL_TIMEOUT)


def _exit_reason(status: int) -> str:
    if status >= 0:
        return f"the engine ended with exit status {status}"
    hint = " (out of memory?)" if status == -9 else ""
    return f"the engine was killed by signal {-status}{hint}"
