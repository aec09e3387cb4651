"""Graceful shutdown of a gateway process: fail readiness, stop accepting connections, finish requests, exit."""

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
# Seconds in which further signals count as the first: a terminal and a process manager may both send one.
SECOND_SIGNAL_AFTER = 1.0
SETTLE_TIME = 0.2  # seconds for handshakes in progress to complete, and for requests to arrive on new connections
POLL_INTERVAL = 0.01  # seconds between two checks for connections that wait to be accepted
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27  # Linux
# A classic BPF program for a TCP socket: drops packets that begin a handshake, and lets all others pass.
DROP_SYN_FILTER = tuple(
    struct.pack("@HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the flags, byte 13 of the TCP header
        (0x54, 0, 0, 0x12),  # keep SYN and ACK
        (0x15, 0, 1, 0x02),  # skip one instruction unless only SYN is set
        (0x06, 0, 0, 0),  # drop the packet
        (0x06, 0, 0, 0xFFFFFFFF),  # accept the whole packet
    )
)


class GracefulShutdown:
    """Runs on SIGTERM and SIGINT before uvicorn's own signal handlers. Durations are float seconds.

    At the first signal it calls `start_draining` and marks the process as draining in the run folder, but accepts
    connections for `grace` seconds more, until load balancers have seen that readiness fails. Then uvicorn stops
    accepting and finishes the requests in flight. After `timeout`, or at a second signal, `abort_requests` ends those.
    """

    def __init__(
        self, run_dir: Path, grace: float, timeout: float,
        start_draining: Callable[[], None], abort_requests: Callable[[], None],
    ) -> None:  # fmt: skip
        self._run_dir, self._grace, self._timeout = run_dir, grace, timeout
        self._start_draining, self._abort_requests = start_draining, abort_requests
        self._signalled_at: float | None = None
        self._closing = False
        self._timers: list[asyncio.TimerHandle] = []
        self._server_handlers: dict[int, Any] = {}

    def install(self) -> None:
        """Installs the signal handlers; call it in the server's event loop, after the server has installed its own."""
        self._loop = asyncio.get_running_loop()
        gateway_registry.register(self._run_dir, os.getpid())
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread can handle signals
        self._server_handlers = {number: signal.signal(number, self._on_signal) for number in SIGNALS}

    @property
    def server(self) -> Any:
        """The uvicorn server of this process, found through its signal handler; None if there is none."""
        return getattr(self._server_handlers.get(signal.SIGTERM), "__self__", None)

    def uninstall(self) -> None:
        """Restores the server's signal handlers and unregisters the process; call it after the last request."""
        for timer in self._timers:
            timer.cancel()
        for number, handler in self._server_handlers.items():
            signal.signal(number, handler)
        gateway_registry.unregister(self._run_dir, os.getpid())

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # A signal handler may interrupt any code, so the work is left to the event loop.
        self._loop.call_soon_threadsafe(self._shut_down, number)

    def _shut_down(self, number: int) -> None:
        now = self._loop.time()
        if self._signalled_at is None:
            self._signalled_at = now
            self._start_draining()
            with contextlib.suppress(OSError):  # a full disk must not prevent the shutdown
                gateway_registry.mark_draining(self._run_dir, os.getpid())
            self._timers = [
                self._loop.call_later(self._grace, self._drop_handshakes, number),
                self._loop.call_later(self._timeout, self._abort_requests),
            ]
        elif now - self._signalled_at > SECOND_SIGNAL_AFTER:
            self._drop_handshakes(number)
            self._abort_requests()

    def _drop_handshakes(self, number: int) -> None:
        """Begins to close the server; only once, although both the end of the grace and a second signal call for it."""
        if self._closing:
            return
        self._closing = True
        handler = self._server_handlers[number]
        if callable(handler):
            is_last = all(gateway_registry.registered(self._run_dir).values())
            sockets = ListenSockets(self.server, shared=not is_last)
            sockets.drop_handshakes()
            self._call_later(SETTLE_TIME, self._accept_pending, sockets, partial(handler, number, None))

    def _accept_pending(self, sockets: "ListenSockets", close_server: Callable[[], None]) -> None:
        """Waits until the server has accepted every pending connection, then stops accepting."""
        timed_out = self._signalled_at is not None and self._loop.time() > self._signalled_at + self._timeout
        if sockets.has_pending_connections() and not timed_out:
            self._call_later(POLL_INTERVAL, self._accept_pending, sockets, close_server)
            return
        sockets.stop_accepting()
        self._call_later(SETTLE_TIME, self._close_server, sockets, close_server)

    def _close_server(self, sockets: "ListenSockets", close_server: Callable[[], None]) -> None:
        sockets.refuse_connections()
        close_server()

    def _call_later(self, pause: float, function: Callable[..., None], *arguments: Any) -> None:
        self._timers.append(self._loop.call_later(pause, function, *arguments))


class ListenSockets:
    """The listening sockets of a uvicorn server; empty for None. With `shared` only this server's listeners close.

    BentoML's first process holds the same sockets open but never accepts. A connection made after the server has closed
    would wait in the accept queue and be reset when that process exits, so the kernel has to refuse it. But `shutdown`
    of a listening socket resets the connections in its accept queue. Hence three steps: drop new handshakes, accept
    what is in the queue, then shut the sockets down.
    """

    def __init__(self, server: Any, shared: bool = False) -> None:
        self._listeners = list(getattr(server, "servers", ()))
        exclusive = [] if shared else [sock for listener in self._listeners for sock in listener.sockets]
        self._sockets = [socket.socket(fileno=os.dup(sock.fileno())) for sock in exclusive]

    def drop_handshakes(self) -> None:
        """Makes the kernel drop new handshakes. A client's retry, a second later, is refused by then."""
        program = ctypes.create_string_buffer(b"".join(DROP_SYN_FILTER))
        filter_program = struct.pack("@HP", len(DROP_SYN_FILTER), ctypes.addressof(program))
        for sock in self._sockets:
            with contextlib.suppress(OSError):  # without filters the few handshakes in progress are reset
                sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_program)

    def has_pending_connections(self) -> bool:
        """Whether the accept queue holds a connection; False once another process has shut the socket down."""
        poll = select.poll()
        for sock in self._sockets:
            poll.register(sock, select.POLLIN)
        return any(not event & select.POLLHUP for _, event in poll.poll(0))

    def stop_accepting(self) -> None:
        """Closes the server's listeners. Workers that share them have done so before `refuse_connections`."""
        for listener in self._listeners:
            listener.close()

    def refuse_connections(self) -> None:
        """Makes the kernel refuse connections. A server started later on the same sockets listens again."""
        for sock in self._sockets:
            with sock, contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
                sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
