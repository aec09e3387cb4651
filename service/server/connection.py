"""A client's connection: uvicorn's, without what it spends on servers of another kind, and with bounds for heads."""

import asyncio
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.errors import ApiError, ErrorCode, openai_body
from service.server.asgi import EXTENSION, App
from service.server.request import STATUS, RequestCycle

# Requests that a client may send ahead on a connection until no more is read from it. While nothing is read nobody
# notices that it left, so this is not 0 as with uvicorn.
AHEAD = 8
LARGEST_HEAD = 2**20  # bytes, of trailers too; what the middleware allows is less, but it sees whole heads only
SHORT = 128  # bytes of an address that is worth remembering


class Connection(HttpToolsProtocol):
    """Has `gateway_app` answer the requests of a connection; the server's own app gets those for `server_paths` only.

    Where no request runs, a whole head must come within the server's time to keep a connection alive.
    """

    def __init__(
        self, *arguments: Any, gateway_app: App | None = None, server_paths: tuple[str, ...] = (), **named: Any
    ) -> None:
        super().__init__(*arguments, **named)
        self._gateway_app: Any = gateway_app or self.app
        self._server_paths = server_paths
        self._running: RequestCycle | RequestResponseCycle | None = None
        self._waits_since = 0.0
        self._head_size: int | None = None
        self.cycle: Any  # the newest, of either kind

    # Called by the parser.

    def on_message_begin(self) -> None:
        """A request begins."""
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._waits_since, self._head_size = self.loop.time(), 0

    def on_headers_complete(self) -> None:
        """Begins with the request, or lines it up behind the one that runs."""
        self._head_size = None
        parser = self.parser
        path, raw, query = (_remembered if len(self.url) < SHORT else _parsed)(self.url)
        if path in self._server_paths or parser.should_upgrade():
            self._pass_on()
            return
        version, method = parser.get_http_version(), parser.get_method().decode("ascii")
        before = self.cycle
        self.cycle = cycle = RequestCycle(
            self.transport, self.flow, self.server_state.default_headers, self.on_response_complete,
            keep_alive=version != "1.0" and parser.should_keep_alive(), expects=self.expect_100_continue,
            is_head=method == "HEAD",
        )  # fmt: skip
        # Of ASGI's scope what says which request it is.
        scope = {
            "type": "http",
            "http_version": version,
            "method": method,
            "path": path,
            "raw_path": raw,
            "query_string": query,
            "headers": self.headers,
            "extensions": {EXTENSION: cycle},
        }
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, scope)
        else:
            self.pipeline.appendleft((cycle, scope))  # type: ignore[arg-type]
            if len(self.pipeline) > AHEAD:
                self.flow.pause_reading()

    def on_chunk_header(self) -> None:
        """A piece of a body comes, or its trailers."""
        self._head_size, self.headers = 0, []  # trailers are no headers, and nobody asks for them

    def on_body(self, body: bytes) -> None:
        """More of the newest request is here."""
        self._head_size = None
        if type(self.cycle) is RequestCycle:
            self.cycle.arrived(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The newest request is here to its end."""
        self._head_size = None
        if type(self.cycle) is RequestCycle:
            self.cycle.arrived_whole()
        else:
            super().on_message_complete()

    # Called by the event loop, and at the end of an answer.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is here."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Something came."""
        super().data_received(data)
        if self._head_size is not None:
            self._head_size += len(data)
            if self._head_size > LARGEST_HEAD and not self.transport.is_closing():
                if self.cycle is None or self.cycle.response_complete:
                    self.transport.write(TOO_LARGE)
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone. Uvicorn tells only the newest request on a connection, which may not have begun."""
        self.connections.discard(self)
        if self.timeout_keep_alive_task:
            self.timeout_keep_alive_task.cancel()
        for cycle in {self._running, self.cycle} - {None}:
            if type(cycle) is RequestCycle:
                cycle.lost()
            elif not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.flow.resume_writing()
        if exc is None:
            self.transport.close()
        self.parser = None  # it holds this object, too

    def on_response_complete(self) -> None:
        """Goes on with the next request that is here already."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._await_head()

    def timeout_keep_alive_handler(self) -> None:
        """Closes the connection where no whole head came on it for so long. One timer serves many requests."""
        self.timeout_keep_alive_task = None
        if self._running and not self._running.response_complete:
            return  # its end begins anew
        left = self._waits_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._look_again_in(left)
        else:
            self.transport.close()

    def _await_head(self) -> None:
        self._waits_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_again_in(self.timeout_keep_alive)

    def _look_again_in(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _unset_keepalive_if_required(self) -> None:
        """Called by uvicorn when anything comes, where it has a timer for each request."""

    def _start_asgi_task(self, cycle: Any, what: Any) -> None:
        """Begins with a request: `what` is the scope of one of ours, and the app for another."""
        self._running = cycle
        if type(cycle) is not RequestCycle:
            super()._start_asgi_task(cycle, what)
            return
        task = self.loop.create_task(cycle.run(self._gateway_app, what))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _pass_on(self) -> None:
        """Leaves the request to uvicorn's own code."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expects
        self.scope["headers"] = headers
        super().on_headers_complete()


def _error_response(error: ApiError) -> bytes:
    """The whole answer to what is no request."""
    body = openai_body(error)
    head = b"\r\n".join((
        STATUS[error.status], b"connection: close", b"content-type: application/json", b"content-length: %d" % len(body)
    ))  # fmt: skip
    return head + b"\r\n\r\n" + body


TOO_LARGE = _error_response(
    ApiError(ErrorCode.HEADERS_TOO_LARGE, f"The head of the request is larger than {LARGEST_HEAD} bytes.")
)


def _parsed(url: bytes) -> tuple[str, bytes, bytes]:
    """The path, as text and as it was sent, and the query."""
    parts = httptools.parse_url(url)
    path = parts.path.decode("ascii")
    return unquote(path) if "%" in path else path, parts.path, parts.query or b""


_remembered = lru_cache(_parsed)
