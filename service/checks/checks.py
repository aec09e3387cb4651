"""Has what an engine would compile or decode checked by processes that may die, and remembers the results."""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple, Protocol
from weakref import WeakValueDictionary

from service.checks.process import CheckProcess, DiedError

REMEMBERED = 4096  # results
MOST_WAITING = 64  # jobs of one tenant
JOBS = 1000  # of one process; the next one begins with fresh memory


class CheckEvents(Protocol):
    """Who is told of the checks."""

    def checked(self, kind: str, result: str, seconds: float) -> None:
        """A check of this kind has this result, after so long."""

    def started(self, found: Sequence[str]) -> None:
        """A new process has found these compilers and decoders; once more if it cannot load all of them."""

    def died(self, how: str) -> None:
        """A process has died of its job."""


class Verdict(NamedTuple):
    """The result of a check. With a `reason` an engine must not get it; `path` is the field that has it.

    `died` says that the process died of it, by one word that says how.
    """

    path: str = ""
    reason: str = ""
    died: str = ""


PASSED = Verdict()


class BusyError(Exception):
    """Too many checks wait."""


class Checks:
    """The processes that check, started when they are first needed, and the results.

    A job may take `timeout` seconds, and a request waits `max_wait` for its result. Tenants take turns.
    """

    def __init__(
        self, arguments: Sequence[str], processes: int, timeout: float, max_wait: float, events: CheckEvents
    ) -> None:
        self._arguments, self._timeout, self._max_wait, self._events = arguments, timeout, max_wait, events
        self._processes, self._slots = processes, asyncio.Semaphore(processes)
        self._idle: list[CheckProcess] = []
        self._all: set[CheckProcess] = set()
        self._results: OrderedDict[bytes, Verdict] = OrderedDict()
        self._running: dict[bytes, asyncio.Task[Verdict | Exception]] = {}
        self._waiting: Counter[str] = Counter()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def check(self, tenant: str, kind: str, job: bytes) -> Verdict:
        """The verdict on a job of this kind, from memory if the tenant had it before.

        Raises BusyError if there are too many, and OSError or DiedError if no process can be started.
        """
        digest = blake2b(b"%b\0%b" % (tenant.encode(), job), digest_size=32).digest()
        if known := self._results.get(digest):
            self._results.move_to_end(digest)
            self._events.checked(kind, "remembered", 0.0)
            return known
        running = self._running.get(digest)
        if running is None:
            if self._waiting[tenant] >= MOST_WAITING:
                raise BusyError
            self._waiting[tenant] += 1
            # A task of its own: a client that leaves must not cost a process that is in the middle of its job.
            running = self._running[digest] = asyncio.create_task(self._run(tenant, kind, job, digest))
        try:
            async with asyncio.timeout(self._max_wait):
                outcome = await asyncio.shield(running)
        except TimeoutError:
            raise BusyError from None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _run(self, tenant: str, kind: str, job: bytes, digest: bytes) -> Verdict | Exception:
        try:
            async with self._turns.setdefault(tenant, asyncio.Lock()), self._slots:
                verdict = await self._ask(kind, job)
        except (OSError, DiedError) as error:
            self._events.checked(kind, "unavailable", 0.0)
            return error
        finally:
            del self._running[digest]
            self._waiting[tenant] -= 1
            if not self._waiting[tenant]:
                del self._waiting[tenant]
        self._results[digest] = verdict
        if len(self._results) > REMEMBERED:
            self._results.popitem(last=False)
        return verdict

    async def _ask(self, kind: str, job: bytes) -> Verdict:
        process = await self._loaded()
        started = time.monotonic()
        try:
            verdict = Verdict(**await process.ask(job, self._timeout))
        except DiedError as error:
            verdict = Verdict(error.path, died=error.how)
        if verdict.died:
            self._events.died(verdict.died)
        if verdict.died or process.jobs >= JOBS:
            await self._end(process)
        else:
            self._idle.append(process)
        result = "died" if verdict.died else "refused" if verdict.reason else "passed"
        self._events.checked(kind, result, time.monotonic() - started)
        return verdict

    async def _loaded(self) -> CheckProcess:
        process = self._idle.pop() if self._idle else await self._start()
        try:
            if await process.load():
                self._events.started(process.found)
        except DiedError:
            self._all.discard(process)
            raise
        return process

    async def _start(self) -> CheckProcess:
        process = await CheckProcess.start(self._arguments)
        self._all.add(process)
        self._events.started(process.found)
        return process

    async def _end(self, process: CheckProcess) -> None:
        self._all.discard(process)
        await process.end()

    async def warm(self) -> None:
        """Starts a process if there is none, so that the first job need not wait for it."""
        async with self._slots:
            if not self._idle:
                self._idle.append(await self._start())

    async def close(self) -> None:
        """Ends all processes."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for _ in range(self._processes):  # whoever has a slot may still be ending a process
            await self._slots.acquire()
        try:
            for process in list(self._all):
                await self._end(process)
        finally:
            for _ in range(self._processes):
                self._slots.release()
