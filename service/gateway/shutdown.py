"""The end of a gateway process: it says that it leaves, finishes what it has accepted, and goes."""

import asyncio
import contextlib
import ctypes
import os
import select
import signal
import socket
import struct
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from service.engine import gateway_registry

SIGNALS = (signal.SIGTERM, signal.SIGINT)
TWICE = 1.0  # seconds after which a second signal is meant: a terminal and a process manager send one each
LAST_WORDS = 0.2  # seconds in which a handshake that has begun ends, and a request comes on a connection that was taken
LOOK = 0.01  # seconds between two looks at whether somebody waits at the door
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27  # Linux
# A packet filter for the kernel: of a TCP packet's flags, SYN and ACK; where it is SYN alone nothing gets through.
NO_HANDSHAKES = tuple(
    struct.pack("@HBBI", *one)
    for one in ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
)


class GracefulShutdown:
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
        gateway_registry.register(self._run_dir, os.getpid())
        if threading.current_thread() is not threading.main_thread():
            return  # signals are for the main thread alone
        self._servers = {number: signal.signal(number, self._heard) for number in SIGNALS}

    @property
    def server(self) -> Any:
        """The uvicorn server of this process, as far as its handlers of signals tell; else None."""
        return getattr(self._servers.get(signal.SIGTERM), "__self__", None)

    def leave(self) -> None:
        """Takes back what `enter` did: the last request has ended."""
        for timer in self._timers:
            timer.cancel()
        for number, handler in self._servers.items():
            signal.signal(number, handler)
        gateway_registry.unregister(self._run_dir, os.getpid())

    def _heard(self, number: int, frame: FrameType | None) -> None:
        # A handler runs between any two instructions: what it does waits for the loop.
        self._loop.call_soon_threadsafe(self._ask, number)

    def _ask(self, number: int) -> None:
        now = self._loop.time()
        if self._asked_at is None:
            self._asked_at = now
            self._drain()
            with contextlib.suppress(OSError):  # a full disk keeps nobody from leaving
                gateway_registry.mark_draining(self._run_dir, os.getpid())
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
            last = all(gateway_registry.registered(self._run_dir).values())
            door = ListenSockets(self.server, shared=not last)
            door.shut()
            self._later(LAST_WORDS, self._let_in, door, partial(handler, number, None))

    def _let_in(self, door: "ListenSockets", close: Callable[[], None]) -> None:
        """Takes whoever is at the door still, then no more, and lets the server close when all have said what for."""
        over = self._asked_at is not None and self._loop.time() > self._asked_at + self._limit
        if door.has_pending_connections() and not over:
            self._later(LOOK, self._let_in, door, close)
            return
        door.leave()
        self._later(LAST_WORDS, self._finish, door, close)

    def _finish(self, door: "ListenSockets", close: Callable[[], None]) -> None:
        door.refuse()
        close()

    def _later(self, pause: float, act: Callable[..., None], *arguments: Any) -> None:
        self._timers.append(self._loop.call_later(pause, act, *arguments))


class ListenSockets:
    """The listening sockets of a uvicorn server; no server, no sockets. One that is `shared` stays open to others.

    BentoML's first process holds the same sockets and takes nothing from them: whoever came between the server's end
    and its own would wait there and then be cut off. So the kernel has to refuse them; but a socket that is shut down
    cuts off those that it has let in and nobody has taken. Hence the order: first no handshake begins, then all
    that have ended one are taken, then the rest is refused.
    """

    def __init__(self, server: Any, shared: bool = False) -> None:
        self._listeners = list(getattr(server, "servers", ()))
        found = [] if shared else [one for listener in self._listeners for one in listener.sockets]
        self._sockets = [socket.socket(fileno=os.dup(one.fileno())) for one in found]

    def shut(self) -> None:
        """Has the kernel pass over new handshakes; who sends one tries again after a second, and is refused then."""
        program = ctypes.create_string_buffer(b"".join(NO_HANDSHAKES))
        where = struct.pack("@HP", len(NO_HANDSHAKES), ctypes.addressof(program))
        for one in self._sockets:
            with contextlib.suppress(OSError):  # a kernel that cannot: then the few on their way are cut off
                one.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, where)

    def has_pending_connections(self) -> bool:
        """Whether somebody waits to be taken; nobody does once another process has had the kernel refuse them."""
        waiting = select.poll()
        for one in self._sockets:
            waiting.register(one, select.POLLIN)
        return any(not event & select.POLLHUP for _, event in waiting.poll(0))

    def leave(self) -> None:
        """Takes no more. Whoever shares the sockets has done the same when `refuse` is called."""
        for listener in self._listeners:
            listener.close()

    def refuse(self) -> None:
        """Has the kernel refuse connections. A server that is started anew with the same sockets opens them again."""
        for one in self._sockets:
            with one, contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
                one.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
