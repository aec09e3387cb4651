"""An engine that this installation runs: the gateway reads its supervisor's state file and samples its load."""

from collections.abc import Callable
from pathlib import Path

from service.engine import engine_stats, state
from service.engine.probe import fetch
from service.engine.watchdog import SCRAPE
from service.transport import pool
from service.transport.pool import ConnectionPool, TransportError
from service.upstreams.replica import Replica

MAX_STATS_AGE = 5.0  # seconds after which a sample is dropped


class LocalEngine:
    """Keeps one replica's `state` and `stats` current. Health checks are left to its supervisor."""

    def __init__(
        self, replica: Replica, order: int, run_dir: Path, transport: ConnectionPool, clock: Callable[[], float]
    ) -> None:
        self._replica, self._order, self._run_dir = replica, order, run_dir
        self._transport, self._clock = transport, clock
        self._version: tuple[int, int] | None = None

    def refresh(self) -> bool:
        """Reads the state file if it has changed; returns whether it had. A new state closes the circuit breaker."""
        try:
            found = state.state_path(self._run_dir, self._order).stat()
        except OSError:
            return False
        # Two writes can fall into one tick of the file system's clock, but each makes a new file.
        version = found.st_mtime_ns, found.st_ino
        if self._version == version:
            return False
        self._version = version
        self._read()
        self._replica.breaker.record_success()
        return True

    def _read(self) -> None:
        self._replica.state = state.read(self._run_dir, self._order) or self._replica.state

    async def poll(self, recheck: bool) -> None:
        """Samples the load of a ready engine. `recheck` is ignored: its supervisor watches its health.

        Reads the state again, though the file is the same: its processes may have ended without a word.
        """
        replica = self._replica
        if replica.state and replica.state.condition not in state.WITHOUT_PROCESS:
            self._read()
        found = await self._sample() if replica.ready else None
        if found:
            replica.stats = found
        elif replica.stats and (not replica.ready or self._clock() - replica.stats.at > MAX_STATS_AGE):
            replica.stats = None

    async def _sample(self) -> engine_stats.EngineStats | None:
        try:
            status, page = await fetch(self._transport, self._replica.address, pool.get_request("/metrics"), SCRAPE)
        except TransportError:
            return None
        return engine_stats.parse(page, self._clock()) if status == 200 else None
