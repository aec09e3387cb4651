"""A running gateway for tests: the real app on a real socket, with fake engines behind it."""

import asyncio
import json
import logging
import math
import re
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import httpx

from service.auth.keys import Keys
from service.config.settings import Settings
from service.engine import demand, state
from service.engine.state import Condition, EngineState
from service.gateway import app
from service.gateway.lifespan import with_lifespan
from service.observability.log_lines import text_of
from service.observability.log_writer import LogWriter
from service.observability.trace_settings import TraceSettings
from service.relay.call import RequestTimeouts
from service.server.asgi import EXTENSION, Headers, Message, Receive, Scope, Send, ServerExtension
from service.transport import exchange
from service.transport.pool import ConnectionPool, Exchange
from service.upstreams.replica import Replica
from tests.fake_engine import FakeEngine, Seen, Verdicts
from tests.support import fleets, ledger
from tests.support.ledger import Given
from tests.support.servers import serving
from tests.support.waiting import PATIENCE, until

ONE = "models: [{model: pebble-chat}]"
TWO = "models: [{model: pebble-chat, min_replicas: 2, policy: round_robin}]"  # a sample of load is up to a second old
HOUSE = """
models:
  - model: pebble-chat
  - model: pebble-instruct
  - model: pebble-code
  - model: pebble-base
  - {model: acme/tiny-embedding, id: embedder}
aliases: {gpt-4o-mini: pebble-chat}
"""


@dataclass
class Answer:
    """A raw answer. `whole` says whether it came to its end; `body` is without its framing."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def answer_of(raw: bytes) -> Answer:
    """What the bytes of one answer mean, as far as they go."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    first, *rows = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (row.partition(": ") for row in rows)}
    status = int(first.split(" ")[1])
    if headers.get("transfer-encoding") != "chunked":
        return Answer(status, headers, rest, len(rest) == int(headers.get("content-length", 0)))
    chunks = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        if size == b"0":
            return Answer(status, headers, chunks, True)
        # A chunk that broke off still brought its bytes.
        count = int(size, 16) if size.strip(b"0123456789abcdef") == b"" and size else 0
        chunks, rest = chunks + rest[:count], rest[count + 2 :]
    return Answer(status, headers, chunks, False)


class Line:
    """A connection to the gateway on which a test sees, and chooses, every byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def post(self, path: str, body: bytes, *headers: str) -> None:
        rows = [f"POST {path} HTTP/1.1", "host: test", "content-type: application/json", *headers]
        if not any(row.lower().startswith(("content-length", "transfer-encoding")) for row in headers):
            rows.append(f"content-length: {len(body)}")
        await self.send("\r\n".join([*rows, "", ""]).encode() + body)

    async def read_until(self, mark: bytes) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(mark)

    async def rest(self) -> bytes:
        """All that comes until the gateway closes the connection."""
        async with asyncio.timeout(PATIENCE):
            data = await self.reader.read()
            self.writer.close()
            await self.writer.wait_closed()
        return data

    async def answer(self) -> Answer:
        """The answer to a request with `connection: close`."""
        return answer_of(await self.rest())

    def leave(self) -> None:
        self.writer.transport.abort()


class Errors(logging.Handler):
    """Keeps what was logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


# What lasts as long as an engine, a connection to one or one that waits for a request, or the gateway itself.
LASTING = (
    "FakeEngine._serve", "FaultProxy.", "Upstreams._attend", "Upstreams._discover", "keep_running",
    "ConnectionTask.__await__",
)  # fmt: skip
REQUEST_ID = re.compile(rb"\r\nx-request-id: (\w+)\r\n")


