"""A client's connection: uvicorn's, without what it spends on servers of another kind, and with a way to write at once.

It is the hot path (docs/performance.md): an answer's head leaves with the first of its body, in one packet; headers are
ours, so only what could split them is looked for; and a stream need not wake a task for every piece.
"""

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from itertools import chain
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.asgi import EXTRA, App, Headers, Message

log = logging.getLogger("roundhouse")

# Requests that a client may send ahead on a connection until no more is read from it. While nothing is read nobody
# notices that it left, so this is not 0 as with uvicorn.
AHEAD = 8
STATUS = {one.value: f"HTTP/1.1 {one.value} {one.phrase}".encode() for one in HTTPStatus}


class Connection(HttpToolsProtocol):
    """Has `ours` answer what comes on a connection, past the server's own app, that gets `theirs` only."""

    def __init__(self, *arguments: Any, ours: App | None = None, theirs: tuple[str, ...] = (), **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._ours: Any = ours or self.app
        self._theirs = theirs
        self._running: RequestResponseCycle | None = None

    def on_headers_complete(self) -> None:
        """Called by the parser: begins with the request, or lines it up behind the one that runs."""
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        path = unquote(path) if "%" in path else path
        if path in self._theirs or self.parser.should_upgrade():
            super().on_headers_complete()
            return
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["path"], scope["raw_path"], scope["query_string"] = path, url.path, url.query or b""
        scope["http_version"] = version = self.parser.get_http_version()
        before = self.cycle
        self.cycle = cycle = Cycle(self, keep_alive=version != "1.0" and self.parser.should_keep_alive())
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self._ours)
        else:
            self.pipeline.appendleft((cycle, self._ours))
            if len(self.pipeline) > AHEAD:
                self.flow.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio. uvicorn tells only the newest request on a connection that its client is gone."""
        super().connection_lost(exc)
        running = self._running
        if running and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
            if isinstance(running, Cycle) and running.leave:
                running.leave()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)


class Cycle(RequestResponseCycle):
    """One request on a connection, and its answer."""

    def __init__(self, connection: Connection, keep_alive: bool) -> None:
        super().__init__(
            scope=connection.scope,
            transport=connection.transport,
            flow=connection.flow,
            logger=log,
            access_logger=log,
            access_log=False,
            default_headers=connection.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=connection.expect_100_continue,
            keep_alive=keep_alive,
            on_response=connection.on_response_complete,
        )
        self._head = b""
        self.leave: Callable[[], None] | None = None
        scope: Any = connection.scope
        scope["extensions"] = {EXTRA: self}

    async def run_asgi(self, app: Any) -> None:
        """Runs the app to its end. Where that is not the end of the answer, the connection's end says so."""
        try:
            await app(self.scope, self.receive, self.send)
        finally:
            self.on_response = _nothing
            if not self.response_complete:
                # What a client did not take for so long that it was left, would keep the connection open for ever.
                (self.transport.abort if self.flow.write_paused else self.transport.close)()

    async def send(self, message: Message) -> None:  # type: ignore[override]
        """ASGI's `send`, for messages in their right order."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if not self.response_started:
            self._begin(message["status"], message["headers"])
            return
        body, last = message.get("body", b""), not message.get("more_body", False)
        if self.scope["method"] == "HEAD":
            body = b""
        elif self.chunked_encoding:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"0\r\n\r\n" if last else b"")
        if self._head or body:
            self.transport.write(self._head + body)
            self._head = b""
        if last:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()

    def tell(self, leave: Callable[[], None] | None) -> None:
        """Has `leave` called when the client leaves."""
        self.leave = leave
        if leave:
            self.flow.resume_reading()  # or nobody would notice
            if self.disconnected:
                leave()

    def whole(self) -> bytes | None:
        """The body, once, if all of it is here."""
        if self.more_body or self.disconnected or self.waiting_for_100_continue:
            return None
        self.message_event.clear()
        body, self.body = bytes(self.body), bytearray()
        return body

    def push(self, piece: bytes) -> bool:
        """Sends a piece, not empty, of a stream that has begun; returns whether there is room for more of it now."""
        if self.disconnected:
            return True
        self.transport.write(b"%b%x\r\n%b\r\n" % (self._head, len(piece), piece))
        self._head = b""
        return not self.flow.write_paused

    def _begin(self, status: int, headers: Headers) -> None:
        """Makes the head, which waits for the first of the body. Raises ValueError for a header that would be two."""
        self.response_started, self.waiting_for_100_continue = True, False
        self.chunked_encoding = True
        lines, closes = [STATUS[status]], False
        for name, value in chain(self.default_headers, headers):
            lines.append(b"%b: %b" % (name, value))
            if name == b"content-length":
                self.chunked_encoding = False
            elif name == b"connection":
                self.keep_alive, closes = False, True
        if not self.keep_alive and not closes:
            lines.append(b"connection: close")
        if self.chunked_encoding:
            lines.append(b"transfer-encoding: chunked")
        self._head = head = b"\r\n".join(lines) + b"\r\n\r\n"
        if head.count(b"\n") != len(lines) + 1 or head.count(b"\r") != len(lines) + 1:
            raise ValueError("a header holds the end of a line")


def _nothing() -> None:
    pass
