"""One HTTP exchange with one replica: a request sent, its response read, deadlines, cancellation.

Written on asyncio's protocols and httptools because it is the hot path (docs/performance.md).
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import cast

import httptools

from service.transport.chunks import Pipe
from service.transport.connect import DeadlineError, Deadlines, TooLargeError, TransportError, dial
from service.transport.parsed_response import ParsedResponse

HIGH_WATER = 64 * 2**10  # bytes buffered for the reader before reading from the socket pauses
MAX_HEAD_BYTES = 64 * 2**10
# An engine closes idle connections after some seconds. A pooled connection that was idle for STALE_AFTER seconds and
# breaks within STALE_RESET_WITHIN seconds of a request, before any byte of a response, was stale: the engine has not
# seen the request, so it is safe to send it again.
STALE_AFTER, STALE_RESET_WITHIN = 1.0, 0.5


class Exchange(asyncio.Protocol, ParsedResponse):
    """A connection to a replica, and the response that is being read from it; one at a time.

    If the reader takes no data for `Deadlines.client_write` seconds, the connection is closed and `on_client_timeout`
    called.
    """

    __slots__ = (
        "_address", "_buffered", "_consumed", "_consumed_at", "_deadlines", "_error", "_loop", "_open_pipe", "_paused",
        "_pipe", "_read_timeout", "_released", "_request", "_resend", "_silent_since", "_sink", "_sink_full", "_socket",
        "_started", "_timer", "_timer_due_at", "_total_timeout", "_waiter", "idle_since", "on_client_timeout", "reused",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, address: str) -> None:
        super().__init__()
        self._loop, self._address = loop, address
        self._socket: asyncio.Transport | None = None
        self._buffered = 0
        self._request = self._resend = b""
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Callable[[bytes], bool] | None = None
        self._pipe: Pipe | None = None
        self._open_pipe: Pipe | None = None  # while the next bytes are for it
        self._timer: asyncio.TimerHandle | None = None
        self._deadlines = Deadlines(0.0, 0.0, 0.0, 0.0)
        self._read_timeout = self._total_timeout = self._timer_due_at = 0.0
        self._started = self._silent_since = self._consumed_at = 0.0
        self._error: TransportError | None = None
        self._paused = self._consumed = self._sink_full = self._released = False
        self.idle_since, self.reused = 0.0, False
        self.on_client_timeout: Callable[[], None] | None = None

    # The interface for the relay.

    async def connect(self, connect_timeout: float) -> None:
        """Opens the connection within `connect_timeout` seconds. Raises TransportError."""
        await dial(self._loop, self._address, self, connect_timeout)

    def start(self, request: bytes, deadlines: Deadlines, remaining: float = math.inf) -> None:
        """Sends a complete request. The response is read with `head` and `read`, within `remaining` seconds at most."""
        if self._socket is None or self._socket.is_closing():
            raise self._error or TransportError("the connection is closed")
        self._chunks.clear()
        self.status, self._buffered, self._request = 0, 0, request
        self._complete = self._sink_full = self._released = self._between_chunks = False
        # Written out, as everything here is once for each request: a call of `min` costs as much as five comparisons.
        self._deadlines = deadlines
        self._total_timeout = deadlines.total if deadlines.total < remaining else remaining
        self._read_timeout = deadlines.first_byte if deadlines.first_byte < remaining else remaining
        self._started = self._silent_since = self._consumed_at = self._loop.time()
        first = deadlines.shortest if deadlines.shortest < remaining else remaining
        if self._timer is None or self._timer_due_at > self._started + first:
            self._set_timer(first)
        self._socket.write(request)

    def arrival(self) -> Awaitable[None]:
        """Until something has arrived. Raises TransportError, or replaces a connection that was dead."""
        if self._error:
            if not self._resend:
                raise self._error
            return self._reconnect(self._error)
        self._waiter = self._loop.create_future()
        return self._waiter

    async def head(self) -> int:
        """Waits for the response's head; returns its status. Raises TransportError."""
        while not self.status:
            await self.arrival()
        return self.status

    async def read(self) -> bytes:
        """What arrived of the body since the last call; `b""` at its end. Raises TransportError if it breaks off."""
        while not self._chunks:
            if self._complete and self.status:
                return b""
            await self.arrival()
        return self._take_chunks()

    async def stream_to(
        self, sink: Callable[[bytes], bool], flush: Callable[[], Awaitable[None]], pipe: Pipe | None = None
    ) -> bytes:
        """Passes the body to `sink`, each chunk as it arrives; returns what arrived with its end.

        When `sink` returns False, `flush` is awaited before the next chunk. A chunk that arrives alone is offered to
        `pipe` first. Raises TransportError if the body breaks off, and whatever `sink` and `pipe` raise.
        """
        self._pipe = pipe
        while True:
            if self._sink_full:
                self._sink_full = False
                await flush()
            elif self._complete and self.status:
                return self._take_chunks()
            elif self._chunks:
                self._sink_full = not sink(self._take_chunks())
            else:
                self._sink, self._open_pipe = sink, pipe if self._between_chunks else None
                try:
                    await self.arrival()
                finally:
                    self._sink = self._open_pipe = None

    def hold(self) -> None:
        """Closes the pipe of `stream_to`, which can take no more, until `flush` has been awaited."""
        if self._open_pipe is not None:
            self._sink, self._open_pipe, self._sink_full = None, None, True
            self._wake()

    def whole(self, limit: int) -> bytes | None:
        """The whole body, if it is here in one piece, and no longer than `limit` bytes."""
        if self._complete and len(self._chunks) == 1 and len(self._chunks[0]) <= limit:
            return self._take_chunks()
        return None

    async def read_all(self, limit: int) -> bytes:
        """Reads the whole body; raises TooLargeError beyond `limit` bytes, TransportError if it breaks off."""
        chunks, size = [], 0
        while chunk := await self.read():
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                raise TooLargeError(f"the response is longer than {limit} bytes")
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def close(self) -> None:
        """Aborts the connection, upon which the engine stops generating."""
        self._request = b""
        self._stop_timer()
        if self._socket:
            self._socket.abort()

    def finish(self) -> bool:
        """Ends the exchange; returns whether the connection can be used for another one."""
        self._released, self.reused, self.on_client_timeout = True, True, None
        self.idle_since = self._loop.time()
        return self.is_reusable()

    def is_reusable(self) -> bool:
        """Whether the response is complete and the connection can be used for another exchange."""
        keeps_alive = self._complete and self._keeps_alive and self._error is None
        return keeps_alive and self._socket is not None and not self._socket.is_closing()

    # Waiting.

    def _take_chunks(self) -> bytes:
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        self._consumed = True
        if self._paused and self._socket and not self._socket.is_closing():
            self._paused = False
            self._silent_since = self._loop.time()
            self._socket.resume_reading()
        return data

    async def _reconnect(self, error: TransportError) -> None:
        """Replaces a pooled connection that was dead when the request was sent on it."""
        request, self._resend = self._resend, b""
        self._parser, self.reused = httptools.HttpResponseParser(self), False
        try:
            await self.connect(self._deadlines.connect)
        except TransportError:
            # Report the break: it happened after the request was sent, unlike the refusal of the new connection.
            raise error from None
        self._error = None
        self.start(request, self._deadlines, self._started + self._total_timeout - self._loop.time())

    def _wake(self, error: Exception | None = None) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter and not waiter.done():
            if error:
                waiter.set_exception(error)
            else:
                waiter.set_result(None)

    def _check_deadline(self) -> None:
        # One timer serves many responses: rescheduling it at every chunk would cost more than handling the chunk.
        self._timer = None
        if self._released:
            return
        now = self._loop.time()
        if self._waiter or self._consumed:
            self._consumed, self._consumed_at = False, now
        client_write = self._consumed_at + self._deadlines.client_write - now
        total = self._started + self._total_timeout - now
        # While reading is paused the client is the slow one; a complete response is only bound by `client_write`.
        silence = self._read_timeout if self._paused else self._silent_since + self._read_timeout - now
        remaining = client_write if self._complete else min(client_write, total, silence)
        if remaining > 0.001:
            # The first byte of the body makes `idle` the read timeout, so check again at least that soon.
            self._set_timer(min(remaining, self._deadlines.idle))
        elif client_write <= 0.001:
            on_client_timeout = self.on_client_timeout
            self._fail(DeadlineError(f"the response was not read for {self._deadlines.client_write:g} s"))
            if on_client_timeout:
                on_client_timeout()
        elif silence <= 0.001:
            self._fail(DeadlineError(f"no byte for {round(self._read_timeout, 2):g} s"))
        else:
            self._fail(DeadlineError(f"not complete after {round(self._total_timeout, 2):g} s"))

    def _set_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer_due_at = self._loop.time() + seconds
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
        self._socket = cast(asyncio.Transport, transport)  # uvloop's transport does not inherit from asyncio's

    def data_received(self, data: bytes) -> None:
        try:
            if self._open_pipe is not None:
                # The parser stands between two chunks, so it need not see one that is passed on whole.
                take, write, clock = self._open_pipe
                now = clock()
                chunk = take(data, now)
                if chunk is not None:
                    self._silent_since = now
                    write(chunk)
                    return
            self._parse(data)
        except Exception as error:
            if self._sink is None:
                raise
            self._sink = self._open_pipe = None
            self._wake(error)

    def _parse(self, data: bytes) -> None:
        self._open_pipe = None
        self._request = b""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(TransportError(f"the response is not HTTP: {error}"))
            return
        self._between_chunks = self._between_chunks and data.endswith(b"\r\n")  # not within the next one's size
        self._buffered += len(data)
        if self._chunks:
            self._silent_since, self._read_timeout = self._loop.time(), self._deadlines.idle
        elif not self.status and self._buffered > MAX_HEAD_BYTES:
            self._fail(TransportError(f"the response's head is longer than {MAX_HEAD_BYTES} bytes"))
            return
        if self._complete or not (self._sink and self._chunks):
            if self._buffered > HIGH_WATER and self._socket and not self._paused and not self._complete:
                self._paused = True
                self._socket.pause_reading()
            self._wake()
            return
        # Calling the sink here spares the streaming task a wake-up per chunk: it wakes at the end, or for `flush`.
        self._sink_full = not self._sink(self._take_chunks())
        if self._sink_full:
            self._sink = None
            self._wake()
        elif self._between_chunks:
            self._open_pipe = self._pipe

    def connection_lost(self, error: Exception | None) -> None:
        if not self._complete:
            stale = self.reused and self._started - self.idle_since > STALE_AFTER
            resend = self._request if stale and self._loop.time() - self._started < STALE_RESET_WITHIN else b""
            self._fail(TransportError(f"the connection broke: {error or 'closed early'}"))
            self._resend = resend
        self._error = self._error or TransportError("the connection is closed")
        self._wake()
