"""The life of one request, told once: read, resolve, admit, pick, send, stream, record."""

import json
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass

from service.admission import Admission
from service.asgi import JSON, Headers, Receive, Send, UntilGone, respond
from service.catalog import Catalog
from service.errors import ApiError, anthropic_body, openai_body, too_slow, unavailable, upstream_failed
from service.fleet import Fleet, Served
from service.policies import POLICIES
from service.protocol import answers
from service.protocol.answers import BrokenAnswerError
from service.protocol.edits import edits, ends
from service.protocol.generation import Endpoint
from service.protocol.requests import Body, edited, read
from service.protocol.streams import BrokenStreamError, Dialect, Watch
from service.records import Record
from service.router import Target, resolve
from service.settings import Settings
from service.transport import DeadlineError, Deadlines, Exchange, Transport, TransportError, post
from service.upstreams import Replica, Upstreams

EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")
LARGEST_ANSWER = 64 * 2**20
RETRY_AFTER_LOADING = 10.0


class UnansweredError(Exception):
    """A replica failed before any of its answer had reached the client, so another one may be asked.

    `answer` is what the client gets where there is no other.
    """

    def __init__(self, answer: ApiError) -> None:
        super().__init__()
        self.answer = answer


@dataclass(frozen=True)
class Call:
    """One request on its way: what was asked, where it goes, and the bytes that an engine gets.

    `hidden` takes out of whole events, or a whole answer, what the client should not see of it.
    """

    request: Body
    dialect: Dialect
    target: Target
    record: Record
    wire: bytes
    hidden: Callable[[bytes], bytes]


@dataclass
class Reply:
    """An answer that has begun: where it comes from, and the part of it that is here already."""

    replica: Replica
    exchange: Exchange
    first: bytes
    watch: Watch | None


