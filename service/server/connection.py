"""A client's connection: uvicorn's protocol, reduced to what the gateway needs, with limits on what a client may do.

Every request gets one response, or the connection is closed; what is not clearly a request is never read as one.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.errors import ApiError
from service.server import head
from service.server.asgi import EXTENSION, App, Headers
from service.server.connection_task import ConnectionTask
from service.server.last_head import LastHead
from service.server.request import STATUS_LINES, RequestCycle, UnframedCycle, reset
from service.server.timeouts import ClientTimeouts, WriteProgress
from service.server.upgrades import feed

# Requests after which reading pauses. Uvicorn pauses at the first, but a disconnect is not noticed during a pause.
MAX_PIPELINED = 8
MAX_HEAD_BYTES = 2**20  # also of trailers and chunk extensions; LimitsMiddleware, which allows less, sees whole heads
DEFAULT_TIMEOUTS = ClientTimeouts()


class Connection(HttpToolsProtocol):
    """Routes `server_paths` to the server's own app and every other path to `gateway_app`.

    `on_invalid` is called with the error that a client gets for what is not a request, and returns headers for it.
    """

    def __init__(
        self, *arguments: Any, gateway_app: App | None = None, server_paths: tuple[str, ...] = (),
        timeouts: ClientTimeouts = DEFAULT_TIMEOUTS, on_invalid: Callable[[ApiError], Headers] = lambda error: (),
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(*arguments, **options)
        self._gateway_app: Any = gateway_app or self.app
        self._server_paths, self._timeouts, self._on_invalid = server_paths, timeouts, on_invalid
        self._running: RequestCycle | RequestResponseCycle | None = None
        self._task = ConnectionTask(self._gateway_app, self.loop, self.tasks)
        self._next: tuple[RequestCycle, dict[str, Any]] | None = None  # begins once all that came has been read
        self._idle_since = 0.0
        self._head_size: int | None = None
        self._error: ApiError | None = None  # in the input; nothing after it is read
        self._ignores_input = False
        self._writing = WriteProgress(timeouts.write)
        self._last_head, self._missing = LastHead(), 0  # bytes of a body of which the parser has not got the head
        self._to_learn: dict[str, Any] | None = None  # the scope of the newest request, whose head may come again
        self.cycle: Any  # of the newest request, ours or uvicorn's

    # Called by the parser.

    def on_message_begin(self) -> None:
        """Resets the state of the parsed head."""
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._idle_since, self._head_size, self._to_learn = self.loop.time(), 0, None

    def on_headers_complete(self) -> None:
        """Starts the request, or queues it behind the one that is running. Raises ApiError if the head is invalid."""
        parser = self.parser
        version, method = parser.get_http_version(), parser.get_method().decode("ascii")
        if parser.should_upgrade():
            if method == "CONNECT":
                raise head.invalid("CONNECT is not served, because this is no proxy")
            return  # `feed` has the head parsed again
        scope = head.scope_of(version, method, self.url, self.headers)
        if scope["path"] in self._server_paths:
            self._delegate_to_uvicorn()
            return
        scope["client"] = self.client
        keep_alive, expects_continue = parser.should_keep_alive(), self.expect_100_continue
        self._to_learn = scope.copy() if version == "1.1" and keep_alive and not expects_continue else None
        self._begin(scope, keep_alive, expects_continue)

    def _begin(self, scope: dict[str, Any], keep_alive: bool = True, expects_continue: bool = False) -> None:
        """Starts a request, or queues it behind the one that is running."""
        before = self.cycle
        cycle_class: type[RequestCycle] = RequestCycle
        if scope["http_version"] != "1.1":
            cycle_class, keep_alive, expects_continue = UnframedCycle, False, False
        self.cycle = cycle = cycle_class(  # by position: a class written in Python is called by name at twice the cost
            self.transport, self.flow, self.server_state.default_headers, self.on_response_complete,
            keep_alive, expects_continue, scope["method"] == "HEAD",
        )  # fmt: skip
        scope["extensions"] = {EXTENSION: cycle}
        if before is None or before.response_complete:
            self._next = cycle, scope
        else:
            self.pipeline.appendleft((cycle, scope))  # type: ignore[arg-type]
            if len(self.pipeline) > MAX_PIPELINED:
                self.flow.pause_reading()

    def on_chunk_header(self) -> None:
        """A body chunk or the trailers follow."""
        self._head_size, self.headers = 0, []  # collects trailers, which are ignored

    def on_chunk_complete(self) -> None:
        """The size of another chunk follows, perhaps with extensions."""
        self._head_size = 0

    def on_body(self, body: bytes) -> None:
        """A part of the newest request's body has arrived."""
        self._head_size = None
        if isinstance(self.cycle, RequestCycle):
            self.cycle.feed_data(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The newest request has arrived completely."""
        self._head_size = None
        if isinstance(self.cycle, RequestCycle):
            self.cycle.feed_eof()
        elif self.cycle is not None:  # None after the head of an offered upgrade
            super().on_message_complete()

    # Called by the event loop, and at the end of a response.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self._schedule_check(self._timeouts.keep_alive)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser; answers what is not valid, once all requests before it have been answered."""
        if self._ignores_input:
            return
        if self._missing:
            data = self._feed_body(data)
        newest, is_next = self.cycle, self._head_size is None
        is_next = is_next and (newest is None or (newest.response_complete and not newest.more_body))
        if is_next and (found := self._last_head.match(data)):
            scope, start, self._missing = found
            self._begin(scope)
            data, is_next = self._feed_body(data[start:]), False
        if data and self._parse(data):
            if is_next and self._to_learn and not self.pipeline:
                self._last_head.learn(data, self._to_learn)
            if self._head_size is not None:
                self._head_size += len(data)
                if self._head_size > MAX_HEAD_BYTES:
                    self._refuse(head.too_large(MAX_HEAD_BYTES))
                else:
                    self._schedule_check(self._timeouts.head)
        if self._next:
            (self._running, scope), self._next = self._next, None
            self._task.run(self._running, scope)

    def pause_writing(self) -> None:
        """The client reads more slowly than it is written to."""
        super().pause_writing()
        if isinstance(self._running, RequestCycle):
            self._running.hold()

    def resume_writing(self) -> None:
        """The client has read most of what was unsent."""
        self._writing.restart()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the running and the newest request; uvicorn would tell only the newest, which may not have started."""
        self.connections.discard(self)
        if self.timeout_keep_alive_task:
            self.timeout_keep_alive_task.cancel()
        for cycle in {self._running, self.cycle} - {None}:
            if isinstance(cycle, RequestCycle):
                cycle.connection_lost()
            elif not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self._task.end()
        self.flow.resume_writing()
        if exc is None:
            self.transport.close()
        self.parser = None  # breaks the reference cycle with the parser

    def on_response_complete(self) -> None:
        """Starts the next pipelined request, or waits for one; closes the connection if the response said so."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        running = self._running
        assert running
        if running.more_body or not running.keep_alive:
            self._close(lingers=running.more_body)
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._error:
            self._respond_invalid(self._error)
        else:
            self._idle_since = self.loop.time()

    # Timeouts, of which one timer serves all for many requests, and closing.

    def timeout_keep_alive_handler(self) -> None:
        """Closes the connection of a client that sends no request in time, or does not read what it is sent."""
        self.timeout_keep_alive_task = None
        now, timeouts = self.loop.time(), self._timeouts
        is_idle = self._running is None or self._running.response_complete
        may_grow = not (is_idle or self.flow.write_paused)
        if self._writing.has_stalled(now, self.transport.get_write_buffer_size(), may_grow):
            reset(self.transport)
            return
        remaining = timeouts.write
        if is_idle and not self._ignores_input:
            remaining = self._idle_since + timeouts.to_head(self._head_size is not None) - now
            if remaining <= 0:
                self._close(lingers=False)
                return
        self._schedule_check(remaining)

    def _schedule_check(self, seconds: float) -> None:
        """Has the timeouts checked in so many seconds or earlier."""
        due = self.loop.time() + min(seconds, self._timeouts.write / 4)
        if timer := self.timeout_keep_alive_task:
            if timer.when() <= due:
                return
            timer.cancel()
        self.timeout_keep_alive_task = self.loop.call_at(due, self.timeout_keep_alive_handler)

    def _close(self, *, lingers: bool) -> None:
        """Closes the connection after everything that is unsent; nothing is read as a request any more.

        A close while the client is sending would reset the connection, which can destroy the response before it is
        read: with `lingers` the input is discarded for a while first.
        """
        self._ignores_input = True
        self.pipeline.clear()
        if lingers and self.transport.can_write_eof():
            self.flow.resume_reading()
            self.transport.write_eof()
            self.loop.call_later(self._timeouts.linger, self.transport.close)
        else:
            self.transport.close()
        self._schedule_check(self._timeouts.write)

    def _refuse(self, error: ApiError) -> None:
        """Handles an error in the input: one in a body is that request's, any other gets a response of its own."""
        self._error, self._ignores_input = error, True
        newest = self.cycle
        if newest is None or newest.response_complete:
            self._respond_invalid(error)
        elif isinstance(newest, RequestCycle):
            newest.fail_body(error)
        elif newest.more_body:
            self.transport.close()

    def _respond_invalid(self, error: ApiError) -> None:
        headers = (*self.server_state.default_headers, *self._on_invalid(error))
        self.transport.write(head.error_response(STATUS_LINES[error.status], error, headers))
        self._close(lingers=True)

    # Parsing and running requests.

    def _feed_body(self, data: bytes) -> bytes:
        """Takes what is missing of the newest request's body; returns what is behind it."""
        body = data[: self._missing]
        self._missing -= len(body)
        if body:
            self.cycle.feed_data(body)
        if not self._missing:
            self.cycle.feed_eof()
        return data[len(body) :]

    def _parse(self, data: bytes) -> bool:
        """Feeds the parser, and refuses what is not valid; returns whether it was."""
        try:
            feed(self, data)
        except httptools.HttpParserError as error:
            self._refuse(head.as_refusal(error, data))
            return False
        return True

    def _start_asgi_task(self, cycle: Any, scope_or_app: Any) -> None:
        """Runs a request in a new task. `scope_or_app` is the scope for our cycle, and the app for uvicorn's."""
        self._running = cycle
        if isinstance(cycle, RequestCycle):
            self._task.start(cycle, scope_or_app)
        else:
            super()._start_asgi_task(cycle, scope_or_app)

    def _delegate_to_uvicorn(self) -> None:
        """Replays a parsed head into uvicorn's own code, which then runs the request."""
        url, headers, expects_continue = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expects_continue
        self.scope["headers"] = headers
        super().on_headers_complete()
