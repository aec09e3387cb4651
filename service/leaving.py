"""The end of a gateway process: it says that it leaves, finishes what it has accepted, and goes."""

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from service.engine import presence

SIGNALS = (signal.SIGTERM, signal.SIGINT)
TWICE = 1.0  # seconds after which a second signal is meant: a terminal and a process manager send one each
LAST_WORDS = 0.2  # seconds for the requests on connections that were taken already


class Leaving:
    """Stands before the server's own answer to SIGTERM and SIGINT. Durations are float seconds.

    Asked to stop, it says so by `drain` and in the run folder, and lets new requests in for `grace`, so that whoever
    sends them can see it. Then the server takes no more and finishes what it has. What still runs after `limit`, or at
    a second signal, is ended by `end`.
    """

    def __init__(
        self, run_dir: Path, grace: float, limit: float, drain: Callable[[], None], end: Callable[[], None]
    ) -> None:
        self._run_dir, self._grace, self._limit = run_dir, grace, limit
        self._drain, self._end = drain, end
        self._asked_at: float | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._servers: dict[int, Any] = {}

    def enter(self) -> None:
        """Begins to listen for signals; called in the server's event loop, after the server did."""
        self._loop = asyncio.get_running_loop()
        presence.enter(self._run_dir, os.getpid())
        if threading.current_thread() is not threading.main_thread():
            return  # signals are for the main thread alone
        self._servers = {number: signal.signal(number, self._heard) for number in SIGNALS}

    def leave(self) -> None:
        """Takes back what `enter` did: the last request has ended."""
        for timer in self._timers:
            timer.cancel()
        for number, handler in self._servers.items():
            signal.signal(number, handler)
        presence.leave(self._run_dir, os.getpid())

    def _heard(self, number: int, frame: FrameType | None) -> None:
        # A handler runs between any two instructions: what it does waits for the loop.
        self._loop.call_soon_threadsafe(self._ask, number)

    def _ask(self, number: int) -> None:
        now = self._loop.time()
        if self._asked_at is None:
            self._asked_at = now
            self._drain()
            with contextlib.suppress(OSError):  # a full disk keeps nobody from leaving
                presence.drain(self._run_dir, os.getpid())
            self._timers = [
                self._loop.call_later(self._grace, self._close, number),
                self._loop.call_later(self._limit, self._end),
            ]
        elif now - self._asked_at > TWICE:
            self._close(number)
            self._end()

    def _close(self, number: int) -> None:
        handler = self._servers[number]
        if callable(handler):
            if all(presence.present(self._run_dir).values()):
                refuse(getattr(handler, "__self__", None))
            self._timers.append(self._loop.call_later(LAST_WORDS, handler, number, None))


def refuse(server: Any) -> None:
    """Has the kernel refuse connections to a uvicorn server from now on.

    BentoML's first process holds the same socket and takes nothing from it: without this, who comes between the
    server's end and its own would wait there and then be cut off.
    """
    for listener in getattr(server, "servers", ()):
        for one in listener.sockets:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(one.fileno())) as shared:
                listener.close()
                shared.shutdown(socket.SHUT_RDWR)