class Relay:
    """Answers generation requests from the fleet's replicas."""

    def __init__(
        self,
        fleet: Fleet,
        catalog: Catalog,
        upstreams: Upstreams,
        admission: Admission,
        transport: Transport,
        settings: Settings,
        clock: Callable[[], float],
    ) -> None:
        self._fleet, self._catalog, self._upstreams = fleet, catalog, upstreams
        self._admission, self._transport, self._clock = admission, transport, clock
        connect, first, idle, total = (
            settings.connect_timeout,
            settings.first_byte_timeout,
            settings.idle_timeout,
            settings.total_timeout,
        )
        self._streamed = Deadlines(connect, first, idle, total)
        self._whole = Deadlines(connect, total, idle, total)

    async def answer(self, endpoint: Endpoint, body: bytes, record: Record, receive: Receive, send: Send) -> None:
        """Answers one request; raises ApiError where nothing has been sent yet."""
        request = read(endpoint.body, body, self._fleet.extra_fields)
        record.requested, record.streamed = request.model, bool(request.stream)
        target = self.resolve(request, endpoint)
        _note_target(record, target)
        model, dialect = target.served.model, endpoint.dialect
        payload = edited(body, edits(request, target.name, model, dialect))
        wire = post(endpoint.path, payload, (("x-request-id", record.request_id),))
        call = Call(request, dialect, target, record, wire, ends(request, model).hidden(dialect))
        async with UntilGone(receive), AsyncExitStack() as stack:
            stack.enter_context(self._admission.enter(target.served))
            record.admitted = self._clock()
            reply = await self._begin(call, stack)
            headers = _headers(target, reply.replica, record)
            if reply.watch:
                await self._stream(call, reply, reply.watch, headers, send)
            else:
                await respond(send, 200, reply.first, (JSON, *headers))
            self._admission.ended(target.served, self._clock() - record.started)

    def resolve(self, request: Body, endpoint: Endpoint) -> Target:
        """Which served model the request goes to, and why; raises the 404 or 400 that says why none."""
        return resolve(request.model, endpoint.need(request), self._fleet, self._catalog)

    async def _begin(self, call: Call, stack: AsyncExitStack) -> Reply:
        """Asks a replica, and once more another one if the first fails before its answer began."""
        served, tried = call.target.served, list[Replica]()
        while True:
            replica = self._pick(served, tried)
            call.record.attempts += 1
            call.record.replica = replica.id
            with ExitStack() as attempt:
                replica.in_flight += 1
                attempt.callback(_leave, replica)
                try:
                    reply = await self._ask(call, replica, attempt)
                except DeadlineError as error:
                    self._upstreams.failed(replica)
                    raise too_slow(f"The engine of '{served.id}' did not answer: {error}.") from None
                except UnansweredError as error:
                    tried.append(replica)
                    if len(tried) > 1 or not self._others(served, tried):
                        raise error.answer from None
                    call.record.forget()
                    continue
                stack.enter_context(attempt.pop_all())
                return reply

    async def _ask(self, call: Call, replica: Replica, stack: ExitStack) -> Reply:
        """One attempt: sends the request and waits until an answer has really begun."""
        served = call.target.served
        try:
            deadlines = self._streamed if call.record.streamed else self._whole
            exchange = await self._transport.send(replica.address, call.wire, deadlines)
            stack.callback(self._transport.release, replica.address, exchange)
            status = await exchange.head()
            if status != 200:
                body = await exchange.read_all(LARGEST_ANSWER)
                if status == 503 or b"after shutdown" in body:
                    raise UnansweredError(answers.refusal(503, body, served))
                raise answers.refusal(status, body, served)
            if call.record.streamed:
                watch = Watch(call.record, call.dialect, hide_usage=not call.request.wants_usage)
                reply = Reply(replica, exchange, await self._first_events(call, exchange, watch), watch)
            else:
                body = call.hidden(await exchange.read_all(LARGEST_ANSWER))
                answers.note(call.record, body)
                reply = Reply(replica, exchange, body, None)
        except DeadlineError:
            raise
        except TransportError as error:
            self._upstreams.failed(replica)
            raise UnansweredError(upstream_failed(f"The engine of '{served.id}' failed: {error}.")) from None
        except (BrokenStreamError, BrokenAnswerError) as error:
            why = str(error) or "it broke off its answer"
            raise UnansweredError(upstream_failed(f"The engine of '{served.id}' failed: {why}.")) from None
        replica.failures = 0
        return reply

    async def _first_events(self, call: Call, exchange: Exchange, watch: Watch) -> bytes:
        """Waits for the stream's first output: until then the status can still become an error."""
        events = b""
        while not watch.begun:
            data = await exchange.read()
            if not data:
                raise BrokenAnswerError("it ended its answer before it began")
            events += call.hidden(watch.feed(data, self._clock()))
        return events

    async def _stream(self, call: Call, reply: Reply, watch: Watch, headers: Headers, send: Send) -> None:
        """Passes the stream on. From here on the status is sent, so what fails becomes one error event."""
        start = [EVENT_STREAM, (b"cache-control", b"no-cache"), *headers]
        await send({"type": "http.response.start", "status": 200, "headers": start})
        try:
            data = reply.first
            while True:
                if data:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                raw = await reply.exchange.read()
                if not raw:
                    break
                data = call.hidden(watch.feed(raw, self._clock()))
            if not watch.finished:
                raise BrokenStreamError
        except (TransportError, BrokenStreamError) as error:
            reply.exchange.close()
            if not watch.finished:
                await self._break_off(call, reply.replica, error, send)
        await send({"type": "http.response.body", "body": b""})

    async def _break_off(
        self, call: Call, replica: Replica, error: TransportError | BrokenStreamError, send: Send
    ) -> None:
        """Tells the client that its stream ends here."""
        failure = upstream_failed("The engine broke off the answer. What came before this event is incomplete.")
        passed = b""
        if isinstance(error, BrokenStreamError):
            passed = error.passed
        else:
            self._upstreams.failed(replica)
        if isinstance(error, DeadlineError):
            failure = too_slow(f"The engine was too slow: {error}.")
        call.record.outcome, call.record.code = "failed", failure.code
        event = passed + error_event(failure, call.dialect)
        await send({"type": "http.response.body", "body": event, "more_body": True})

    def _pick(self, served: Served, tried: list[Replica]) -> Replica:
        upstream = self._upstreams[served.id]
        candidates = self._others(served, tried)
        if not candidates:
            condition, reason = upstream.condition()
            if condition == "ready":
                raise unavailable(f"No replica of '{served.id}' answers at present.", "model_unavailable", 1.0)
            code = "model_loading" if condition in ("starting", "waiting") else "model_unavailable"
            why = f" ({reason})" if reason and condition != "failed" else ""
            see = f"; GET /v1/models/{served.id} says why" if condition == "failed" else ""
            message = f"'{served.id}' is not ready: {condition}{why}{see}."
            raise unavailable(message, code, RETRY_AFTER_LOADING)
        upstream.turn += 1
        return POLICIES[served.policy](candidates, upstream.turn)

    def _others(self, served: Served, tried: list[Replica]) -> list[Replica]:
        usable = self._upstreams[served.id].usable(self._clock())
        return [replica for replica in usable if replica not in tried]


def error_event(error: ApiError, dialect: Dialect) -> bytes:
    """The one event that ends a broken stream, in the dialect of its endpoint."""
    if dialect == "openai":
        return b"data: " + openai_body(error) + b"\n\n"
    if dialect == "messages":
        return b"event: error\ndata: " + anthropic_body(error) + b"\n\n"
    fields = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
    return b"event: error\ndata: " + json.dumps(fields).encode() + b"\n\n"


def _headers(target: Target, replica: Replica, record: Record) -> list[tuple[bytes, bytes]]:
    return [
        (b"x-roundhouse-model", target.name.encode()),
        (b"x-roundhouse-replica", replica.id.encode()),
        (b"x-roundhouse-route", record.route.encode()),
    ]


def _note_target(record: Record, target: Target) -> None:
    served = target.served
    record.model, record.variant, record.family, record.route = target.name, served.variant, served.family, target.why


def _leave(replica: Replica) -> None:
    replica.in_flight -= 1
