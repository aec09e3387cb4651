"""One HTTP exchange with one replica: bytes out, bytes in, deadlines, cancellation.

Written on asyncio's protocols and httptools because it is the hot path (docs/performance.md).
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

import httptools

from service.transport.connect import DeadlineError, TransportError, dial

HIGH_WATER = 64 * 2**10
LARGEST_HEAD = 64 * 2**10
# An engine closes connections that were idle for some seconds. One that breaks at once when it is used again after so
# many seconds, without a word, was dead before: the engine has not seen the request.
IDLE, AT_ONCE = 1.0, 0.5


@dataclass(frozen=True)
class Deadlines:
    """Float seconds: to connect, to the first byte of an answer's body, of silence within it, for all of it, and for a
    client to take what came."""

    connect: float
    first_byte: float
    idle: float
    total: float
    client_write: float = 60.0


class Exchange(asyncio.Protocol):
    """A connection to a replica, and the answer being read from it. One answer at a time.

    From its start to its release somebody must go on reading: who takes nothing for too long, because a client takes
    nothing, loses the connection, and is told by a call of `on_slow`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, address: str) -> None:
        self._loop, self._address = loop, address
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # for the parser, which calls for every piece
        self._parser = httptools.HttpResponseParser(self)
        self._socket: asyncio.Transport | None = None
        self._buffered = 0
        self._request = self._unheard = b""
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Callable[[bytes], bool] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadlines = Deadlines(0.0, 0.0, 0.0, 0.0)
        self._limit = self._total = self._looks_at = 0.0
        self._started = self._quiet_since = self._sinkn_at = 0.0
        self._error: TransportError | None = None
        self._complete = True
        self._keeps_alive = self._paused = self._sinkn = self._full = self._resting = False
        self.status, self.idle_since, self.reused = 0, 0.0, False
        self.on_slow: Callable[[], None] | None = None

    # The exchange as the relay sees it.

    async def connect(self, limit: float) -> None:
        """Opens the connection, within `limit` seconds. Raises TransportError."""
        await dial(self._loop, self._address, self, limit)

    def start(self, request: bytes, deadlines: Deadlines, remaining: float = math.inf) -> None:
        """Sends a whole request; `head` and `read` then give the answer, within `remaining` seconds at most."""
        if self._socket is None or self._socket.is_closing():
            raise self._error or TransportError("the connection is closed")
        self._pieces.clear()
        self.status, self._buffered, self._request = 0, 0, request
        self._complete = self._full = self._resting = False
        self._deadlines, self._total = deadlines, min(deadlines.total, remaining)
        self._limit = min(deadlines.first_byte, remaining)
        self._started = self._quiet_since = self._sinkn_at = self._loop.time()
        first = min(self._limit, self._total, deadlines.idle, deadlines.client_write)
        if self._timer is None or self._looks_at > self._started + first:
            self._look_in(first)
        self._socket.write(request)

    async def head(self) -> int:
        """Waits for the answer's head; returns its status."""
        while not self.status:
            await self._wait()
        return self.status

    async def read(self) -> bytes:
        """What arrived of the body since the last call; `b""` at its end. Raises TransportError if it breaks off."""
        while not self._pieces:
            if self._complete and self.status:
                return b""
            await self._wait()
        return self._gather()

    async def stream_to(self, sink: Callable[[bytes], bool], flush: Callable[[], Awaitable[None]]) -> None:
        """Gives what arrives of the body to `sink`, piece by piece and at once, until its end.

        Where `sink` returns False, `flush` is awaited before it is given more. Raises TransportError if the body breaks
        off, and what `sink` raises.
        """
        while True:
            if self._full:
                self._full = False
                await flush()
            elif self._pieces:
                self._full = not sink(self._gather())
            elif self._complete and self.status:
                return
            else:
                self._sink = sink
                try:
                    await self._wait()
                finally:
                    self._sink = None

    async def read_all(self, limit: int) -> bytes:
        """The whole body, at most `limit` bytes; a longer one is a TransportError."""
        parts, size = [], 0
        while piece := await self.read():
            parts.append(piece)
            size += len(piece)
            if size > limit:
                raise TransportError(f"the answer is longer than {limit} bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Drops the connection at once: an engine that was still working on the answer stops."""
        self._request = b""
        self._stop_timer()
        if self._socket:
            self._socket.abort()

    def finish(self) -> bool:
        """The answer is not read further; returns whether the connection can carry another one."""
        self._resting = True
        self.on_slow = None
        self.idle_since = self._loop.time()
        return self.reusable

    @property
    def reusable(self) -> bool:
        """Whether the answer is complete and the connection can carry another one."""
        lives = self._complete and self._keeps_alive and self._error is None
        return lives and self._socket is not None and not self._socket.is_closing()

    # Waiting.

    def _gather(self) -> bytes:
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._buffered = 0
        self._sinkn = True
        if self._paused and self._socket and not self._socket.is_closing():
            self._paused = False
            self._quiet_since = self._loop.time()
            self._socket.resume_reading()
        return data

    def _hold_back(self) -> None:
        if self._buffered > HIGH_WATER and self._socket and not self._paused and not self._complete:
            self._paused = True
            self._socket.pause_reading()

    async def _wait(self) -> None:
        if self._error:
            if not self._unheard:
                raise self._error
            await self._start_again(self._error)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def _start_again(self, error: TransportError) -> None:
        """Replaces a pooled connection that was dead when the request was sent on it."""
        request, self._unheard = self._unheard, b""
        self._parser, self.reused = httptools.HttpResponseParser(self), False
        try:
            await self.connect(self._deadlines.connect)
        except TransportError:
            # Nobody is there any more: that the connection broke with the request on it is what matters of it.
            raise error from None
        self._error = None
        self.start(request, self._deadlines, self._started + self._total - self._loop.time())

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def _check_deadline(self) -> None:
        # One timer for many answers: to move it at every chunk would cost more than the chunk.
        self._timer = None
        if self._resting:
            return
        now = self._loop.time()
        if self._waiter or self._sinkn:
            self._sinkn, self._sinkn_at = False, now
        client_write = self._sinkn_at + self._deadlines.client_write - now
        total = self._started + self._total - now
        # While reading is paused the silence is the client's, and what is complete has all the time in the world.
        quiet = self._limit if self._paused else self._quiet_since + self._limit - now
        left = client_write if self._complete else min(client_write, total, quiet)
        if left > 0.001:
            # The limit may become `idle` in between, so it is looked at again that soon.
            self._look_in(min(left, self._deadlines.idle))
        elif client_write <= 0.001:
            on_slow = self.on_slow
            self._fail(DeadlineError(f"nobody took anything for {self._deadlines.client_write:g} s"))
            if on_slow:
                on_slow()
        elif quiet <= 0.001:
            self._fail(DeadlineError(f"no byte for {round(self._limit, 2):g} s"))
        else:
            self._fail(DeadlineError(f"not complete after {round(self._total, 2):g} s"))

    def _look_in(self, seconds: float) -> None:
        self._stop_timer()
        self._looks_at = self._loop.time() + seconds
        self._timer = self._loop.call_later(seconds, self._check_deadline)

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _fail(self, error: TransportError) -> None:
        self._error = self._error or error
        self.close()
        self._wake()

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self._request = b""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(TransportError(f"the answer is not HTTP: {error}"))
            return
        self._buffered += len(data)
        if self._pieces:
            self._quiet_since, self._limit = self._loop.time(), self._deadlines.idle
        elif not self.status and self._buffered > LARGEST_HEAD:
            self._fail(TransportError(f"the answer's head is longer than {LARGEST_HEAD} bytes"))
            return
        if not (self._sink and self._pieces):
            self._hold_back()
            self._wake()
            return
        # Who pours is spared a turn of the event loop for each piece: they wake for the last, and for one too many.
        try:
            self._full = not self._sink(self._gather())
        except Exception as error:  # noqa: BLE001  raised where `pour` was called
            self._sink = None
            if self._waiter and not self._waiter.done():
                self._waiter.set_exception(error)
            return
        if self._full or self._complete:
            self._sink = None
            self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._complete:
            stale = self.reused and self._started - self.idle_since > IDLE
            unheard = self._request if stale and self._loop.time() - self._started < AT_ONCE else b""
            self._fail(TransportError(f"the connection broke: {error or 'closed early'}"))
            self._unheard = unheard
        self._error = self._error or TransportError("the connection is closed")
        self._wake()

    # Called by the parser.

    def on_message_begin(self) -> None:
        if self._complete:
            # The parser stops at this: nothing of a second answer may be taken for a part of the first.
            raise TransportError("the replica sent an answer that nobody asked for")

    def on_headers_complete(self) -> None:
        status: int = self._parser.get_status_code()
        if status < 200:
            raise TransportError(f"status {status} is no answer to a whole request")
        self.status = status

    def on_message_complete(self) -> None:
        self._complete = True
        self._keeps_alive = self._parser.should_keep_alive()  # it forgets once the message is over
