"""Engines and a network that a test moves step by step: an event loop that stands still between two turns."""

import asyncio
import errno
import json
import selectors
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.fake_engine import bodies
from tests.fake_engine.bodies import DONE, data

Gate = Literal["open", "closed", "stuck"]
"""Whether an engine takes connections, refuses them, or leaves whoever knocks without an answer."""

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


class _Impatient(selectors.DefaultSelector):
    """Never waits."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(0)


class Clockwork(asyncio.SelectorEventLoop):
    """Time passes, and callbacks run, only when a test says so. A Unix socket's path leads to one of `engines`."""

    def __init__(self, engines: "dict[str, Engine]") -> None:
        self.now = 1000.0
        self.engines = engines
        self.troubles: list[dict[str, Any]] = []
        super().__init__(_Impatient())
        self.set_exception_handler(lambda _, trouble: self.troubles.append(trouble))

    def time(self) -> float:
        return self.now

    @property
    def due(self) -> float | None:
        """When something happens if nobody does anything: now, later, or never."""
        if self._ready:  # type: ignore[attr-defined]
            return self.now
        timers = [timer.when() for timer in self._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        return max(self.now, min(timers)) if timers else None

    @property
    def still(self) -> bool:
        """Whether nothing happens before time passes."""
        due = self.due
        return due is None or due > self.now

    def turn(self) -> None:
        """Runs what is ready, and nothing that becomes ready through it."""
        self.stop()
        self.run_forever()

    def advance(self, seconds: float, stalled: bool, turned: Callable[[], None]) -> None:
        """Lets time pass, in the steps in which timers want it; or at once, as where the process was held up."""
        end = self.now + seconds
        if stalled:
            self.now = end
        while (due := self.due) is not None and due <= end:
            self.now = due
            self.turn()
            turned()
        self.now = end

    async def create_unix_connection(self, protocol_factory: Any, path: Any = None, **_: Any) -> Any:
        engine = self.engines[str(path)]
        door = engine.door
        await asyncio.sleep(0)
        if door == "stuck":
            await engine.knocked(self.create_future())
        if door == "closed":
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
        protocol = protocol_factory()
        wire = Wire(self, engine, protocol)
        engine.wires.append(wire)
        protocol.connection_made(wire)
        return wire, protocol


class Wire(asyncio.Transport):
    """A connection: the methods of asyncio are the gateway's end of it, `say` and `cut` the engine's."""

    def __init__(self, loop: Clockwork, engine: "Engine", protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop, self._engine, self._protocol = loop, engine, protocol
        self._closing = False
        self.broken = False

    def write(self, data: Any) -> None:
        head, _, body = bytes(data).partition(b"\r\n\r\n")
        self._engine.hear(self, head.decode(), body)

    def abort(self) -> None:
        if not self._closing:
            self._closing = True
            self._engine.lose(self)
            self._loop.call_soon(self._protocol.connection_lost, None)

    def close(self) -> None:
        self.abort()

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def say(self, data: bytes, job: "Job | None" = None) -> None:
        self._loop.call_soon(self._arrive, data, job)

    def cut(self) -> None:
        self.broken = True
        self._loop.call_soon(self._break)

    def _arrive(self, data: bytes, job: "Job | None") -> None:
        if not self._closing:
            if job:
                job.said_at = self._loop.now
            self._protocol.data_received(data)

    def _break(self) -> None:
        if not self._closing:
            self._closing = True
            self._engine.lose(self)
            self._protocol.connection_lost(ConnectionResetError(errno.ECONNRESET, "reset"))


@dataclass(eq=False)
class Job:
    """One request at an engine. `shown` is what its client should see of the answer so far, `fault` how it failed.

    `over` says that the engine has no more to do with it; `begun` that the answer has got as far as output. The
    gateway last got something of it at `said_at`.
    """

    engine: "Engine"
    wire: Wire
    request: str
    streamed: bool
    heard_at: float
    said_at: float | None = None
    words: int = 0
    shown: bytes = b""
    headed: bool = False
    begun: bool = False
    whole: bool = False
    over: bool = False
    fault: Fault | None = None

    def speak(self) -> None:
        """Sends one more event of a stream: the first opens it, and only the next ones are output."""
        if self.streamed and not self.headed:
            self._open()
        elif self.streamed:
            self._event(data({"choices": [{"delta": {"content": self._word()}, "finish_reason": None}]}))
            self.begun = True

    def finish(self) -> None:
        """Sends all that is left."""
        self.whole = True
        if not self.streamed:
            self.shown = bodies.dumps(self._answer("stop"))
            self._respond(200, self.shown)
            return
        while not self.begun:
            self.speak()
        self._close("stop")

    def fail(self, fault: Fault) -> None:
        """Goes wrong, as far as what has been sent allows it in this way."""
        if self.streamed and fault in ("error", "death") and not self.headed:
            self._open()
        if self.streamed and self.headed and fault in REFUSALS and fault != "death":
            fault = "error"
        if not self.streamed and fault == "error":
            fault = "broken"
        self.fault = fault
        if fault == "reset":
            self._end(self.wire.cut)
        elif self.streamed and fault == "abort":
            if not self.headed:
                self._open()
            self._close("abort")
        elif fault == "abort":
            self._respond(200, bodies.dumps(self._answer("abort")))
        elif self.streamed and fault == "short":
            if not self.headed:
                self._open()
            self._say(b"0\r\n\r\n")
            self._end()
        elif fault == "short":
            self._say(b'HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"id": 1')
            self._end(self.wire.cut)
        elif self.headed:
            event = bodies.death_event() if fault == "death" else data(bodies.error("it failed", "E", None, 500))
            self._say(b"".join(map(_chunk, (event, DONE))) + b"0\r\n\r\n")
            self._end()
        else:
            status, why = REFUSALS[fault]
            self._respond(status, bodies.dumps(bodies.error(why, "Error", None, status)))

    def _open(self) -> None:
        self.headed = True
        self._say(STREAM)
        self._event(data({"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}))

    def _event(self, event: bytes) -> None:
        self.shown += event
        self._say(_chunk(event))

    def _close(self, reason: str) -> None:
        last = {"choices": [{"delta": {"content": ""}, "finish_reason": reason}]}
        self._event(data(last))
        usage = data({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": self.words}})
        self.shown += DONE
        self._say(_chunk(usage) + _chunk(DONE) + b"0\r\n\r\n")
        self._end()

    def _answer(self, reason: str) -> dict[str, Any]:
        choice = {"message": {"role": "assistant", "content": self._word()}, "finish_reason": reason}
        return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": self.words}}

    def _respond(self, status: int, body: bytes) -> None:
        self._say(f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        self._end()

    def _word(self) -> str:
        """A word that no other answer has."""
        self.words += 1
        return f"{self.request}-{self.engine.name}-{self.words} "

    def _say(self, data: bytes) -> None:
        self.wire.say(data, self)

    def _end(self, last: Callable[[], None] = lambda: None) -> None:
        last()
        self.over = True


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass(eq=False)
class Engine:
    """One engine: whether it takes connections, and the requests that it has got, the oldest first.

    `waiting` is how many wait in it, as it says of itself.
    """

    name: str
    clock: Callable[[], float]
    door: Gate = "open"
    waiting: int = 0
    wires: list[Wire] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    knocks: list[float] = field(default_factory=list)

    @property
    def running(self) -> list[Job]:
        return [job for job in self.jobs if not job.over]

    async def knocked(self, never: "asyncio.Future[None]") -> None:
        """Somebody waits for a connection, since the times in `knocks`."""
        since = self.clock()
        self.knocks.append(since)
        try:
            await never
        finally:
            self.knocks.remove(since)

    def hear(self, wire: Wire, head: str, body: bytes) -> None:
        """A request has come."""
        if head.startswith("GET "):
            page = bodies.metrics(self.name, len(self.running), self.waiting, dict.fromkeys(TOTALS, 0))
            wire.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(page) + page)
            return
        request = next(line for line in head.split("\r\n") if line.startswith("x-request-id: "))
        streamed = json.loads(body).get("stream", False)
        job = Job(self, wire, request.removeprefix("x-request-id: "), streamed, self.clock())
        job.fault = "reset" if wire.broken else None
        self.jobs.append(job)

    def lose(self, wire: Wire) -> None:
        """A connection is closed, and what was to be said on it need not be said."""
        self.wires.remove(wire)
        for job in self.jobs:
            if job.wire is wire:
                job.over = True

    def die(self) -> None:
        """Ends at once."""
        self.door = "closed"
        for job in self.running:
            job.fault = "reset"
        for wire in self.wires:
            wire.cut()


TOTALS = ("prompt", "said", "stop", "length", "abort", "error", "repetition", "max_num_queued_reqs",
          "max_num_queued_tokens")  # fmt: skip
