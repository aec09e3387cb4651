"""One request on a client's connection and its response: the server side of ASGI, and our extension of it.

This is the hot path (docs/performance.md): the response's head is written together with the first part of its body;
headers come from our own code, so they are checked for line breaks only; a stream's chunk is written without waking a
task.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, MutableSequence
from contextlib import suppress
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl

from service.errors import ApiError
from service.server.asgi import Headers, Message

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}
RESET = struct.pack("ii", 1, 0)  # for SO_LINGER: on, and no time


def reset(transport: asyncio.Transport) -> None:
    """Closes a connection at once; what is unsent is dropped, in the kernel too, and the client sees an error."""
    with suppress(OSError):  # it is closed already
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    transport.abort()


def lines(headers: Headers) -> bytes:
    """The headers as lines, each with its end. Raises ValueError for one with a line break."""
    joined = b""
    for header in headers:
        joined += b"%b: %b\r\n" % header
    if len(joined.splitlines()) != len(headers):
        raise ValueError("a header contains a line break")
    return joined


@lru_cache
def shared_head(status: int, headers: tuple[tuple[bytes, bytes], ...]) -> tuple[bytes, bool, bool]:
    """The head that many responses have; whether it says the length of the body, and whether it ends the connection.

    Raises ValueError for a header with a line break.
    """
    head = STATUS_LINES[status] + b"\r\n" + lines(headers)
    return head, b"\r\ncontent-length: " in head, b"\r\nconnection: " in head


class RequestCycle:
    """The state of one request and of its response. It is a ServerExtension.

    `on_complete` is called once the response has been written, or broken off; it closes the connection if `keep_alive`
    is false. `is_head` says that the response must have no body; `more_body`, that the request has not arrived whole.
    The scope refers to the cycle but not the other way round, so reference counting alone frees both.
    """

    __slots__ = (
        "_body_error", "_body_read", "_buffered", "_chunked", "_chunks", "_default_headers", "_expects_continue",
        "_flow", "_head", "_is_head", "_on_complete", "_on_disconnect", "_on_full", "_transport", "_waiter",
        "disconnected", "extra_headers", "keep_alive", "more_body", "response_complete", "response_started",
    )  # fmt: skip

    # Whether a client takes the end of the connection for the end of the response: then one that breaks off is reset.
    _ends_by_close = False

    def __init__(
        self,
        transport: asyncio.Transport,
        flow: FlowControl,
        default_headers: MutableSequence[tuple[bytes, bytes]],
        on_complete: Callable[[], None],
        keep_alive: bool,
        expects_continue: bool,
        is_head: bool,
    ) -> None:
        self._transport, self._flow = transport, flow
        self._default_headers, self._on_complete = default_headers, on_complete
        self.keep_alive, self._expects_continue, self._is_head = keep_alive, expects_continue, is_head
        self._chunks: list[bytes] = []
        self._buffered = 0
        self.more_body = self._chunked = True
        self._body_read = self.disconnected = self.response_started = self.response_complete = False
        self._head = b""
        self._body_error: ApiError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._on_disconnect: Callable[[], None] | None = None
        self._on_full: Callable[[], None] | None = None
        self.extra_headers: Callable[[int], Headers] | None = None

    def end(self) -> None:
        """The app has ended. If the response is not complete, closes the connection so that the client notices."""
        if not self.response_complete:
            self.response_complete, self.keep_alive = True, False
            if not self.disconnected and (self._flow.write_paused or self._ends_by_close):
                reset(self._transport)
            else:
                self._on_complete()

    # Called by the connection.

    def feed_data(self, chunk: bytes) -> None:
        """Adds a part of the request body, and pauses reading when too much is buffered."""
        if self.response_complete:
            return
        self._chunks.append(chunk)
        self._buffered += len(chunk)
        if self._buffered > HIGH_WATER_LIMIT:
            self._flow.pause_reading()
        if self._waiter:
            self._wake()

    def feed_eof(self) -> None:
        """The request has arrived completely."""
        self.more_body = False
        if self._waiter:
            self._wake()

    def fail_body(self, error: ApiError) -> None:
        """The rest of the request body cannot be read: `receive` raises the error once it comes to it."""
        if self.more_body:
            self._body_error = error
            self._wake()

    def connection_lost(self) -> None:
        """The client disconnected."""
        if not self.response_complete:
            self.disconnected = True
            self.hold()
            self._wake()
            if self._on_disconnect:
                self._on_disconnect()

    def hold(self) -> None:
        """The write buffer is full, or the connection is gone."""
        if self._on_full and not self.response_complete:
            self._on_full()

    # The ASGI server.

    async def receive(self) -> Message:
        """ASGI's `receive`. Raises ApiError where the body is not valid HTTP."""
        if self._expects_continue and not self._transport.is_closing():
            self._expects_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._flow.resume_reading()
        while not (self.disconnected or self.response_complete):
            if self._chunks or not (self.more_body or self._body_read):
                return {"type": "http.request", "body": self._take_body(), "more_body": self.more_body}
            if self._body_error:
                raise self._body_error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI's `send`; the order of the messages is not checked."""
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if self.disconnected:
            return
        if self.response_started:
            self._send_body(message.get("body", b""), not message.get("more_body", False))
        else:
            self._start_response(message["status"], message["headers"])

    # The ServerExtension.

    def on_disconnect(self, callback: Callable[[], None] | None) -> None:
        """Sets the function that is called when the client disconnects; at once if it has done so already."""
        self._on_disconnect = callback
        if callback:
            if self._flow.read_paused:
                self._flow.resume_reading()  # a disconnect is noticed only while reading
            if self.disconnected:
                callback()

    def buffered_body(self) -> bytes | None:
        """The whole request body if it has been received and not been read yet, else None."""
        if self.more_body or self._body_read or self._expects_continue or self.disconnected:
            return None
        return self._take_body()

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends a complete response; adds `content-length`."""
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if not self.disconnected:
            self._start_response(status, headers, len(body))
            self._send_body(body, True)

    def write_now(self, chunk: bytes) -> bool:
        """Writes a chunk, not empty, of a response that has started; returns False when the write buffer is full."""
        if self.disconnected:
            return True
        self._transport.write(b"%b%x\r\n%b\r\n" % (self._head, len(chunk), chunk))
        self._head = b""
        return not self._flow.write_paused

    def chunk_writer(self, on_full: Callable[[], None]) -> Callable[[bytes], object] | None:
        """The connection's own function, so that a chunk costs no call of ours; None while there is more to be done."""
        if self._head or not self._chunked or self.disconnected or self._flow.write_paused:
            return None
        self._on_full = on_full
        return self._transport.write

    def _take_body(self) -> bytes:
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered, self._body_read = 0, not self.more_body
        return body

    def _start_response(self, status: int, headers: Headers, length: int | None = None) -> None:
        """Builds the head, sent with the first part of the body. Raises ValueError for a header with a line break.

        `length` is that of the body, in bytes, where the headers do not say it.
        """
        self.response_started, self._expects_continue = True, False
        if self.more_body:  # the rest could be taken for a request, and a client that expects 100 may never send it
            self.keep_alive = False
        head, has_length, closes = shared_head(status, (*self._default_headers, *headers))
        if length is not None:
            head += b"content-length: %d\r\n" % length
            self._chunked = False
        elif has_length:
            self._chunked = False
        if self.extra_headers:
            shared = len(head) - 1
            head += lines(self.extra_headers(status))
            closes = closes or head.find(b"\nconnection: ", shared) >= 0
        if closes:
            self.keep_alive = False
        elif not self.keep_alive:
            head += b"connection: close\r\n"
        self._head = head + (b"transfer-encoding: chunked\r\n\r\n" if self._chunked else b"\r\n")

    def _send_body(self, body: bytes, last: bool) -> None:
        """Writes a part of the body, after the head if that has not been sent yet."""
        if self._is_head:
            body = b""
        elif self._chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"0\r\n\r\n" if last else b"")
        if self._head or body:
            self._transport.write(self._head + body)
            self._head = b""
        if last:
            self.response_complete = True
            if self._waiter:
                self._wake()
            self._on_complete()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)


class UnframedCycle(RequestCycle):
    """A request of HTTP/1.0, which knows no chunks: the connection's end is the end of a stream."""

    __slots__ = ()
    _ends_by_close = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._chunked = False

    def write_now(self, chunk: bytes) -> bool:
        """Writes a part of a response that has started; returns False when the write buffer is full."""
        if not self.disconnected:
            self._transport.write(self._head + chunk)
            self._head = b""
        return self.disconnected or not self._flow.write_paused
