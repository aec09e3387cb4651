"""One HTTP exchange with one replica: bytes out, bytes in, deadlines, cancellation.

Written on asyncio's protocols and httptools because it is the hot path: a client library costs several times as much
a chunk (bench/README.md has the figures).
"""

import asyncio
import os
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import httptools

HIGH_WATER = 64 * 2**10
LARGEST_HEAD = 64 * 2**10
IDLE_POOL = 30.0  # seconds; engines keep idle connections for longer, so a pooled one is rarely dead


@dataclass(frozen=True)
class Deadlines:
    """Float seconds: to connect, to the first byte of an answer's body, of silence within it, for all of it, and for a
    client to take what came."""

    connect: float
    first_byte: float
    idle: float
    total: float
    reader: float = 60.0


class TransportError(Exception):
    """The exchange broke: no connection, a reset, or an answer that is not HTTP."""


class DeadlineError(TransportError):
    """The replica was silent for too long."""


class RefusedError(TransportError):
    """Nobody listens at the address."""


class Exchange(asyncio.Protocol):
    """A connection to a replica, and the answer being read from it. One answer at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._parser = httptools.HttpResponseParser(self)
        self._socket: asyncio.Transport | None = None
        self._pieces: deque[bytes] = deque()
        self._buffered = 0
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._limit = 0.0
        self._idle = 0.0
        self._quiet_since = 0.0
        self._started = 0.0
        self._total = 0.0
        self._error: TransportError | None = None
        self._complete = True
        self._keeps_alive = False
        self._paused = False
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.idle_since = 0.0
        self.reused = False

    # The exchange as the relay sees it.

    def start(self, request: bytes, deadlines: Deadlines) -> None:
        """Sends a whole request; `head` and `read` then give the answer."""
        if self._socket is None or self._socket.is_closing():
            raise self._error or TransportError("the connection is closed")
        self._pieces.clear()
        self.status, self.headers, self._buffered, self._complete = 0, [], 0, False
        self._limit, self._idle, self._total = deadlines.first_byte, deadlines.idle, deadlines.total
        self._started = self._quiet_since = self._loop.time()
        self._timer = self._loop.call_later(min(self._limit, self._idle, self._total), self._check_deadline)
        self._socket.write(request)

    async def head(self) -> int:
        """Waits for the answer's status and headers; returns the status."""
        while not self.status:
            await self._wait()
        return self.status

    async def read(self) -> bytes:
        """What arrived of the body since the last call; `b""` at its end. Raises TransportError if it breaks off."""
        while not self._pieces:
            if self._complete and self.status:
                return b""
            await self._wait()
        data = self._pieces.popleft() if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._buffered = 0
        if self._paused and self._socket and not self._socket.is_closing():
            self._paused = False
            self._quiet_since = self._loop.time()
            self._socket.resume_reading()
        return data

    async def read_all(self, limit: int) -> bytes:
        """The whole body, at most `limit` bytes; a longer one is a TransportError."""
        parts, size = [], 0
        while piece := await self.read():
            parts.append(piece)
            size += len(piece)
            if size > limit:
                raise TransportError(f"the answer is longer than {limit} bytes")
        return b"".join(parts)

    def close(self) -> None:
        """Drops the connection at once: an engine that was still working on the answer stops."""
        if self._timer:
            self._timer.cancel()
        if self._socket:
            self._socket.abort()

    @property
    def reusable(self) -> bool:
        """Whether the answer is complete and the connection can carry another one."""
        return (
            self._complete
            and self._keeps_alive
            and self._error is None
            and self._socket is not None
            and not self._socket.is_closing()
        )

    # Waiting.

    async def _wait(self) -> None:
        if self._error:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def _check_deadline(self) -> None:
        # One timer for each answer: moving it at every chunk would cost more than the chunk.
        if self._complete:
            return
        now = self._loop.time()
        # While reading is paused it is the client who is slow, and only the whole answer's time counts.
        quiet = self._limit if self._paused else self._quiet_since + self._limit - now
        left = min(quiet, self._started + self._total - now)
        if left > 0.001:
            # The limit may become `idle` in between, so it is looked at again that soon.
            self._timer = self._loop.call_later(min(left, self._idle), self._check_deadline)
        elif quiet <= 0.001:
            self._fail(DeadlineError(f"no byte for {self._limit:g} s"))
        else:
            self._fail(DeadlineError(f"not complete after {self._total:g} s"))

    def _fail(self, error: TransportError) -> None:
        self._error = self._error or error
        self.close()
        self._wake()

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(TransportError(f"the answer is not HTTP: {error}"))
            return
        if not self.status:
            self._buffered += len(data)
            if self._buffered > LARGEST_HEAD:
                self._fail(TransportError(f"the answer's head is longer than {LARGEST_HEAD} bytes"))
                return
        if self._buffered > HIGH_WATER and self._socket and not self._paused and not self._complete:
            self._paused = True
            self._socket.pause_reading()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._complete:
            self._fail(TransportError(f"the connection broke: {error or 'closed early'}"))
        self._error = self._error or TransportError("the connection is closed")
        self._wake()

    # Called by the parser.

    def on_message_begin(self) -> None:
        if self._complete:
            # The parser stops at this: nothing of a second answer may be taken for a part of the first.
            raise TransportError("the replica sent an answer that nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status: int = self._parser.get_status_code()
        if status < 200:
            raise TransportError(f"status {status} is no answer to a whole request")
        self.status, self._buffered = status, 0

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._buffered += len(body)
        self._quiet_since = self._loop.time()
        self._limit = self._idle

    def on_message_complete(self) -> None:
        self._complete = True
        self._keeps_alive = self._parser.should_keep_alive()  # it forgets once the message is over
        if self._timer:
            self._timer.cancel()


class Transport:
    """Connections to replicas, pooled by address. An address is a Unix socket's path, or `host:port`."""

    def __init__(self) -> None:
        self._idle: dict[str, list[Exchange]] = {}

    async def send(self, address: str, request: bytes, deadlines: Deadlines) -> Exchange:
        """Sends `request` to the replica; the answer is read from the Exchange. Give it back with `release`."""
        idle = self._idle.get(address, [])
        now = asyncio.get_running_loop().time()
        while idle:
            exchange = idle.pop()
            if exchange.reusable and now - exchange.idle_since < IDLE_POOL:
                exchange.reused = True
                exchange.start(request, deadlines)
                return exchange
            exchange.close()
        exchange = await self._connect(address, deadlines.connect)
        exchange.start(request, deadlines)
        return exchange

    def release(self, address: str, exchange: Exchange) -> None:
        """Takes the connection back for the next request, or closes it when the answer was not read to its end."""
        if exchange.reusable:
            exchange.idle_since = asyncio.get_running_loop().time()
            self._idle.setdefault(address, []).append(exchange)
        else:
            exchange.close()

    async def refuses(self, address: str, limit: float = 1.0) -> bool:
        """Whether nobody listens there; not known within `limit` seconds means that somebody may."""
        try:
            self.release(address, await self._connect(address, limit))
        except TransportError as error:
            return isinstance(error, RefusedError)
        return False

    def close(self) -> None:
        """Closes every idle connection."""
        for idle in self._idle.values():
            for exchange in idle:
                exchange.close()
        self._idle.clear()

    async def _connect(self, address: str, limit: float) -> Exchange:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(limit):
                if address.startswith("/"):
                    _, exchange = await loop.create_unix_connection(lambda: Exchange(loop), address)
                else:
                    host, port = address.rsplit(":", 1)
                    _, exchange = await loop.create_connection(lambda: Exchange(loop), host.strip("[]"), int(port))
        except TimeoutError:
            raise TransportError(f"no connection within {limit:g} s") from None
        except (ConnectionRefusedError, FileNotFoundError) as error:
            raise RefusedError(f"no connection: {os.strerror(error.errno or 0)}") from None
        except OSError as error:
            raise TransportError(f"no connection: {os.strerror(error.errno) if error.errno else 'failed'}") from None
        return exchange


def post(path: str, body: bytes, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """A POST request of JSON, ready to send."""
    return (
        _head("POST", path, (*headers, ("content-type", "application/json"), ("content-length", str(len(body))))) + body
    )


def get(path: str) -> bytes:
    """A GET request, ready to send."""
    return _head("GET", path, ())


def _head(method: str, path: str, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"{method} {path} HTTP/1.1\r\nhost: engine\r\n{lines}\r\n".encode()
