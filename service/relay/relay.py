"""The life of one request, told once: read, resolve, admit, pick, send, stream, record."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from service.admission.gate import Admission
from service.admission.slots import Slot
from service.auth.tenants import effective_priority, find_tenant
from service.catalog.catalog import Catalog
from service.config.settings import Settings
from service.errors import ApiError, ErrorCode
from service.fleet.fleet import Fleet
from service.observability.record import Record
from service.protocol import request_headers
from service.protocol.generation import Endpoint
from service.protocol.parse_body import parse_body, with_fields
from service.protocol.requests import Body
from service.protocol.rewrites import rewrites, stop_conditions
from service.protocol.streams import BrokenStreamError, Watch
from service.relay.call import Call, RequestTimeouts
from service.relay.dispatch import Dispatcher, Reply
from service.relay.idempotency import IdempotencyCache
from service.relay.refusals import not_ready
from service.relay.response_writer import ResponseWriter
from service.routing.resolve import Target, resolve
from service.server.asgi import CancelOnDisconnect, Headers, Receive, Send, ServerExtension
from service.transport.pool import ConnectionPool, TransportError, post_request
from service.upstreams.replica import Replica
from service.upstreams.upstreams import Upstreams


class Relay:
    """Answers generation requests from the fleet's replicas."""

    def __init__(
        self,
        fleet: Fleet,
        catalog: Catalog,
        upstreams: Upstreams,
        admission: Admission,
        transport: ConnectionPool,
        settings: Settings,
        clock: Callable[[], float],
    ) -> None:
        self._catalog, self._upstreams, self._admission = catalog, upstreams, admission
        self._settings, self._clock = settings, clock
        self._dispatcher = Dispatcher(upstreams, admission, transport, clock)
        self._idempotency = IdempotencyCache(clock)
        self._running: set[asyncio.Task[object]] = set()
        self._ended = False
        self.apply(fleet)

    def apply(self, fleet: Fleet) -> None:
        """Takes a fleet into use; requests on their way go on as they began."""
        self._fleet = fleet
        self._patience = {one.id: RequestTimeouts.of(one, self._settings) for one in fleet.served}

    @property
    def idempotency_cache_bytes(self) -> int:
        """The memory of answers that an `Idempotency-Key` stands for, about."""
        return self._idempotency.size

    def expire(self) -> None:
        """Forgets answers that nobody may ask for again."""
        self._idempotency.expire()

    def end(self) -> None:
        """Breaks off every answer that still runs, with an error that its client sees."""
        self._ended = True
        for task in self._running:
            task.cancel()

    def answer(
        self,
        endpoint: Endpoint,
        body: bytes,
        headers: Headers,
        record: Record,
        receive: Receive,
        send: Send,
        extra: ServerExtension | None = None,
    ) -> Awaitable[None]:
        """Answers one request; raises ApiError, at once or later, where nothing has been sent yet."""
        call = self._call(endpoint, body, headers, record)
        if call.options.idempotency_key is None:
            return self._run(call, receive, send, extra)
        identity = call.tenant.id, call.options.idempotency_key
        run = partial(self._run, call, receive)
        return self._idempotency.answer(identity, call.fingerprint, run, record, send, extra)

    def resolve(self, request: Body, endpoint: Endpoint) -> Target:
        """Which served model the request goes to, and why; raises the 404 or 400 that says why none."""
        return resolve(request.model, endpoint.need(request), self._fleet, self._catalog)

    def _call(self, endpoint: Endpoint, body: bytes, headers: Headers, record: Record) -> Call:
        """Reads a request: what it asks, who asks, and where it goes."""
        asked = request_headers.parse_headers(headers)
        request = parse_body(endpoint.body, body, self._fleet.extra_fields)
        record.requested, record.streamed = request.model, bool(request.stream)
        tenant = find_tenant(self._fleet.tenants, asked.tenant)
        record.tenant = tenant.id
        target = self.resolve(request, endpoint)
        served, dialect = target.served, endpoint.dialect
        record.model, record.variant, record.family = target.name, served.variant, served.family
        record.route_reason = target.reason
        ending = stop_conditions(request, served.model)
        payload = with_fields(body, rewrites(request, target.name, served.model, dialect, ending))
        patience = self._patience[served.id]
        return Call(
            request=request,
            path=endpoint.path,
            dialect=dialect,
            target=target,
            upstream=self._upstreams[served.id],
            tenant=tenant,
            priority=effective_priority(tenant, asked.priority),
            options=asked,
            timeouts=patience,
            record=record,
            body=body,
            wire=post_request(endpoint.path, payload, record.request_id),
            redact_stop_reason=ending.redact_stop_reason(dialect),
            deadline=record.started + min(asked.timeout or patience.whole.total, patience.whole.total),
        )

    async def _run(self, call: Call, receive: Receive, send: Send, extra: ServerExtension | None) -> None:
        """Has the request answered unless its client leaves; what fails within a stream becomes the stream's end."""
        outlet = ResponseWriter(send, call.dialect, extra)
        with CancelOnDisconnect(receive, extra) as client:
            self._running.add(client.task)
            try:
                await self._serve(call, outlet, client)
            except ApiError as error:
                await outlet.fail(error, call.record)
            except asyncio.CancelledError:
                # By `end`, if not by a client that left or a server that stops as well.
                if not self._ended or client.task.uncancel():
                    raise
                stopped = ApiError(ErrorCode.SHUTTING_DOWN, "The service stops.", retry_after=1.0)
                await outlet.fail(stopped, call.record)
            finally:
                self._running.discard(client.task)

    async def _serve(self, call: Call, outlet: ResponseWriter, client: CancelOnDisconnect) -> None:
        self._dispatcher.check(call)
        with self._enter(call) as place:
            if place.is_waiting:
                await self._wait(call, place, outlet)
            call.record.admitted = self._clock()
            try:
                await self._answer(call, place, outlet, client)
            finally:
                place.ended(call.tokens)
            self._dispatcher.completed(call)

    async def _answer(self, call: Call, place: Slot, outlet: ResponseWriter, client: CancelOnDisconnect) -> None:
        """Has a replica answer, and passes the answer on."""
        reply = await self._dispatcher.begin(call, place)
        try:
            headers = _headers(call, reply.replica)
            # A client that takes nothing of its answer is as good as gone.
            reply.exchange.on_client_timeout = client.disconnect
            if reply.watch:
                await self._stream(call, reply, reply.watch, headers, outlet)
            else:
                await outlet.answer(reply.first, headers)
        finally:
            self._dispatcher.end(reply)

    def _enter(self, call: Call) -> Slot:
        """A place for the request, or its place in the queue; raises ApiError where there is no use in waiting."""
        now, upstream = self._clock(), call.upstream
        timeouts = call.timeouts.queue
        if not upstream.usable(now):
            condition, _ = upstream.condition()
            if call.served.min_replicas == 0 and condition != "failed":
                timeouts = call.timeouts.activation
            elif condition != "ready":
                raise not_ready(upstream, now)
        return self._admission.enter(
            call.served,
            call.tenant,
            call.priority,
            call.cost,
            lambda: upstream.capacity(self._clock()),
            now,
            max(0.001, min(timeouts, call.deadline - now)),
        )

    async def _wait(self, call: Call, place: Slot, outlet: ResponseWriter) -> None:
        """Waits until the request is let in; a stream says meanwhile that it waits, and for what."""
        every = call.options.sse_heartbeat_interval or self._settings.sse_heartbeat_interval
        try:
            while not await place.granted(every):
                if call.upstream.condition()[0] == "failed":
                    raise not_ready(call.upstream, self._clock())
                if call.record.streamed:
                    await outlet.comment(self._state(call, place))
        except ApiError:
            if call.upstream.condition()[0] != "ready":
                raise not_ready(call.upstream, self._clock()) from None
            raise

    def _state(self, call: Call, place: Slot) -> str:
        condition, phase = call.upstream.condition()
        if condition == "ready":
            return f"queued at place {place.position}"
        return f"waiting for {call.served.id}: {condition.replace('_', ' ')}{f', {phase}' if phase else ''}"

    async def _stream(self, call: Call, reply: Reply, watch: Watch, headers: Headers, outlet: ResponseWriter) -> None:
        """Passes the stream on. From here on the status is sent, so what fails becomes one error event."""
        feed, redact_stop_reason, write_now, clock = watch.feed, call.redact_stop_reason, outlet.write_now, self._clock

        def take(raw: bytes) -> bool:
            events = redact_stop_reason(feed(raw, clock()))
            return write_now(events) if events else True

        await outlet.open(headers)
        await outlet.pass_on(reply.first)
        try:
            await reply.exchange.stream_to(take, outlet.flush)
            if not watch.finished:
                raise BrokenStreamError
        except (TransportError, BrokenStreamError) as error:
            reply.exchange.close()
            if not watch.finished:
                if isinstance(error, BrokenStreamError) and error.passed:
                    await outlet.pass_on(error.passed)
                raise await self._dispatcher.broke(call, reply, error) from None
        await outlet.close()


def _headers(call: Call, replica: Replica) -> list[tuple[bytes, bytes]]:
    return [
        (b"x-roundhouse-model", call.target.name.encode()),
        (b"x-roundhouse-replica", replica.id.encode()),
        (b"x-roundhouse-route-reason", call.target.reason.encode()),
    ]