@dataclass
class RunningGateway:
    """A gateway on `port` of 127.0.0.1. `engines` are its fake engines in starting order; `http` is a client of it."""

    gateway: app.Gateway
    port: int
    http: httpx.AsyncClient
    engines: list[FakeEngine]
    run_dir: Path
    output: list[str]
    errors: Errors
    given: list[Given] = field(default_factory=list)
    before: set["asyncio.Task[Any]"] = field(default_factory=set)
    here: int = 0  # so many of the engines, the first ones, are connected to by their own sockets
    most: Counter[str] = field(default_factory=Counter)  # the largest bounds that held so far
    unsent: list[str] = field(default_factory=list)  # the requests whose attempts got no connection
    exchange: Exchange | None = None  # the last one with an engine
    lines_open: list[Line] = field(default_factory=list)
    expected_errors: int = 0  # lines in the log of errors, each of a stream without an end
    expected_broken: int = 0  # more streams without an end
    expected_unseen: int | None = 0  # attempts that got a connection and reached no engine; None for any number

    @property
    def started(self) -> int:
        """How many requests the gateway has got."""
        return len(self.given)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What the gateway logged, a line for each request that has ended."""
        return [line for line in map(json.loads, self.output) if line["event"] == "request"]

    @property
    def invalid(self) -> list[dict[str, Any]]:
        """What the gateway logged of input that is no request."""
        return [line for line in map(json.loads, self.output) if line["event"] == "invalid_request"]

    @property
    def seen(self) -> list[Seen]:
        """The requests that engines got, all of them together; what the gateway asks for itself is none."""
        return [seen for engine in self.engines for seen in engine.requests if ledger.asked_by(seen)]

    @property
    def replicas(self) -> list[Replica]:
        return [one for upstream in self.gateway.upstreams for one in upstream.replicas]

    def clock(self) -> float:
        return time.monotonic()

    def queued(self) -> int:
        """How many requests wait for a place."""
        return sum(self.gateway.admission.queued(upstream.served.id) for upstream in self.gateway.upstreams)

    def wanted(self) -> list[int]:
        """The engines on demand that this gateway asks for, by their number."""
        return [order for order in range(len(self.engines)) if demand.wanted(self.run_dir, order)]

    async def connect(self, buffer: int = 0) -> Line:
        """A new connection; what the client's kernel holds of an answer can be limited to a `buffer` of some bytes."""
        client = socket.socket()
        if buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self.port))
        self.lines_open.append(Line(*await asyncio.open_connection(sock=client)))
        return self.lines_open[-1]

    async def post(self, path: str, body: Any) -> httpx.Response:
        return await self.http.post(path, json=body)

    async def post_in_vain(self, path: str, body: Any, headers: dict[str, str] | None = None) -> httpx.Response:
        """The last answer to a request that is sent until an engine has seen it.

        It is for a request whose time is to end at an engine, and ends before where the machine stands still.
        """
        before = len(self.seen)
        response = await self.http.post(path, json=body, headers=headers)
        while len(self.seen) == before:
            response = await self.http.post(path, json=body, headers=headers)
        return response

    def limit(self, **limits: float) -> None:
        """Gives the requests from now on other limits than the settings have; none for those of the settings."""
        settings, relay = self.gateway._settings.model_copy(update=limits), self.gateway._relay
        served = (upstream.served for upstream in self.gateway.upstreams)
        relay.preparation._timeouts = {one.id: RequestTimeouts.of(one, settings) for one in served}

    def show(
        self, order: int, condition: Condition, phase: str = "", reason: str | None = None,
        adapters: dict[str, str | None] | None = None,
    ) -> None:  # fmt: skip
        """Lets engine `order` say that about itself, and the gateway see it."""
        replica = self.replicas[order]
        model = replica.id.rpartition("-")[0]
        loaded = adapters if adapters is not None else replica.state.adapters if replica.state else {}
        state.write(self.run_dir, EngineState(replica.id, model, order, condition, phase, reason, adapters=loaded))
        self.gateway.upstreams.refresh()
        self.gateway.admission.wake_waiters()

    def sample(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that bear the labels."""
        self.gateway.render_metrics()
        return sum(
            sample.value
            for family in self.gateway.metrics.registry.restricted_registry([name]).collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def in_flight(self) -> float:
        at_engines = sum(replica.in_flight for replica in self.replicas)
        return self.sample("roundhouse_requests_in_flight") + self.sample("roundhouse_requests_queued") + at_engines

    def leftovers(self) -> list[str]:
        """The tasks that requests left behind; a connection that waits for its next request is none."""
        tasks = asyncio.all_tasks() - self.before - {asyncio.current_task()}
        names = [f"{task.get_coro()}, in {getattr(task.get_coro(), 'cr_await', None)}" for task in tasks]
        return [name for name in names if not any(word in name for word in LASTING)]

    def kept(self) -> str:
        """What the gateway still holds of requests, beside what `in_flight` counts."""
        relay, pools = self.gateway._relay, self.gateway.admission._pools.values()
        asking, cache = relay._dispatcher, relay._idempotency
        counts = {
            "answers": len(relay._running),
            "exchanges": asking._in_flight,
            "retries": asking._retry_budget.running,
            "running keys": len(cache._running),
            "cached bytes": cache.size - sum(one.size for one in cache._cached.values()),
            "slots": sum(abs(one.held) + abs(one.unassigned) + len(one.queued) for one in pools),
            "limiters": sum(one.in_flight for one in self.gateway.admission._limiter._limiters.values()),
            # Each connection that an engine sees is one that the gateway may use again.
            "connections": sum(engine.connections for engine in self.engines[: self.here]) - self.pooled(),
        }
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)

    def pooled(self) -> int:
        """The connections to engines here that carry nothing at the moment."""
        sockets = (str(state.socket_path(self.run_dir, order)) for order in range(self.here))
        return sum(map(self.gateway.transport.idle, sockets))

    def look(self) -> None:
        """Checks the bounds that hold at any moment; what a new fleet lowered may still be exceeded for a while."""
        for upstream in self.gateway.upstreams:
            served, admission = upstream.served, self.gateway.admission
            model, places = served.id, served.max_in_flight * len(upstream.replicas)
            self.most[model] = max(self.most[model], places)
            self.most[f"{model} queued"] = max(self.most[f"{model} queued"], served.max_queued)
            assert admission.load(model) <= self.most[model]
            assert admission.queued(model) <= self.most[f"{model} queued"]
            assert all(replica.in_flight >= 0 for replica in upstream.replicas)
            assert sum(replica.in_flight for replica in upstream.replicas) <= admission.sequences(model)

    async def settle(self) -> None:
        """Waits until every request has ended, and checks what must then hold, whatever happened to them."""
        await until(lambda: len(self.lines) == self.started, "the end of every request")
        await until(lambda: self.in_flight() == 0, "the release of every place")
        await until(lambda: not self.leftovers(), f"the end of {self.leftovers()}")
        await until(lambda: not self.kept(), f"the end of {self.kept()}")
        self.look()
        lines = self.lines
        ledger.check(self.given, lines, self.seen, broken=self.expected_errors + self.expected_broken)
        unseen = ledger.unseen(lines, self.seen)
        unsent = sum((Counter(self.unsent) & unseen).values())
        if self.expected_unseen is not None:
            assert sum(unseen.values()) == unsent + self.expected_unseen, unseen
        for outcome, count in Counter(line["outcome"] for line in lines).items():
            assert outcome in ("complete", "refused", "failed", "cancelled")
            assert self.sample("roundhouse_requests_total", outcome=outcome) == count
        assert self.sample("roundhouse_requests_total") == self.started
        assert self.sample("roundhouse_request_duration_seconds_count") == self.started
        assert self.sample("roundhouse_errors_total") == sum(line["code"] is not None for line in lines)
        assert self.sample("roundhouse_retries_total") == sum(max(0, line["attempts"] - 1) for line in lines)
        for kind in ("prompt", "completion"):
            assert self.sample("roundhouse_tokens_total", kind=kind) == sum(line[f"{kind}_tokens"] for line in lines)
        for line in lines:
            assert (line["outcome"] in ("refused", "failed")) == (line["code"] is not None), line
            assert line["status"], line
            assert line["attempts"] or not line["prompt_tokens"] + line["completion_tokens"], line
            assert line["duration_s"] >= max(line["time_to_admission_s"] or 0, line["ttft_s"] or 0) >= 0, line
        assert len(self.errors.records) == self.expected_errors, [record.getMessage() for record in self.errors.records]


@dataclass
class Witness:
    """What the server can do beside ASGI, and what it was told to send."""

    extra: ServerExtension
    given: Given
    gateway: RunningGateway

    def buffered_body(self) -> bytes | None:
        return self.extra.buffered_body()

    @property
    def extra_headers(self) -> Callable[[int], Headers] | None:
        return self.extra.extra_headers

    @extra_headers.setter
    def extra_headers(self, extra_headers: Callable[[int], Headers] | None) -> None:
        self.extra.extra_headers = extra_headers

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        self.given.take({"type": "http.response.start", "status": status})
        self.given.take({"type": "http.response.body", "body": body})
        self.gateway.look()
        await self.extra.respond(status, headers, body)

    def on_disconnect(self, leave: Callable[[], None] | None) -> None:
        self.extra.on_disconnect(leave)

    def write_now(self, piece: bytes) -> bool:
        self.given.take({"type": "http.response.body", "body": piece, "more_body": True})
        self.gateway.look()
        return self.extra.write_now(piece)

    def chunk_writer(self, on_full: Callable[[], None]) -> Callable[[bytes], object] | None:
        write = self.extra.chunk_writer(on_full)

        def push(chunk: bytes) -> None:
            assert write
            piece = chunk[chunk.index(b"\r\n") + 2 : -2]
            self.given.take({"type": "http.response.body", "body": piece, "more_body": True})
            self.gateway.look()
            write(chunk)

        return push if write else None


@asynccontextmanager
async def running(
    folder: Path, text: str = ONE, *, keys: Keys | None = None, traces: TraceSettings | None = None, **limits: Any
) -> AsyncIterator[RunningGateway]:
    """A gateway for the fleet that `text` describes, every engine of it ready; checked at the end.

    `keys` are the API keys, None where none is asked for; `traces` say how traces are made, None where none are;
    `limits` are settings of the gateway.
    """
    run_dir = folder / "run"
    run_dir.mkdir()
    fleet = fleets.load(folder, text)
    before = sockets()
    async with AsyncExitStack() as stack:
        engines = []
        for order, (served, number) in enumerate(fleet.replicas()):
            engine = FakeEngine(served.id, served.variant)
            engine.agent = Verdicts() if served.variant == "guard" else None
            engine.adapters = {one.id: one.path for one in served.adapters}
            engines.append(await stack.enter_async_context(engine.listen(state.socket_path(run_dir, order))))
            name, loaded = state.replica_id(served.id, number), dict.fromkeys(engine.adapters)
            state.write(run_dir, EngineState(name, served.id, order, "ready", adapters=loaded))
        output: list[str] = []
        stack.enter_context(mock.patch.object(LogWriter, "write", lambda _, line: output.append(text_of(line))))
        # Decoding images takes a process of its own, which starts in a second; tests of that ask for it.
        # Requests of tests name any host; that of a gateway on a loopback address is checked. Each gets a log line.
        # A wait that is estimated while the machine stands still is longer than a request may wait by default.
        usual: dict[str, Any] = {"host": "0.0.0.0", "check_images": False, "log_probes": True}
        usual |= {"connect_timeout": PATIENCE, "queue_timeout": PATIENCE}
        settings = Settings(run_dir=run_dir, **{**usual, **limits})
        gateway = app.Gateway(settings, fleets.CATALOG, fleet, keys=keys, traces=traces)
        gateway.upstreams.refresh()
        application = with_lifespan(gateway)
        errors = Errors()
        logging.getLogger().addHandler(errors)
        stack.callback(logging.getLogger().removeHandler, errors)

        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        # Otherwise the kernel takes megabytes of an answer for a client that reads nothing.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
        port = listener.getsockname()[1]
        # Without `verify` it does not read all the certificates of the system, which takes longer than most tests.
        http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, trust_env=False, verify=False)
        one = RunningGateway(gateway, port, http, engines, run_dir, output, errors, here=len(engines))
        stack.enter_context(mock.patch.object(ConnectionPool, "send", noting(ConnectionPool.send, one)))
        # A request that meets a connection which was idle for long is sent again, and the failure is none: how long one
        # was idle is the machine's doing here.
        stack.enter_context(mock.patch.object(exchange, "STALE_AFTER", math.inf))

        async def witnessed(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await application(scope, receive, send)
                return
            one.given.append(given := Given(scope))

            async def sending(message: Message) -> None:
                given.take(message)
                one.look()
                await send(message)

            scope["extensions"] = {EXTENSION: Witness(scope["extensions"][EXTENSION], given, one)}
            await application(scope, receive, sending)

        protocol = partial(gateway.connection(), gateway_app=None)  # the app that is served: `witnessed`
        await stack.enter_async_context(serving(witnessed, listener, protocol=protocol))
        await stack.enter_async_context(http)
        one.before = asyncio.all_tasks()
        try:
            yield one
            await one.settle()
        finally:
            for line in one.lines_open:
                line.leave()
    await until(lambda: sockets() <= before, "the end of every connection")


def sockets() -> int:
    """How many sockets this process has open."""
    count = 0
    for one in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            count += str(one.readlink()).startswith("socket:")
    return count


def noting(send: Any, one: RunningGateway) -> Any:
    """`ConnectionPool.send`, which takes note of the last exchange, and of the requests that it could not send."""

    async def sending(self: ConnectionPool, address: str, request: bytes, *others: Any) -> Any:
        try:
            one.exchange = await send(self, address, request, *others)
        except BaseException:
            if found := REQUEST_ID.search(request):
                one.unsent.append(found[1].decode())
            raise
        return one.exchange

    return sending
