"""Whether a running engine still makes progress: `/health` says yes even when the engine core hangs."""

from collections.abc import Callable
from dataclasses import dataclass

from service.engine import engine_stats
from service.engine.engine_stats import EngineStats
from service.engine.probe import fetch
from service.transport import pool
from service.transport.pool import ConnectionPool, Deadlines, TransportError

# The API server answers from memory, but shares its cores with everything else on the machine.
SCRAPE = Deadlines(connect=1.0, first_byte=2.0, idle=2.0, total=2.0)


@dataclass
class ProgressMonitor:
    """How long an engine has made no visible progress. Pure; times are seconds of a monotonic clock.

    It counts as hung when `hang_timeout` seconds have passed since `last_progress`. `progress` is what the last sample
    of its metrics showed.
    """

    hang_timeout: float
    last_progress: float
    progress: tuple[float, ...] | None = None

    def observe(self, stats: EngineStats) -> None:
        """Takes a sample of the engine's metrics: one that differs from the last shows progress."""
        if stats.progress != self.progress:
            self.progress, self.last_progress = stats.progress, stats.at

    def probe_succeeded(self, now: float) -> None:
        """Notes that the engine has answered a probe request."""
        self.last_progress = now

    def probe_timeout(self, now: float) -> float | None:
        """The timeout in seconds for a probe request, if one is due now.

        An idle engine's metrics do not change, so their standing still proves nothing unless a probe fails as well.
        """
        elapsed = now - self.last_progress
        if elapsed < self.hang_timeout / 2:
            return None
        return round(max(self.hang_timeout - elapsed, self.hang_timeout / 4), 2)

    def stalled(self, now: float) -> bool:
        """Whether the engine counts as hung."""
        return now - self.last_progress >= self.hang_timeout


class Watchdog:
    """Watches one ready engine. `probe` is path and body of a probe request; `hang_timeout` is in seconds.

    `stats` is the last sample of its metrics.
    """

    def __init__(
        self,
        address: str,
        probe: tuple[str, bytes],
        transport: ConnectionPool,
        clock: Callable[[], float],
        hang_timeout: float,
    ) -> None:
        self._address, self._probe, self._transport, self._clock = address, probe, transport, clock
        self._progress = ProgressMonitor(hang_timeout, clock())
        self.stats: EngineStats | None = None

    async def poll(self) -> str | None:
        """Checks the engine, about once a second; returns why it counts as hung, or None.

        Usually quick: only after half the hang timeout without progress does it wait for a probe request.
        """
        problem = await self._scrape()
        timeout = self._progress.probe_timeout(self._clock())
        if timeout is None:
            return None
        probe_problem = await self._send_probe(timeout)
        if probe_problem is None:
            self._progress.probe_succeeded(self._clock())
            return None
        # While the probe waited in its queue the engine may have worked on other requests.
        problem = await self._scrape()
        if not self._progress.stalled(self._clock()):
            return None
        metrics = f"metrics: {problem}" if problem else "metrics unchanged"
        hang_timeout = self._progress.hang_timeout
        return f"it hangs: no progress for {hang_timeout:g} s (probe request: {probe_problem}; {metrics})"

    async def _scrape(self) -> str | None:
        """Samples the engine's metrics; returns what went wrong."""
        try:
            status, page = await fetch(self._transport, self._address, pool.get_request("/metrics"), SCRAPE)
        except TransportError as error:
            return str(error)
        stats = engine_stats.parse(page, self._clock()) if status == 200 else None
        if stats is None:
            return f"status {status} without vLLM's metrics"
        self.stats = stats
        self._progress.observe(stats)
        return None

    async def _send_probe(self, limit: float) -> str | None:
        """Sends a probe request, which may take `limit` seconds; returns what went wrong."""
        deadlines = Deadlines(connect=min(1.0, limit), first_byte=limit, idle=limit, total=limit)
        try:
            status, _ = await fetch(self._transport, self._address, pool.post_request(*self._probe), deadlines)
        except TransportError as error:
            return str(error)
        return None if status == 200 else f"status {status}"
