"""Whether an engine still works: `/health` answers for one whose core stands still, so its progress is watched."""

from collections.abc import Callable
from dataclasses import dataclass

from service.engine import engine_stats
from service.engine.engine_stats import EngineStats
from service.engine.probe import ask
from service.transport import pool
from service.transport.pool import ConnectionPool, Deadlines, TransportError

# The API server answers from memory, but shares its cores with everything else on the machine.
SCRAPE = Deadlines(connect=1.0, first_byte=2.0, idle=2.0, total=2.0)


@dataclass
class ProgressMonitor:
    """How long nothing was seen of an engine's progress. An engine counts as hung after `hang` seconds of it."""

    hang: float
    since: float
    progress: tuple[float, ...] | None = None

    def observe(self, found: EngineStats) -> None:
        """Takes note of a reading: one that differs from the last is progress."""
        if found.progress != self.progress:
            self.progress, self.since = found.progress, found.at

    def answered(self, now: float) -> None:
        """Takes note of a token that the engine made for us."""
        self.since = now

    def probe_timeout(self, now: float) -> float | None:
        """For how many seconds to wait for a token of our own, if now is the time to ask for one.

        An idle engine makes no progress by itself, so silence alone proves nothing before one was asked for in vain.
        """
        silent = now - self.since
        return None if silent < self.hang / 2 else round(max(self.hang - silent, self.hang / 4), 2)

    def stalled(self, now: float) -> bool:
        """Whether it lasted too long."""
        return now - self.since >= self.hang


class Watchdog:
    """Watches one engine. `probe` is path and body of a request for one token, `hang` is in seconds."""

    def __init__(
        self, address: str, probe: tuple[str, bytes], transport: ConnectionPool, clock: Callable[[], float], hang: float
    ) -> None:
        self._address, self._probe, self._transport, self._clock = address, probe, transport, clock
        self._progress = ProgressMonitor(hang, clock())
        self.stats: EngineStats | None = None

    async def poll(self) -> str | None:
        """One look, once a second or so; returns why the engine counts as hung, if it does.

        It returns late only while it waits for a token from an engine that has been silent for long already.
        """
        problem = await self._scrape()
        timeout = self._progress.probe_timeout(self._clock())
        if timeout is None:
            return None
        token = await self._token(timeout)
        if token is None:
            self._progress.answered(self._clock())
            return None
        # While we waited in its queue it may have worked for others.
        problem = await self._scrape()
        if not self._progress.stalled(self._clock()):
            return None
        metrics = f"its metrics: {problem}" if problem else "its metrics stand still"
        return f"it hangs: no progress for {self._progress.hang:g} s (a request for one token: {token}; {metrics})"

    async def _scrape(self) -> str | None:
        """Reads the engine's metrics; returns what went wrong instead."""
        try:
            status, page = await ask(self._transport, self._address, pool.get_request("/metrics"), SCRAPE)
        except TransportError as error:
            return str(error)
        found = engine_stats.parse(page, self._clock()) if status == 200 else None
        if found is None:
            return f"status {status}, and no figures of an engine"
        self.stats = found
        self._progress.observe(found)
        return None

    async def _token(self, limit: float) -> str | None:
        """Asks for one token; returns what came instead."""
        deadlines = Deadlines(connect=min(1.0, limit), first_byte=limit, idle=limit, total=limit)
        try:
            status, _ = await ask(self._transport, self._address, pool.post_request(*self._probe), deadlines)
        except TransportError as error:
            return str(error)
        return None if status == 200 else f"status {status}"
