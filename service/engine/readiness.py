"""When a starting engine is ready: when it has made a token for us."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from service.engine.probe import ask, probe
from service.fleet.served_model import ServedModel
from service.transport import pool
from service.transport.pool import ConnectionPool, Deadlines, TransportError

HEARTBEAT = 10.0
POLL = 0.25
# vLLM binds its socket early and once more when it serves: what was sent in between is never answered. So a knock that
# gives up soon comes first; the first token may then have to wait for compilation.
KNOCK = Deadlines(connect=1.0, first_byte=2.0, idle=2.0, total=2.0)
FIRST_TOKEN = Deadlines(connect=1.0, first_byte=120.0, idle=120.0, total=120.0)
# Seconds after which a start that says nothing at all counts as hung; a third of the longest start, if that is more.
# Importing and compiling are silent for minutes where engines share few cores.
QUIET = 300.0


class Readiness:
    """The start of one engine, which may take `limit` seconds.

    `heard` tells when its log last said something, in seconds of the monotonic clock; `beat` is called now and then.
    """

    def __init__(
        self,
        socket: Path,
        served: ServedModel,
        transport: ConnectionPool,
        limit: float,
        heard: Callable[[], float],
        beat: Callable[[], None],
    ) -> None:
        self._socket, self._probe, self._transport = socket, probe(served), transport
        self._limit, self._heard, self._beat = limit, heard, beat
        self._answered = 0.0

    async def wait(self) -> str | None:
        """Asks for one token until it comes; returns a reason if it does not come in time."""
        began = beat = time.monotonic()
        problem: str | None = "no socket yet"
        while True:
            if self._socket.exists():
                problem = await self._ask()
                if problem is None:
                    return None
            now = time.monotonic()
            if now - began > self._limit:
                return f"no token within {self._limit:g} s of its start: {problem}"
            # Whatever loads or compiles says so. An API server that was told to stop in the middle never does again.
            quiet = max(QUIET, self._limit / 3)
            if now - max(began, self._heard(), self._answered) > quiet:
                return f"it hangs in its start: no line of its log for {quiet:g} s, and {problem}"
            if now - beat > HEARTBEAT:
                beat = now
                self._beat()
            await asyncio.sleep(POLL)

    async def _ask(self) -> str | None:
        """One token from the engine; returns what went wrong instead."""
        address = str(self._socket)
        answered = False
        try:
            status, _ = await ask(self._transport, address, pool.get_request("/health"), KNOCK)
            answered = True
            if status == 200:
                status, _ = await ask(self._transport, address, pool.post_request(*self._probe), FIRST_TOKEN)
        except TransportError as error:
            return str(error)
        finally:
            if answered:
                self._answered = time.monotonic()
        return None if status == 200 else f"its answer to a first request has status {status}"
