"""Scripted engines and an in-memory network, on an event loop that the test steps: nothing runs in between."""

import asyncio
import errno
import json
import selectors
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.fake_engine import bodies
from tests.fake_engine.bodies import DONE, data

SocketState = Literal["open", "closed", "stuck"]
"""Whether an engine accepts connections, refuses them, or does not respond to them."""

Fault = Literal["reset", "short", "full", "draining", "broken", "wrong", "abort", "error", "death"]
FAULTS: tuple[Fault, ...] = ("reset", "short", "full", "draining", "broken", "wrong", "abort", "error", "death")
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
REFUSALS: dict[Fault, tuple[int, str]] = {
    "full": (503, bodies.BUSY),
    "draining": (500, bodies.DRAINING),
    "broken": (500, "it failed"),
    "wrong": (400, "it is wrong"),
    "death": (500, bodies.DEATH),
}


class _NonBlockingSelector(selectors.DefaultSelector):
    """A selector that never blocks."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(0)


class SteppedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time and callbacks a test advances. `engines` are found by the path of their Unix socket."""

    def __init__(self, engines: "dict[str, Engine]") -> None:
        self.now = 1000.0
        self.engines = engines
        self.errors: list[dict[str, Any]] = []
        super().__init__(_NonBlockingSelector())
        self.set_exception_handler(lambda _, error: self.errors.append(error))

    def time(self) -> float:
        return self.now

    @property
    def next_due(self) -> float | None:
        """The time of the next callback: now, that of a timer, or None."""
        if self._ready:  # type: ignore[attr-defined]
            return self.now
        timers = [timer.when() for timer in self._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        return max(self.now, min(timers)) if timers else None

    @property
    def idle(self) -> bool:
        """Whether nothing runs before time passes."""
        next_due = self.next_due
        return next_due is None or next_due > self.now

    def step(self) -> None:
        """Runs the callbacks that are ready, but not those that become ready meanwhile."""
        self.stop()
        self.run_forever()

    def advance(self, seconds: float, stalled: bool, after_step: Callable[[], None]) -> None:
        """Advances the time timer by timer, or at once (`stalled`), as if the process had been suspended."""
        end = self.now + seconds
        if stalled:
            self.now = end
        while (next_due := self.next_due) is not None and next_due <= end:
            self.now = next_due
            self.step()
            after_step()
        self.now = end

    async def create_unix_connection(self, protocol_factory: Any, path: Any = None, **_: Any) -> Any:
        engine = self.engines[str(path)]
        socket = engine.socket
        await asyncio.sleep(0)
        if socket == "stuck":
            await engine.hold_connect(self.create_future())
        if socket == "closed":
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
        protocol = protocol_factory()
        connection = Connection(self, engine, protocol)
        engine.connections.append(connection)
        protocol.connection_made(connection)
        return connection, protocol


class Connection(asyncio.Transport):
    """A connection: asyncio's methods are the gateway's end of it, `deliver` and `reset` the engine's."""

    def __init__(self, loop: SteppedLoop, engine: "Engine", protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop, self._engine, self._protocol = loop, engine, protocol
        self._closing = False
        self.is_reset = False

    def write(self, data: Any) -> None:
        head, _, body = bytes(data).partition(b"\r\n\r\n")
        self._engine.receive(self, head.decode(), body)

    def abort(self) -> None:
        if not self._closing:
            self._closing = True
            self._engine.connection_lost(self)
            self._loop.call_soon(self._protocol.connection_lost, None)

    def close(self) -> None:
        self.abort()

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def deliver(self, data: bytes, request: "EngineRequest | None" = None) -> None:
        self._loop.call_soon(self._arrive, data, request)

    def reset(self) -> None:
        self.is_reset = True
        self._loop.call_soon(self._break)

    def _arrive(self, data: bytes, request: "EngineRequest | None") -> None:
        if not self._closing:
            if request:
                request.sent_at = self._loop.now
            self._protocol.data_received(data)

    def _break(self) -> None:
        if not self._closing:
            self._closing = True
            self._engine.connection_lost(self)
            self._protocol.connection_lost(ConnectionResetError(errno.ECONNRESET, "reset"))


@dataclass(eq=False)
class EngineRequest:
    """One request at an engine. `visible` is what the client should receive of it so far, `fault` how it failed.

    `done` says that the engine has no more to do for it, `started` that the response has had output. The gateway last
    received something of it at `sent_at`.
    """

    engine: "Engine"
    connection: Connection
    request_id: str
    streamed: bool
    received_at: float
    sent_at: float | None = None
    tokens: int = 0
    visible: bytes = b""
    head_sent: bool = False
    started: bool = False
    complete: bool = False
    done: bool = False
    fault: Fault | None = None

    def send_event(self) -> None:
        """Sends the next event of a stream: first its head and opening event, then output."""
        if self.streamed and not self.head_sent:
            self._open()
        elif self.streamed:
            self._event(data({"choices": [{"delta": {"content": self._token()}, "finish_reason": None}]}))
            self.started = True

    def finish(self) -> None:
        """Sends the rest of the response."""
        self.complete = True
        if not self.streamed:
            self.visible = bodies.dumps(self._body("stop"))
            self._respond(200, self.visible)
            return
        while not self.started:
            self.send_event()
        self._close("stop")

    def fail(self, fault: Fault) -> None:
        """Fails in this way, or the closest that is possible after what has been sent."""
        if self.streamed and fault in ("error", "death") and not self.head_sent:
            self._open()
        if self.streamed and self.head_sent and fault in REFUSALS and fault != "death":
            fault = "error"
        if not self.streamed and fault == "error":
            fault = "broken"
        self.fault = fault
        if fault == "reset":
            self._end(self.connection.reset)
        elif self.streamed and fault == "abort":
            if not self.head_sent:
                self._open()
            self._close("abort")
        elif fault == "abort":
            self._respond(200, bodies.dumps(self._body("abort")))
        elif self.streamed and fault == "short":
            if not self.head_sent:
                self._open()
            self._send(b"0\r\n\r\n")
            self._end()
        elif fault == "short":
            self._send(b'HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"id": 1')
            self._end(self.connection.reset)
        elif self.head_sent:
            event = bodies.death_event() if fault == "death" else data(bodies.error("it failed", "E", None, 500))
            self._send(b"".join(map(_chunk, (event, DONE))) + b"0\r\n\r\n")
            self._end()
        else:
            status, message = REFUSALS[fault]
            self._respond(status, bodies.dumps(bodies.error(message, "Error", None, status)))

    def _open(self) -> None:
        self.head_sent = True
        self._send(STREAM)
        self._event(data({"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}))

    def _event(self, event: bytes) -> None:
        self.visible += event
        self._send(_chunk(event))

    def _close(self, reason: str) -> None:
        then = {"choices": [{"delta": {"content": ""}, "finish_reason": reason}]}
        self._event(data(then))
        usage = data({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": self.tokens}})
        self.visible += DONE
        self._send(_chunk(usage) + _chunk(DONE) + b"0\r\n\r\n")
        self._end()

    def _body(self, reason: str) -> dict[str, Any]:
        choice = {"message": {"role": "assistant", "content": self._token()}, "finish_reason": reason}
        return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": self.tokens}}

    def _respond(self, status: int, body: bytes) -> None:
        self._send(f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        self._end()

    def _token(self) -> str:
        """A token that no other response contains."""
        self.tokens += 1
        return f"{self.request_id}-{self.engine.name}-{self.tokens} "

    def _send(self, data: bytes) -> None:
        self.connection.deliver(data, self)

    def _end(self, then: Callable[[], None] = lambda: None) -> None:
        then()
        self.done = True


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass(eq=False)
class Engine:
    """One engine: whether it accepts connections, and the requests it has received, the oldest first.

    `waiting` is the number of queued requests that its metrics report.
    """

    name: str
    clock: Callable[[], float]
    socket: SocketState = "open"
    waiting: int = 0
    connections: list[Connection] = field(default_factory=list)
    requests: list[EngineRequest] = field(default_factory=list)
    pending_connects: list[float] = field(default_factory=list)

    @property
    def running(self) -> list[EngineRequest]:
        return [request for request in self.requests if not request.done]

    async def hold_connect(self, forever: "asyncio.Future[None]") -> None:
        """Leaves a connect pending; `pending_connects` has the times of their beginning."""
        since = self.clock()
        self.pending_connects.append(since)
        try:
            await forever
        finally:
            self.pending_connects.remove(since)

    def receive(self, connection: Connection, head: str, body: bytes) -> None:
        """A request has arrived."""
        if head.startswith("GET "):
            page = bodies.metrics(self.name, len(self.running), self.waiting, Counter())
            connection.deliver(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(page) + page)
            return
        request_id = next(line for line in head.split("\r\n") if line.startswith("x-request-id: "))
        streamed = json.loads(body).get("stream", False)
        request = EngineRequest(self, connection, request_id.removeprefix("x-request-id: "), streamed, self.clock())
        request.fault = "reset" if connection.is_reset else None
        self.requests.append(request)

    def connection_lost(self, connection: Connection) -> None:
        """A connection is closed, and its requests are done."""
        self.connections.remove(connection)
        for request in self.requests:
            if request.connection is connection:
                request.done = True

    def die(self) -> None:
        """Crashes: resets all connections and refuses new ones."""
        self.socket = "closed"
        for request in self.running:
            request.fault = "reset"
        for connection in self.connections:
            connection.reset()
