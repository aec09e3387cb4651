"""When a starting engine is ready: when it has answered a probe request, since `/health` alone is no proof."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from service.engine.probe import fetch, probe_request
from service.fleet.served_model import ServedModel
from service.transport import pool
from service.transport.pool import ConnectionPool, Deadlines, TransportError

HEARTBEAT_INTERVAL = 10.0  # seconds between two progress lines about one phase
POLL_INTERVAL = 0.25  # seconds between two attempts
# vLLM binds its socket early, and again when it serves: a request sent in between is never answered. So a cheap request
# with a short timeout comes first; the first token may then have to wait for compilation.
HEALTH_CHECK = Deadlines(connect=1.0, first_byte=2.0, idle=2.0, total=2.0)
FIRST_TOKEN = Deadlines(connect=1.0, first_byte=120.0, idle=120.0, total=120.0)
# Seconds without a sign of life after which a start counts as hung; a third of the start timeout, if that is more.
MAX_SILENCE = 300.0
# Importing and compiling write nothing for minutes where engines share few cores, but take CPU time: this part of one
# core, which many starts at once still get and processes that only wait for each other do not use.
LEAST_CPU = 0.02


class SignsOfLife(Protocol):
    """What a starting engine does, beside answering: when its log last grew, in seconds of the monotonic clock, and the
    seconds of CPU time that its processes have used.
    """

    @property
    def last_output(self) -> float: ...

    @property
    def cpu_time(self) -> float: ...


class Readiness:
    """Waits for one engine to become ready, for at most `start_timeout` seconds.

    `heartbeat` is called every HEARTBEAT_INTERVAL while the start goes on.
    """

    def __init__(
        self,
        address: str,
        served: ServedModel,
        transport: ConnectionPool,
        start_timeout: float,
        signs: SignsOfLife,
        heartbeat: Callable[[], None],
    ) -> None:
        self._address, self._probe, self._transport = address, probe_request(served), transport
        self._start_timeout, self._signs, self._heartbeat = start_timeout, signs, heartbeat
        self._last_response = 0.0

    async def wait(self) -> str | None:
        """Probes the engine until it answers; returns None then, or why the start counts as failed."""
        began = last_heartbeat = last_busy = time.monotonic()
        cpu_time = self._signs.cpu_time
        while True:
            problem = await self._attempt()
            if problem is None:
                return None
            now = time.monotonic()
            if now - began > self._start_timeout:
                return f"not ready within {self._start_timeout:g} s of its start: {problem}"
            if now - last_heartbeat > HEARTBEAT_INTERVAL:
                before, cpu_time = cpu_time, self._signs.cpu_time
                if cpu_time - before > LEAST_CPU * (now - last_heartbeat):
                    last_busy = now
                last_heartbeat = now
                self._heartbeat()
            # An API server that got SIGTERM half-way does nothing of all that again.
            max_silence = max(MAX_SILENCE, self._start_timeout / 3)
            if now - max(last_busy, self._signs.last_output, self._last_response) > max_silence:
                return f"its start hangs: no log output and no use of CPU for {max_silence:g} s, and {problem}"
            await asyncio.sleep(POLL_INTERVAL)

    async def _attempt(self) -> str | None:
        """Health check, then probe request; returns what went wrong."""
        address, responded = self._address, False
        try:
            status, _ = await fetch(self._transport, address, pool.get_request("/health"), HEALTH_CHECK)
            responded = True
            if status == 200:
                status, _ = await fetch(self._transport, address, pool.post_request(*self._probe), FIRST_TOKEN)
        except TransportError as error:
            return str(error)
        finally:
            if responded:
                self._last_response = time.monotonic()
        return None if status == 200 else f"the probe request got status {status}"
