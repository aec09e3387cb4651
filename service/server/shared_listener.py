"""A server that shares its listening socket with other workers, so that all have equally many connections.

The kernel wakes all of them for each connection, and whoever comes first may take it. Here one leaves it to those that
have fewer, as long as they run. So no two differ by more than one connection, but for those that were closed since.
"""

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from service.server.open_counts import OpenCounts

PATIENCE = 0.01  # seconds for which a connection is left to workers that have fewer
RETRY = 0.1  # seconds until it is tried again, where the system could accept none
BEAT = 1.0  # seconds after which a worker shows that it runs, whatever happens


class SharedListener:
    """Accepts the connections of a listening socket that are this worker's to take; `accepted` is called with each.

    A worker that does not take one within `patience` is frozen, dead or busy, and is left none until it has shown that
    it runs.
    """

    def __init__(
        self, listener: socket.socket, backlog: int, counts: OpenCounts, accepted: Callable[[socket.socket], None],
        patience: float = PATIENCE,
    ) -> None:  # fmt: skip
        listener.setblocking(False)
        listener.listen(backlog)
        self.sockets = [listener]
        self._listener, self._counts, self._accepted, self._patience = listener, counts, accepted, patience
        self._waiting = select.poll()
        self._waiting.register(listener, select.POLLIN)
        # Tells of each arrival once: the loop would come back again and again for what is left to others.
        self._arrivals = select.epoll()
        self._arrivals.register(listener, select.EPOLLIN | select.EPOLLET)
        self._late: dict[int, int] = {}  # by row: what workers had shown that have not taken one in time
        self._timer: asyncio.TimerHandle | None = None  # while one waits
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._arrivals, self._arrived)
        self._loop.add_reader(counts.bell, self._rung)
        counts.join()
        self._beat()

    def close(self) -> None:
        """Accepts no more; the socket stays open."""
        if not self.sockets:
            return
        self.sockets = []
        for source in (self._arrivals, self._counts.bell):
            self._loop.remove_reader(source)
            source.close()
        self._next_beat.cancel()
        self._stop_timer()
        self._counts.leave()

    async def wait_closed(self) -> None:
        """Returns at once, as a closed server of the event loop's does."""

    def _arrived(self) -> None:
        self._arrivals.poll(0)
        self._look()

    def _rung(self) -> None:
        self._counts.bell.recv(1)
        self._look()

    def _look(self) -> None:
        """Accepts a connection that waits, or leaves it to workers that have fewer and are not late."""
        if not self.sockets:
            return
        self._counts.join()
        if not self._waiting.poll(0):
            self._stop_timer()
            return
        fewer = {row: shown for row, shown in self._counts.fewer().items() if self._late.get(row) != shown}
        if fewer:
            self._leave_to(fewer)
        else:
            self._stop_timer()
            self._accept()

    def _leave_to(self, workers: dict[int, int]) -> None:
        for row in workers:
            self._counts.ring(row)
        self._timer = self._timer or self._loop.call_later(self._patience, self._look_again, workers)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:  # another has just taken it
            return
        except OSError:  # such as of too many open files
            self._counts.leave()
            self._timer = self._loop.call_later(RETRY, self._look_again, {})
            return
        self._accepted(connection)
        self._loop.call_soon(self._look)

    def _look_again(self, left_to: dict[int, int]) -> None:
        self._timer = None
        if self._waiting.poll(0):
            self._late.update(left_to.items() & self._counts.fewer().items())
        self._look()

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        self._counts.beat()
        self._next_beat = self._loop.call_later(BEAT, self._beat)


class _Connections(set[Any]):
    """The connections of a server; `left` is called with each that has ended."""

    def __init__(self, left: Callable[[Any], None]) -> None:
        super().__init__()
        self._left = left

    def discard(self, connection: Any) -> None:
        super().discard(connection)
        self._left(connection)


class SharedServer(uvicorn.Server):
    """uvicorn's server, with a `SharedListener`."""

    def __init__(self, config: uvicorn.Config, counts: OpenCounts, patience: float = PATIENCE) -> None:
        super().__init__(config)
        self._counts, self._patience = counts, patience
        self._open: set[Any] = set()  # also those that are not connected yet, which uvicorn does not count
        self._tasks: set[asyncio.Task[None]] = set()
        self.server_state.connections = _Connections(self._left)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts the app, and then accepts the connections of the one socket."""
        await super().startup(sockets=[])
        [listener] = sockets or []
        shared: Any = SharedListener(listener, self.config.backlog, self._counts, self._accepted, self._patience)
        self.servers = [shared]

    def _accepted(self, connection: socket.socket) -> None:
        protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        self._open.add(protocol)
        self._counts.show(len(self._open))
        task = asyncio.create_task(self._connect(connection, protocol))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, connection: socket.socket, protocol: asyncio.Protocol) -> None:
        loop, connected = asyncio.get_running_loop(), False
        try:
            with contextlib.suppress(OSError):  # the client has left, or its TLS is wrong
                await loop.connect_accepted_socket(lambda: protocol, connection, ssl=self.config.ssl)
                connected = True
        finally:
            if not connected:
                self._left(protocol)

    def _left(self, protocol: Any) -> None:
        self._open.discard(protocol)
        self._counts.show(len(self._open))
