"""A client's connection: uvicorn's protocol, reduced to what the gateway needs, with limits on request heads."""

import asyncio
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.errors import ApiError, ErrorCode, openai_body
from service.server.asgi import EXTENSION, App
from service.server.request import STATUS_LINES, RequestCycle

# Pipelined requests after which reading from the connection pauses. Uvicorn pauses at the first one, but a disconnect
# is not noticed while reading is paused.
MAX_PIPELINED = 8
MAX_HEAD_BYTES = 2**20  # also of trailers; LimitsMiddleware allows less, but it only sees complete heads
MAX_CACHED_URL = 128  # bytes; longer URLs are parsed each time


class Connection(HttpToolsProtocol):
    """Routes `server_paths` to the server's own app and every other path to `gateway_app`.

    While no request runs, a complete request head must arrive within uvicorn's keep-alive timeout.
    """

    def __init__(
        self, *arguments: Any, gateway_app: App | None = None, server_paths: tuple[str, ...] = (), **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._gateway_app: Any = gateway_app or self.app
        self._server_paths = server_paths
        self._running: RequestCycle | RequestResponseCycle | None = None
        self._head_awaited_since = 0.0
        self._head_size: int | None = None
        self.cycle: Any  # of the newest request, ours or uvicorn's

    # Called by the parser.

    def on_message_begin(self) -> None:
        """Resets the state of the parsed head."""
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._head_awaited_since, self._head_size = self.loop.time(), 0

    def on_headers_complete(self) -> None:
        """Starts the request, or queues it behind the one that is running."""
        self._head_size = None
        parser = self.parser
        path, raw, query = (_parse_url_cached if len(self.url) < MAX_CACHED_URL else _parse_url)(self.url)
        if path in self._server_paths or parser.should_upgrade():
            self._delegate_to_uvicorn()
            return
        version, method = parser.get_http_version(), parser.get_method().decode("ascii")
        before = self.cycle
        self.cycle = cycle = RequestCycle(
            self.transport, self.flow, self.server_state.default_headers, self.on_response_complete,
            keep_alive=version != "1.0" and parser.should_keep_alive(), expects_continue=self.expect_100_continue,
            is_head=method == "HEAD",
        )  # fmt: skip
        # Only those keys of ASGI's scope that the gateway reads.
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
            if len(self.pipeline) > MAX_PIPELINED:
                self.flow.pause_reading()

    def on_chunk_header(self) -> None:
        """A body chunk or the trailers follow."""
        self._head_size, self.headers = 0, []  # collects trailers, which are ignored

    def on_body(self, body: bytes) -> None:
        """A part of the newest request's body has arrived."""
        self._head_size = None
        if type(self.cycle) is RequestCycle:
            self.cycle.feed_data(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The newest request has arrived completely."""
        self._head_size = None
        if type(self.cycle) is RequestCycle:
            self.cycle.feed_eof()
        else:
            super().on_message_complete()

    # Called by the event loop, and at the end of a response.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, and closes the connection if the head is too large."""
        super().data_received(data)
        if self._head_size is not None:
            self._head_size += len(data)
            if self._head_size > MAX_HEAD_BYTES and not self.transport.is_closing():
                if self.cycle is None or self.cycle.response_complete:
                    self.transport.write(TOO_LARGE)
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the running and the newest request; uvicorn would tell only the newest, which may not have started."""
        self.connections.discard(self)
        if self.timeout_keep_alive_task:
            self.timeout_keep_alive_task.cancel()
        for cycle in {self._running, self.cycle} - {None}:
            if type(cycle) is RequestCycle:
                cycle.connection_lost()
            elif not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.flow.resume_writing()
        if exc is None:
            self.transport.close()
        self.parser = None  # breaks the reference cycle with the parser

    def on_response_complete(self) -> None:
        """Starts the next pipelined request, or waits for one."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._await_head()

    def timeout_keep_alive_handler(self) -> None:
        """Closes the connection if no complete head arrived in time. One timer serves many requests."""
        self.timeout_keep_alive_task = None
        if self._running and not self._running.response_complete:
            return  # the timer is set again when it ends
        remaining = self._head_awaited_since + self.timeout_keep_alive - self.loop.time()
        if remaining > 0:
            self._schedule_timeout(remaining)
        else:
            self.transport.close()

    def _await_head(self) -> None:
        self._head_awaited_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._schedule_timeout(self.timeout_keep_alive)

    def _schedule_timeout(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _unset_keepalive_if_required(self) -> None:
        """Uvicorn's hook for received data, where it cancels its timer; ours runs on."""

    def _start_asgi_task(self, cycle: Any, scope_or_app: Any) -> None:
        """Runs a request in a task. `scope_or_app` is the scope for our cycle, and the app for uvicorn's."""
        self._running = cycle
        if type(cycle) is not RequestCycle:
            super()._start_asgi_task(cycle, scope_or_app)
            return
        task = self.loop.create_task(cycle.run(self._gateway_app, scope_or_app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _delegate_to_uvicorn(self) -> None:
        """Replays a parsed head into uvicorn's own code, which then runs the request."""
        url, headers, expects_continue = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expects_continue
        self.scope["headers"] = headers
        super().on_headers_complete()


def _error_response(error: ApiError) -> bytes:
    """A complete HTTP response, head and body, for what could not be parsed as a request."""
    body = openai_body(error)
    head = b"\r\n".join((
        STATUS_LINES[error.status], b"connection: close", b"content-type: application/json",
        b"content-length: %d" % len(body),
    ))  # fmt: skip
    return head + b"\r\n\r\n" + body


TOO_LARGE = _error_response(
    ApiError(ErrorCode.HEADERS_TOO_LARGE, f"The head of the request is larger than {MAX_HEAD_BYTES} bytes.")
)


def _parse_url(url: bytes) -> tuple[str, bytes, bytes]:
    """The decoded path, the raw path and the query string."""
    parts = httptools.parse_url(url)
    path = parts.path.decode("ascii")
    return unquote(path) if "%" in path else path, parts.path, parts.query or b""


_parse_url_cached = lru_cache(_parse_url)
