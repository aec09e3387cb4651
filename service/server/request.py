"""One request on a client's connection, and its answer: what ASGI asks of a server, and what our own can do beside it.

It is the hot path (docs/performance.md): an answer's head leaves with the first of its body, in one packet; headers are
ours, so only what could split them is looked for; and a stream need not wake a task for every piece.
"""

import asyncio
from collections.abc import Callable, MutableSequence
from http import HTTPStatus

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl

from service.server.asgi import App, Headers, Message, Scope

STATUS = {one.value: f"HTTP/1.1 {one.value} {one.phrase}".encode() for one in HTTPStatus}


class RequestCycle:
    """A request as far as it has come, and an answer as far as it was sent. It is a ServerExtension.

    `over` is called at the end of the answer; `is_head` says that it must have no body.
    """

    __slots__ = (
        "_chunked", "_defaults", "_expects", "_flow", "_head", "_is_head", "_leave", "_more", "_over", "_pieces",
        "_read", "_size", "_transport", "_waiter", "disconnected", "extra_headers", "keep_alive", "response_complete",
        "response_started",
    )  # fmt: skip

    def __init__(
        self,
        transport: asyncio.Transport,
        flow: FlowControl,
        defaults: MutableSequence[tuple[bytes, bytes]],
        over: Callable[[], None],
        *,
        keep_alive: bool,
        expects: bool,
        is_head: bool,
    ) -> None:
        self._transport, self._flow, self._defaults, self._over = transport, flow, defaults, over
        self.keep_alive, self._expects, self._is_head = keep_alive, expects, is_head
        self._pieces: list[bytes] = []
        self._size = 0
        self._more = self._chunked = True
        self._read = self.disconnected = self.response_started = self.response_complete = False
        self._head = b""
        self._waiter: asyncio.Future[None] | None = None
        self._leave: Callable[[], None] | None = None
        self.extra_headers: Callable[[int], Headers] | None = None

    async def run(self, app: App, scope: Scope) -> None:
        """Runs the app to its end. Where that is not the end of the answer, the connection's end says so.

        The scope holds the cycle, and the cycle not the scope: both are gone without the garbage collector.
        """
        try:
            await app(scope, self.receive, self.send)
        finally:
            if not self.response_complete:
                self.response_complete = True
                # What a client did not take for so long that it was left, would keep the connection open for ever.
                (self._transport.abort if self._flow.write_paused else self._transport.close)()

    # Called by the connection.

    def arrived(self, piece: bytes) -> None:
        """More of the body is here."""
        if self.response_complete:
            return
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > HIGH_WATER_LIMIT:
            self._flow.pause_reading()
        self._wake()

    def arrived_whole(self) -> None:
        """The request is here to its end."""
        self._more = False
        self._wake()

    def lost(self) -> None:
        """The client left."""
        if not self.response_complete:
            self.disconnected = True
            self._wake()
            if self._leave:
                self._leave()

    # As ASGI's server.

    async def receive(self) -> Message:
        """ASGI's `receive`."""
        if self._expects and not self._transport.is_closing():
            self._expects = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._flow.resume_reading()
        while not (self.disconnected or self.response_complete):
            if self._pieces or not (self._more or self._read):
                return {"type": "http.request", "body": self._gather(), "more_body": self._more}
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI's `send`, for messages in their right order."""
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if self.disconnected:
            return
        if self.response_started:
            self._continue(message.get("body", b""), not message.get("more_body", False))
        else:
            self._begin(message["status"], message["headers"])

    # As a ServerExtension.

    def on_disconnect(self, leave: Callable[[], None] | None) -> None:
        """Has `leave` called when the client leaves."""
        self._leave = leave
        if leave:
            self._flow.resume_reading()  # or nobody would notice
            if self.disconnected:
                leave()

    def buffered_body(self) -> bytes | None:
        """The body, once, if all of it is here."""
        return None if self._more or self._read or self._expects or self.disconnected else self._gather()

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends a whole answer."""
        if self._flow.write_paused and not self.disconnected:
            await self._flow.drain()
        if not self.disconnected:
            self._begin(status, (*headers, (b"content-length", b"%d" % len(body))))
            self._continue(body, True)

    def write_now(self, piece: bytes) -> bool:
        """Sends a piece, not empty, of a stream that has begun; returns whether there is room for more of it now."""
        if self.disconnected:
            return True
        self._transport.write(b"%b%x\r\n%b\r\n" % (self._head, len(piece), piece))
        self._head = b""
        return not self._flow.write_paused

    def _gather(self) -> bytes:
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._size, self._read = 0, not self._more
        return body

    def _begin(self, status: int, headers: Headers) -> None:
        """Makes the head, which waits for the first of the body. Raises ValueError for a header that would be two."""
        self.response_started, self._expects = True, False
        lines, closes = [STATUS[status]], False
        extra_headers = self.extra_headers(status) if self.extra_headers else ()
        for part in (self._defaults, headers, extra_headers):
            for name, value in part:
                lines.append(b"%b: %b" % (name, value))
                if name == b"content-length":
                    self._chunked = False
                elif name == b"connection":
                    self.keep_alive, closes = False, True
        if not self.keep_alive and not closes:
            lines.append(b"connection: close")
        if self._chunked:
            lines.append(b"transfer-encoding: chunked")
        self._head = head = b"\r\n".join(lines) + b"\r\n\r\n"
        if head.count(b"\n") != len(lines) + 1 or head.count(b"\r") != len(lines) + 1:
            raise ValueError("a header holds the end of a line")

    def _continue(self, body: bytes, last: bool) -> None:
        """Sends more of the body, and the head where it has not left yet."""
        if self._is_head:
            body = b""
        elif self._chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"0\r\n\r\n" if last else b"")
        if self._head or body:
            self._transport.write(self._head + body)
            self._head = b""
        if last:
            self.response_complete = True
            self._wake()
            if not self.keep_alive:
                self._transport.close()
            self._over()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)
