"""How a ready engine makes room in a memory that it shares: no answer is cut, and if it can it sleeps."""

import asyncio
import time
from collections.abc import Callable

from service.engine.probe import fetch
from service.engine.status_writer import StatusWriter
from service.engine.turn import Turn
from service.engine.watchdog import Watchdog
from service.transport import pool
from service.transport.pool import ConnectionPool, Deadlines, TransportError

POLL = 0.25  # seconds between two looks at what still runs, or at whether a sleeping engine is needed
# Weights go to the host's memory, and come back from there, at some gigabytes per second.
MOVE = Deadlines(connect=5.0, first_byte=300.0, idle=300.0, total=300.0)
ASLEEP = "asleep, with its weights in this machine's memory"


class MakingRoom:
    """What an engine that must go does; `needed` says whether it may come back. `address` and `probe` are the engine's.

    `propagation` is how many seconds the gateways may take to see a new state.
    """

    def __init__(
        self, turn: Turn, status: StatusWriter, watchdog: Watchdog, transport: ConnectionPool, address: str,
        probe: tuple[str, bytes], needed: Callable[[], bool], propagation: float,
    ) -> None:  # fmt: skip
        self._turn, self._status, self._watchdog, self._transport = turn, status, watchdog, transport
        self._address, self._probe, self._needed, self._propagation = address, probe, needed, propagation

    async def finish_and_rest(self) -> tuple[bool, str | None]:
        """Whether the engine is ready again, after it has slept; if not, why it must be killed, None to stop it."""
        self._status.show("stopping", "making room for others in the memory that it shares", drains=True)
        if problem := await self._finish():
            return False, problem
        if self._turn.part.keep != "warm" or not await self._post("/sleep?level=1"):
            return False, None
        self._turn.sleeps()
        self._status.show("scaled_to_zero", ASLEEP)
        while not self._needed():
            self._status.retry_write()
            self._status.expect(self._turn.ready_in)
            await asyncio.sleep(POLL)
        began = time.monotonic()
        self._status.begin_start()
        self._status.show("starting", "waking up")
        self._status.expect(self._turn.back)
        if not (await self._post("/wake_up") and await self._post(*self._probe)):
            return False, "it does not wake up"
        self._turn.ready(time.monotonic() - began)
        return True, None

    async def _finish(self) -> str | None:
        """Waits until the last request that was admitted here has its answer; returns why the engine hangs, if so."""
        since = time.monotonic()
        await asyncio.sleep(self._propagation)
        while True:
            if problem := await self._watchdog.poll():
                return problem
            stats = self._watchdog.stats
            # The engine's own numbers for what a gateway that died left behind, the gateways' for what is on its way.
            idle = stats and stats.at > since + self._propagation and not stats.running + stats.waiting
            if idle and self._turn.drained():
                return None
            await asyncio.sleep(POLL)

    async def _post(self, path: str, body: bytes = b"") -> bool:
        """Whether the engine answers with 200."""
        try:
            request = pool.post_request(path, body)
            status, _ = await fetch(self._transport, self._address, request, MOVE)
        except TransportError:
            return False
        return status == 200
