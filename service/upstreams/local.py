"""An engine that runs here: what its supervisor writes of it, and its load."""

from collections.abc import Callable
from pathlib import Path

from service.engine import engine_stats, state
from service.engine.probe import ask
from service.engine.watchdog import SCRAPE
from service.transport import pool
from service.transport.pool import ConnectionPool, TransportError
from service.upstreams.replica import Replica

STALE = 5.0  # seconds for which a reading counts


class LocalEngine:
    """Follows one replica. Its supervisor sees to its health, so nothing is proved here."""

    def __init__(
        self, replica: Replica, order: int, run_dir: Path, transport: ConnectionPool, clock: Callable[[], float]
    ) -> None:
        self._replica, self._order, self._run_dir = replica, order, run_dir
        self._transport, self._clock = transport, clock
        self._seen: tuple[int, int] | None = None

    def refresh(self) -> bool:
        """Reads the state file if it has changed; returns whether it had."""
        try:
            found = state.state_path(self._run_dir, self._order).stat()
        except OSError:
            return False
        # Two writes can fall into one tick of the file system's clock, but each makes a new file.
        stamp = found.st_mtime_ns, found.st_ino
        if self._seen == stamp:
            return False
        self._seen = stamp
        self._replica.state = state.read(self._run_dir, self._order) or self._replica.state
        self._replica.breaker.succeeded()
        return True

    async def poll(self, doubted: bool) -> None:
        """Asks a ready engine for its load."""
        replica = self._replica
        found = await self._load() if replica.ready else None
        if found:
            replica.stats = found
        elif replica.stats and (not replica.ready or self._clock() - replica.stats.at > STALE):
            replica.stats = None

    async def _load(self) -> engine_stats.EngineStats | None:
        try:
            status, page = await ask(self._transport, self._replica.address, pool.get_request("/metrics"), SCRAPE)
        except TransportError:
            return None
        return engine_stats.parse(page, self._clock()) if status == 200 else None
