"""Supervises one replica: scale to zero, startup order, start, readiness, watchdog, restart with backoff, drain."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from service.config.settings import Settings
from service.engine import compile_cache, demand, gateway_registry, memory_check, preload, state
from service.engine.adapters import adapters_of
from service.engine.argv import unknown_flags
from service.engine.command import Command
from service.engine.engine_log import carry
from service.engine.evidence import EvidenceCollector, Run
from service.engine.listening import ListenOn, Tcp, address
from service.engine.making_room import MakingRoom
from service.engine.probe import probe_request
from service.engine.process import EngineProcess, exit_reason
from service.engine.readiness import Readiness
from service.engine.state import EngineState
from service.engine.status_writer import PrintProgress, StatusWriter
from service.engine.turn import WAITS, Turn
from service.engine.verification import weights_problem
from service.engine.watchdog import Watchdog
from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel
from service.fleet.shares import assigned_cards
from service.observability.background import keep_running
from service.observability.log import Log
from service.transport.pool import ConnectionPool

BACKOFF = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)  # seconds before the first, second … restart in a row
STABLE_AFTER = 300.0  # seconds since an engine's start after which its earlier crashes no longer count
PENDING_POLL = 0.25  # seconds between two checks of whether this engine is needed and may start
WATCH_INTERVAL = 1.0  # seconds between two checks of a ready engine
PROPAGATION = 0.5  # seconds after which every gateway has seen a new state: they read the files four times a second
EXIT_TIMEOUT = 15.0  # seconds that vLLM may take, beyond the drain timeout, to end its own processes
KILL_TIMEOUT = 5.0  # seconds that the kernel may take to end killed processes


class Supervisor:
    """Keeps the engine of one replica running until `stop`: always, or while a gateway needs it.

    `number` counts the replicas of the model, `order` those of the fleet in startup order, both from 0. The engine
    listens on a socket in the run folder, or on `tcp`. `log` gets those lines of the engine's log which the settings
    want there, and `echo` is given each.
    """

    def __init__(
        self, served: ServedModel, number: int, order: int, fleet: Fleet, settings: Settings,
        print_progress: PrintProgress, log: Log | None = None, tcp: Tcp | None = None,
        echo: PrintProgress | None = None,
    ) -> None:  # fmt: skip
        assert settings.run_dir
        self._served, self._order, self._settings, self._run_dir = served, order, settings, settings.run_dir
        self._always_on = number < served.min_replicas
        self._parser_choice = None if number else served.parser_choice  # once for all replicas
        self._print_progress = print_progress
        self._engines = sum(1 for _ in fleet.replicas())
        self._startup = fleet.startup
        self._listen_on: ListenOn = tcp or state.socket_path(self._run_dir, order)
        cards = assigned_cards(fleet.served, order)
        self._command = Command(served, order, self._run_dir, settings, self._listen_on, cards)
        initial = EngineState(state.replica_id(served.id, number), served.id, order, "stopped")
        status = self._status = StatusWriter(self._run_dir, initial, print_progress, echo)
        self._turn = Turn(served, order, fleet, settings, status.say) if served.part and not tcp else None
        self._log = log
        self._evidence = EvidenceCollector(self._status, order, self._run_dir, settings)
        self._transport = ConnectionPool(settings.engine_key.get_secret_value() if tcp else "")
        self._preload = preload.Preload(self._run_dir) if preload.wanted(served, settings.preload) else None
        self._adapters = adapters_of(
            served, self._run_dir, self._listen_on, self._transport, self._status.show_adapters, lambda: self._stopping
        )
        self._process: EngineProcess | None = None
        self._task: asyncio.Task[Any] | None = None
        self._monitoring: asyncio.Task[str | None] | None = None
        self._stopping = False

    def start(self) -> None:
        """Starts supervising in the background."""
        self._show_beginning()
        self._task = asyncio.create_task(keep_running("supervisor", self._supervise, self._failed))

    def start_once(self) -> "asyncio.Task[str]":
        """Starts supervising a single run. The task's result is why the engine failed; `stop` ends it."""
        self._show_beginning()
        self._task = asyncio.create_task(self._run_until_failure())
        return self._task

    def _show_beginning(self) -> None:
        if self._parser_choice:
            self._print_progress(f"{self._status.state.replica}  {self._parser_choice}")
        self._show_pending()

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
            await gateway_registry.wait_until_drained(self._run_dir, deadline, PROPAGATION)
        self._status.show("stopping", "draining")
        if serving:
            await gateway_registry.wait_until_drained(self._run_dir, deadline, PROPAGATION)
        if self._process:
            await self._end(self._process, self._settings.drain_timeout if serving else 0.0)
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._transport.close()
        if self._preload:
            self._preload.close()
        self._status.show("stopped")
        self._status.close()

    def _failed(self, task: str, error: BaseException) -> None:
        """Publishes that the supervisor itself failed: it has ended the engine, and starts again by itself."""
        self._status.crashed(f"its {task} failed: {type(error).__name__}: {error}")

    async def _supervise(self) -> None:
        """Runs the engine again and again, with backoff after crashes."""
        crashes = 0
        while not self._stopping:
            reason = await self._attempt()
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

    async def _run_until_failure(self) -> str:
        while (reason := await self._attempt()) is None:
            pass  # a start without optional flags follows
        if not self._stopping:
            self._status.show("failed", reason=reason)
        return reason

    async def _attempt(self) -> str | None:
        """Runs the engine once; returns why it failed or could not be started, None if neither."""
        try:
            return await self._run_once()
        except OSError as error:
            return f"it could not be started: {error}"
        finally:
            if self._turn:
                self._turn.gone()

    async def _run_once(self) -> str | None:
        """Waits until the engine is needed and may start, then runs it; returns why it failed, None if it did not."""
        while not self._may_start():
            self._show_pending()
            self._status.retry_write()
            await asyncio.sleep(PENDING_POLL)
        self._status.begin_start()
        return memory_check.shortage(self._served) or await self._verify_weights() or await self._run_process()

    def _needed(self) -> bool:
        wanted = self._always_on or demand.wanted(self._run_dir, self._order)
        running = self._process is not None and self._status.state.condition != "scaled_to_zero"
        return self._turn.needed(wanted, running) if self._turn else wanted

    def _may_start(self) -> bool:
        # An engine scaled to zero is first shown as waiting, so that two activated at once count each other as pending.
        if self._status.state.condition == "scaled_to_zero" or not self._needed():
            return False
        return memory_check.may_start_now(self._served, self._order, self._run_dir, self._startup, self._engines)

    def _show_pending(self) -> None:
        """Shows what the start waits for: demand, room in a shared memory, or the startup order."""
        shown, needed = self._status.state.condition, self._needed()
        ready_in = self._turn.ready_in if self._turn else None
        phase = "starts on demand" if ready_in is None else WAITS
        if needed and shown in ("scaled_to_zero", "stopped"):
            self._status.show("waiting", "queued for startup")
        elif not needed and (shown != "scaled_to_zero" or self._status.state.phase != phase):
            self._status.show("scaled_to_zero", phase)
        if not needed:
            self._status.expect(ready_in)

    async def _verify_weights(self) -> str | None:
        return await weights_problem(Path(self._served.weights), self._status.show, lambda: self._stopping)

    async def _run_process(self) -> str | None:
        """Runs the engine's process from start to end; returns why it failed, None if it did not."""
        if isinstance(self._listen_on, Path):
            self._listen_on.unlink(missing_ok=True)
        replica = self._status.state.replica
        # For each process anew: its first lines must not have the level of the last one's end.
        carried = carry(self._log, self._settings.log_engines, self._served.id, replica) if self._log else None
        process = EngineProcess(self._status.log, on_raw=carried)
        environment = self._command.environment(os.environ, replica)
        run = self._evidence.run(process, self._command.build(), environment)
        self._process = process
        monitoring = self._monitoring = asyncio.create_task(self._monitor(run))
        try:
            self._status.show("starting", "importing vLLM")
            lock = self._turn.lock if self._turn else ()
            await process.start(run.argv, run.environment, self._preload, run.stacks, lock)
            self._status.started(await process.pid)
            if self._turn:
                self._turn.started(process.session)
                self._status.expect(self._turn.back)
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
            reason = f"{exit_reason(status)}: {process.cause()}{compile_cache.mend(process.tail, environment)}"
            return reason if self._stopping else await self._evidence.keep(run, reason, status)
        finally:
            monitoring.cancel()
            if self._adapters:
                await self._adapters.close()
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
            address(self._listen_on),
            self._served,
            self._transport,
            start_timeout,
            run.process,
            self._status.heartbeat,
        )
        if problem := await readiness.wait():
            return problem
        if self._turn:
            self._turn.ready(self._status.age)
        if self._adapters:
            self._status.show("starting", "loading adapters")
            await self._adapters.start()
        self._status.show("ready")
        if self._adapters:
            self._adapters.follow()
        probe, at = probe_request(self._served), address(self._listen_on)
        watchdog = Watchdog(at, probe, self._transport, time.monotonic, hang_timeout)
        room = self._turn and MakingRoom(
            self._turn, self._status, watchdog, self._transport, at, probe, self._needed, PROPAGATION
        )
        while True:
            if not self._needed():
                if room:
                    back, problem = await room.finish_and_rest()
                    if not back:
                        return problem
                    self._status.show("ready")
                    continue
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

    async def _end(self, process: EngineProcess, drain_timeout: float) -> None:
        """Stops the engine and all its processes; running requests may take `drain_timeout` seconds to finish."""
        process.terminate()
        await asyncio.wait([process.ended], timeout=drain_timeout + EXIT_TIMEOUT)
        process.kill()
        await asyncio.wait([process.ended], timeout=KILL_TIMEOUT)
