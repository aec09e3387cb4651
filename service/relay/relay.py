"""The life of one generation request, in order: parse, resolve, admit, dispatch, respond."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from functools import partial

from service.admission.gate import Admission
from service.admission.slots import Slot
from service.auth.keys import ANYONE, Caller, Key, caller_of
from service.catalog.catalog import Catalog
from service.config.settings import Settings
from service.errors import ApiError, ErrorCode
from service.fleet.fleet import Fleet
from service.observability.ledger import Ledger
from service.observability.metrics import Metrics
from service.observability.prompt_log import PromptLog, fits
from service.observability.record import Record
from service.protocol.generation import Endpoint
from service.protocol.parse_body import Parsed
from service.protocol.request_headers import RequestOptions
from service.protocol.requests import ResponsesRequest
from service.protocol.streams import BrokenStreamError, StreamWatcher
from service.relay.answer_headers import answer_headers
from service.relay.call import Call
from service.relay.dispatch import Dispatcher
from service.relay.entrance import Entrance
from service.relay.guard_models import GuardModels
from service.relay.guarding import Guarding
from service.relay.idempotency import IdempotencyCache
from service.relay.moderations import Moderations
from service.relay.preparation import Preparation
from service.relay.request_shapes import Shape, shape
from service.relay.response_writer import ResponseWriter
from service.relay.screening import Screening
from service.relay.stored import StoredResponses, Storing
from service.relay.tee import Tee, logged
from service.relay.upstream_response import UpstreamResponse
from service.routing.prefix_key import key as prefix_key_of
from service.server.asgi import CancelOnDisconnect, Headers, Receive, Send, ServerExtension
from service.transport.pool import ConnectionPool, TransportError
from service.upstreams.upstreams import Upstreams


class Relay:
    """Serves generation requests from the fleet's replicas."""

    def __init__(
        self,
        fleet: Fleet,
        catalog: Catalog,
        upstreams: Upstreams,
        admission: Admission,
        transport: ConnectionPool,
        settings: Settings,
        clock: Callable[[], float],
        stored: StoredResponses | None = None,
        screening: Screening | None = None,
        prompt_log: PromptLog | None = None,
        metrics: Metrics | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self._catalog, self._upstreams = catalog, upstreams
        self._entrance = Entrance(admission, settings.sse_heartbeat_interval, clock)
        self._settings, self._clock, self._prompt_log, self._ledger = settings, clock, prompt_log, ledger
        self._secret = settings.cache_secret.get_secret_value().encode() or secrets.token_bytes(32)
        self._dispatcher = Dispatcher(upstreams, admission, transport, settings.max_response_bytes, clock)
        self._idempotency = IdempotencyCache(clock)
        self._screening = screening or Screening(None, decodes_images=False)
        self._stored = stored or StoredResponses(None, settings.max_body_bytes)
        guards = GuardModels(
            self._dispatcher, self._entrance.enter, lambda: self.preparation, metrics or Metrics(), clock, ledger
        )
        judge = guards.judge(transport, settings.guardrail_keys_by_name)
        self._guarding = Guarding(judge, clock)
        self.moderations = Moderations(judge, lambda: self.preparation, settings.total_timeout)
        self._running: dict[asyncio.Task[object], Call] = {}
        self._ended = False
        self.apply(fleet)

    def apply(self, fleet: Fleet) -> None:
        """Applies a reloaded fleet to new requests; running ones are unaffected."""
        self.preparation = Preparation(fleet, self._catalog, self._upstreams, self._settings, self._secret)

    @property
    def idempotency_cache_bytes(self) -> int:
        """Approximate memory of the idempotency cache, in bytes."""
        return self._idempotency.size

    def expire(self) -> None:
        """Evicts expired responses from the idempotency cache."""
        self._idempotency.expire()

    def end(self) -> None:
        """Cancels every running request; its client gets the error `shutting_down`."""
        self._ended = True
        for task in self._running:
            task.cancel()

    def shapes_at(self, replica: str) -> list[Shape]:
        """The shapes of the requests that are at the replica with this id, or have just failed there."""
        now = self._clock()
        running = [shape(call, now) for call in self._running.values() if call.record.replica == replica]
        return running + self._dispatcher.failed.recent(replica, now)

    def answer(
        self, endpoint: Endpoint, body: bytes, options: RequestOptions, record: Record,
        receive: Receive, send: Send, extra: ServerExtension | None = None, key: Key = ANYONE,
    ) -> Awaitable[None]:  # fmt: skip
        """Serves one request with this key. Raises ApiError, at once or when awaited, if nothing has been sent yet."""
        parsed = self.preparation.parse(endpoint, body)
        record.requested, record.streamed = parsed.request.model, bool(parsed.request.stream) and endpoint.streams
        caller = caller_of(key, options.tenant, self.preparation.fleet.tenants)
        record.tenant, record.key = caller.tenant.id, key.id
        if caller.tenant.log_prompts and self._prompt_log:
            tee = Tee(send, extra, fits)
            serving = self._serve(endpoint, body, parsed, options, caller, record, receive, tee.send, tee.extra)
            return logged(self._prompt_log, serving, record, body, tee)
        return self._serve(endpoint, body, parsed, options, caller, record, receive, send, extra)

    def _serve(
        self, endpoint: Endpoint, body: bytes, parsed: Parsed, options: RequestOptions, caller: Caller, record: Record,
        receive: Receive, send: Send, extra: ServerExtension | None,
    ) -> Awaitable[None]:  # fmt: skip
        """Serves one request of a caller who is known."""
        request = parsed.request
        if endpoint.dialect == "responses" and isinstance(request, ResponsesRequest) and self._stored.concerns(request):
            return self._answer_stored(endpoint, body, request, options, caller, record, receive, send, extra)
        return self._begin(self.preparation.call(endpoint, body, parsed, options, caller, record), receive, send, extra)

    async def _answer_stored(
        self, endpoint: Endpoint, body: bytes, request: ResponsesRequest, options: RequestOptions, caller: Caller,
        record: Record, receive: Receive, send: Send, extra: ServerExtension | None,
    ) -> None:  # fmt: skip
        """Serves a request of the Responses API that continues a stored conversation, or is to be stored itself."""
        tenant = caller.tenant.id
        continuation = await self._stored.load(tenant, request, body)
        parsed = self.preparation.parse(endpoint, continuation.body)
        prefix_key = None if options.session else continuation.prefix_key
        prefix_key = prefix_key or prefix_key_of(parsed.request, tenant, options.session, options.conversation)
        call = self.preparation.call(endpoint, continuation.body, parsed, options, caller, record, prefix_key)
        call.storing = self._stored.storing(tenant, continuation, prefix_key)
        await self._begin(call, receive, send, extra)

    def _begin(self, call: Call, receive: Receive, send: Send, extra: ServerExtension | None) -> Awaitable[None]:
        if call.options.idempotency_key is None:
            return self._run(call, receive, send, extra)
        identity = call.tenant.id, call.options.idempotency_key
        run = partial(self._run, call, receive)
        return self._idempotency.answer(identity, call.fingerprint, run, call.record, send, extra)

    async def _run(self, call: Call, receive: Receive, send: Send, extra: ServerExtension | None) -> None:
        """Processes the request until its client disconnects; an error within a stream ends it with an error event."""
        writer = ResponseWriter(send, call.dialect, extra)
        with CancelOnDisconnect(receive, extra) as client:
            self._running[client.task] = call
            try:
                await self._process(call, writer, client)
            except ApiError as error:
                await self._fail(call, writer, error)
            except asyncio.CancelledError:
                cancelled = call.storing is not None and call.storing.cancelled
                # Cancelled by `end` or by name, unless the client's disconnect or the server has cancelled it too.
                if not (self._ended or cancelled) or client.task.uncancel():
                    raise
                if cancelled:
                    call.record.outcome = "cancelled"
                    return
                stopped = ApiError(ErrorCode.SHUTTING_DOWN, "The service is shutting down.", retry_after=1.0)
                await self._fail(call, writer, stopped)
            finally:
                self._running.pop(client.task, None)
                if call.storing:
                    self._stored.release(call.storing)

    async def _fail(self, call: Call, writer: ResponseWriter, error: ApiError) -> None:
        if call.storing:
            await call.storing.fail(error)
        await writer.fail(error, call.record)

    async def _process(self, call: Call, writer: ResponseWriter, client: CancelOnDisconnect) -> None:
        self._dispatcher.check(call)
        if call.images or call.constraints:
            await self._screening.screen(call, self.preparation.fleet)
        slot: Slot | None = None
        while True:
            try:
                slot = await self._entrance.enter(call, slot)
                return await self._process_at(call, slot, writer, client)
            except ApiError as error:
                if call.fall_back is None:
                    raise
                call = self._running[client.task] = call.fall_back(call, error)
            self._dispatcher.check(call)

    async def _process_at(self, call: Call, slot: Slot, writer: ResponseWriter, client: CancelOnDisconnect) -> None:
        """Processes the request at the model that it was resolved to, or at one that answers in its place."""
        response: UpstreamResponse | None = None
        clock = self._clock
        with slot:
            if slot.ticket or call.storing or call.record.fallback or call.served.guardrails.input:
                await self._await_turn(call, slot, writer, client)
            call.record.admitted = clock()
            if call.storing:
                await call.storing.start()
            if self._ledger and call.sequences:
                self._ledger.begin(call.record, call.prompt_estimate, call.output_estimate)
            gpu_time = call.upstream.gpu_time
            entered = gpu_time.change(1, clock())
            try:
                response = await self._dispatcher.dispatch(call, slot)
                if call.fall_back:
                    call.fall_back = None  # nothing of it is answered by two
                await self._respond(call, response, slot, writer, client)
            finally:
                if response:
                    self._dispatcher.finish(response)
                now = clock()
                call.report_usage(slot, now)
                call.add_gpu_time(gpu_time.change(-1, now) - entered)
            self._dispatcher.completed(call)

    async def _await_turn(self, call: Call, slot: Slot, writer: ResponseWriter, client: CancelOnDisconnect) -> None:
        """What some requests wait for before they are sent to an engine; most are admitted at once."""
        if call.record.fallback and writer.started and call.record.streamed:  # its headers have been sent
            await writer.comment(f"{call.target.name} answers, because of {call.target.reason}")
        if call.served.guardrails.input:
            await self._guarding.check_request(call)
        if call.storing and call.storing.background and not call.storing.begun:
            await self._detach(call, call.storing, slot, writer, client)
        if slot.ticket and slot.is_queued:
            if call.record.trace:
                call.record.trace.queued = self._clock()
            await self._entrance.wait(call, slot, writer)

    async def _detach(
        self, call: Call, storing: Storing, slot: Slot, writer: ResponseWriter, client: CancelOnDisconnect
    ) -> None:
        """Stores that the request runs, and tells its client so; from now on it runs without one."""
        client.detach()
        self._stored.register(storing, client.task.cancel)
        body = await storing.begin(call.target.name, slot.is_queued)
        await writer.respond_early(body, answer_headers(call, None, slot.budgets()))

    def _respond(
        self, call: Call, response: UpstreamResponse, slot: Slot, writer: ResponseWriter, client: CancelOnDisconnect
    ) -> Awaitable[None]:
        """Sends the response of a replica to the client."""
        headers = answer_headers(call, response.replica, slot.budgets() if slot.charge else ())
        # A client that reads nothing for too long is treated as disconnected.
        response.exchange.on_client_timeout = client.disconnect
        if response.watcher:
            return self._stream(call, response, response.watcher, headers, writer)
        if call.storing or call.served.guardrails.output:
            return self._check_and_store(call, response.buffered, headers, writer)
        return writer.respond(response.buffered, headers)

    async def _check_and_store(self, call: Call, body: bytes, headers: Headers, writer: ResponseWriter) -> None:
        """Sends a whole response that must be judged, or stored, before its client gets it."""
        if self._guarding.judges_response(call):
            await self._guarding.check_response(call, body)
        await writer.respond(await call.storing.finish(body) if call.storing else body, headers)

    async def _stream(
        self, call: Call, response: UpstreamResponse, watcher: StreamWatcher, headers: Headers, writer: ResponseWriter
    ) -> None:
        """Forwards the stream. Its status is sent first, so that from here on an error can only become an event."""
        feed, write_now, clock = watcher.feed, writer.write_now, self._clock
        outgoing = call.outgoing if call.storing else call.redact

        def sink(raw: bytes) -> bool:
            events = outgoing(feed(raw, clock()))
            return write_now(events) if events else True

        last, blocked = b"", False
        try:
            if self._guarding.judges_response(call):
                blocked = await self._guarding.forward(call, response, outgoing, writer, headers)
            else:
                writer.next_sequence_number = watcher.next_sequence_number
                await writer.open(headers)
                await writer.send_events(response.buffered)
                write = None if call.storing else writer.chunk_writer(response.exchange.hold)
                pipe = write and (watcher.take_chunk, write, clock)
                raw = await response.exchange.stream_to(sink, writer.flush, pipe)
                last = outgoing(feed(raw, clock())) if raw else b""
            if not watcher.finished and not blocked:
                raise BrokenStreamError
        except (TransportError, BrokenStreamError) as error:
            response.exchange.close()
            if not watcher.finished:
                if isinstance(error, BrokenStreamError) and (passed := last + error.passed):
                    await writer.send_events(passed)
                raise await self._dispatcher.stream_failed(call, response, error) from None
        if call.storing:
            await writer.send_events(last)
            last = await call.storing.finish_stream()
        await writer.close(last)
