"""Dispatches a request to a replica, and retries it once on another while nothing has reached the client."""

from collections import defaultdict
from collections.abc import Awaitable, Callable

from service.admission.gate import Admission
from service.admission.slots import Slot
from service.errors import ApiError, ErrorCode
from service.observability.record import Trace
from service.protocol import responses
from service.protocol.counted_streams import watch
from service.protocol.known_events import KnownEvents
from service.protocol.requests import EmbeddingsRequest
from service.protocol.responses import InvalidResponseError
from service.protocol.streams import BrokenStreamError, StreamWatcher
from service.relay.call import Call
from service.relay.engine_answers import ErrorTranslator
from service.relay.quarantine import Quarantine
from service.relay.refusals import not_ready
from service.relay.request_shapes import FailedRequests
from service.relay.retry_budget import RetryBudget
from service.relay.upstream_response import UpstreamResponse
from service.routing.policies import POLICIES, PolicyInput
from service.routing.prefix_key import for_adapter, key
from service.transport.pool import (
    ConnectionPool,
    DeadlineError,
    Exchange,
    RefusedError,
    TooLargeError,
    TransportError,
    with_headers,
)
from service.upstreams.replica import Replica
from service.upstreams.upstreams import Upstreams

DEADLINE_MARGIN = 0.01  # seconds; timers end a little early
KEYED_POLICIES = ("prefix_affinity", "power_of_two")  # those that read `PolicyInput.key`; others are spared its cost

Failure = TransportError | BrokenStreamError | InvalidResponseError


class RetryableError(Exception):
    """A replica failed before any of its response had reached the client, so that the request may be retried.

    `error` is what the client gets without a retry. `unprocessed` says that no engine did any work for the request, so
    that a retry adds no load and needs no retry budget.
    """

    def __init__(self, error: ApiError, *, unprocessed: bool = False) -> None:
        super().__init__()
        self.error, self.unprocessed = error, unprocessed


class Dispatcher:
    """Sends requests to replicas and records failures: for ejection, for quarantine, and for the retry budget.

    `failed` remembers the shapes of requests that failed.
    """

    def __init__(
        self,
        upstreams: Upstreams,
        admission: Admission,
        transport: ConnectionPool,
        max_response_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self._upstreams, self._admission, self._transport, self._clock = upstreams, admission, transport, clock
        self._max_response_bytes, self._translator = max_response_bytes, ErrorTranslator(transport, clock)
        self._quarantine, self._retry_budget = Quarantine(clock), RetryBudget()
        self.failed = FailedRequests()
        self._known_events: defaultdict[str, KnownEvents] = defaultdict(KnownEvents)  # by the path of the endpoint
        self._in_flight = 0

    async def dispatch(self, call: Call, slot: Slot) -> UpstreamResponse:
        """Sends the request to a replica, and to a second one if the first fails before its response has begun.

        The response must be given to `finish`. Raises ApiError if there is none.
        """
        first = self._pick(call, None)
        try:
            return await self._attempt(call, slot, first)
        except RetryableError as error:
            self.check(call)  # the crash just seen may be its second one
            unprocessed = error.unprocessed
            others = call.upstream.candidates(self._clock(), first, call.adapter)
            if not others or not (unprocessed or self._retry_budget.acquire(self._in_flight)):
                raise error.error from None
        call.record.reset_attempt()
        try:
            return await self._attempt(call, slot, self._pick(call, first))
        except RetryableError as error:
            raise error.error from None
        finally:
            if not unprocessed:
                self._retry_budget.release()

    def check(self, call: Call) -> None:
        """Raises 422 if two engines have crashed while this request was in flight."""
        if self._quarantine.suspects:
            self._quarantine.check(call.fingerprint)

    def finish(self, response: UpstreamResponse) -> None:
        """Ends the exchange, whether or not the response was read to its end."""
        if response.watcher:
            response.watcher.settle()
        self._transport.release(response.replica.address, response.exchange)
        self._in_flight -= 1
        if response.attempt:
            response.attempt.ended = self._clock()

    async def stream_failed(
        self, call: Call, response: UpstreamResponse, error: TransportError | BrokenStreamError
    ) -> ApiError:
        """Records that a stream failed midway; returns the error that the client gets as an event."""
        await self._record_failure(call, response.replica, response.incarnation, error)
        code = ErrorCode.UPSTREAM_ERROR
        message = "The engine failed during the response. What came before this event is incomplete."
        if isinstance(error, DeadlineError):
            code, message = ErrorCode.TIMEOUT, f"The engine was too slow: {error}."
        if response.attempt:
            response.attempt.code = code
        return ApiError(code, message)

    def completed(self, call: Call) -> None:
        """The response is complete, so the request is no poison, and says how fast the model generates."""
        if call.record.output_times:
            call.measure_rate(call.record.output_times[-1])
        if self._quarantine.suspects:
            self._quarantine.succeeded(call.fingerprint)

    def _pick(self, call: Call, tried: Replica | None) -> Replica:
        candidates = call.upstream.candidates(self._clock(), tried, call.adapter)
        if not candidates:
            raise not_ready(call.upstream, self._clock(), call.adapter)
        if len(candidates) == 1:
            return candidates[0]
        served, upstream = call.served, call.upstream
        upstream.request_count += 1
        return POLICIES[served.policy](candidates, PolicyInput(upstream.request_count, self._affinity_key(call)))

    def _affinity_key(self, call: Call) -> int:
        if call.served.policy not in KEYED_POLICIES:
            return 0
        found = call.prefix_key
        if found is None:
            found = key(call.request, call.tenant.id, call.options.session, call.options.conversation)
        return found if call.adapter is None else for_adapter(found, call.adapter)

    def _attempt(self, call: Call, slot: Slot, replica: Replica) -> Awaitable[UpstreamResponse]:
        """Sends the request to this replica, and waits until its response has begun."""
        trace = call.record.trace
        if trace:
            return self._traced(call, slot, replica, trace)
        return self._send(call, slot, replica, call.upstream_request)

    async def _traced(self, call: Call, slot: Slot, replica: Replica, trace: Trace) -> UpstreamResponse:
        """Sends the request with the headers of its trace, in which this is an exchange of its own."""
        attempt = trace.attempt(call.record, replica.log_name, self._clock())
        try:
            request = with_headers(call.upstream_request, trace.headers(attempt))
            response = await self._send(call, slot, replica, request)
        except (RetryableError, ApiError) as error:
            attempt.code = (error.error if isinstance(error, RetryableError) else error).code
            raise
        finally:
            attempt.ended = self._clock()
        response.attempt = attempt
        return response

    async def _send(self, call: Call, slot: Slot, replica: Replica, request: bytes) -> UpstreamResponse:
        remaining = call.deadline - self._clock()
        if remaining <= 0:  # or the connect timeout would be 0 and count as a failure of the replica
            raise ApiError(ErrorCode.TIMEOUT, "The request timed out before it could be sent to an engine.")
        record, transport, most = call.record, self._transport, self._max_response_bytes
        record.attempts += 1
        record.replica = replica.log_name
        slot.assign(replica)
        self._upstreams.record_request(replica)
        self._in_flight += 1
        exchange: Exchange | None = None
        response: UpstreamResponse | None = None
        incarnation = replica.state.restarts if replica.state else 0
        try:
            exchange = transport.send_now(replica.address, request, call.deadlines, remaining)
            if exchange is None:
                exchange = await transport.send(replica.address, request, call.deadlines, remaining)
            call.sent_at = self._clock()
            while not exchange.status:
                await exchange.arrival()
            if exchange.status != 200:
                await self._raise_for_status(call, replica, incarnation, exchange.status, await exchange.read_all(most))
            watcher: StreamWatcher | None = None
            if record.streamed:
                watcher = watch(
                    record, call.dialect, not call.request.wants_usage, call.counted, self._known_events[call.path]
                )
                body = await self._read_until_output(call, replica, exchange, watcher)
            else:
                body = call.redact(exchange.whole(most) or await exchange.read_all(most))
                responses.record_response(record, body)
                call.measure_rate(self._clock())
            response = UpstreamResponse(replica, exchange, body, watcher, incarnation)
        except (TransportError, BrokenStreamError, InvalidResponseError) as error:
            raise await self._failure(call, replica, incarnation, error) from None
        finally:
            if response is None:
                if exchange is not None:
                    transport.release(replica.address, exchange)
                slot.unassign()
                self._in_flight -= 1
        was_ejected = replica.breaker.ejections > 0
        self._upstreams.record_success(replica)
        if was_ejected:
            self._admission.wake_waiters(call.served.id)  # half-open it took one request, from now on up to its limit
        return response

    async def _failure(
        self, call: Call, replica: Replica, incarnation: int, error: Failure
    ) -> ApiError | RetryableError:
        """Records that the replica failed before its response had begun; returns what is raised for it."""
        if isinstance(error, TooLargeError):
            message = f"The answer of '{call.served.id}' is too large: {error}. Ask for less at a time"
            hint = ", or for 'encoding_format': 'base64'." if isinstance(call.request, EmbeddingsRequest) else "."
            return ApiError(ErrorCode.RESPONSE_TOO_LARGE, message + hint)
        await self._record_failure(call, replica, incarnation, error)
        if isinstance(error, DeadlineError):
            return ApiError(ErrorCode.TIMEOUT, f"The engine of '{call.served.id}' timed out: {error}.")
        why = str(error) or "it broke off its response"
        failure = ApiError(ErrorCode.UPSTREAM_ERROR, f"The engine of '{call.served.id}' failed: {why}.")
        return RetryableError(failure, unprocessed=isinstance(error, RefusedError))

    async def _read_until_output(
        self, call: Call, replica: Replica, exchange: Exchange, watcher: StreamWatcher
    ) -> bytes:
        """Reads up to the first event of output; until then the response can still become an HTTP error."""
        events = b""
        try:
            while True:
                data = await exchange.read()
                if not data:
                    raise InvalidResponseError("it ended the stream before any output")
                events += call.outgoing(watcher.feed(data, self._clock()))
                if watcher.started:
                    return events
        except DeadlineError:
            raise
        except (TransportError, BrokenStreamError) as error:
            exchange.close()
            rejection = await self._translator.of_stream(call, replica, error)
            if rejection:
                raise rejection from None
            raise

    async def _raise_for_status(self, call: Call, replica: Replica, incarnation: int, status: int, body: bytes) -> None:
        """Raises the error for a response with another status than 200."""
        busy = status == 503 or b"after shutdown" in body
        if busy or status < 500:
            call.sent_at = None  # the engine has done nothing for it
        error = await self._translator.translate(call, replica, 503 if busy else status, body)
        if busy:
            if call.sequences > 1:
                error.message += f" It is {call.sequences} sequences for it: fewer at a time may fit earlier."
            raise RetryableError(error, unprocessed=True)
        if status == 404 and call.adapter:
            replica.recheck.set()  # it has lost the adapter, and serves the model and its others all the same
            raise RetryableError(not_ready(call.upstream, self._clock(), call.adapter), unprocessed=True)
        if status >= 500 or status in (401, 403, 404):
            if responses.is_death(body):
                # Its API server lives on for seconds, and answers every later request in the same way.
                self._crashed(call, replica, incarnation)
                raise RetryableError(error)
            self._upstreams.record_failure(replica)
        raise error

    async def _record_failure(self, call: Call, replica: Replica, incarnation: int, error: Exception) -> None:
        """Counts a failure of the replica, and where its engine has crashed also one of the request."""
        if isinstance(error, InvalidResponseError):
            return
        self.failed.add(replica.id, call, self._clock())
        if isinstance(error, BrokenStreamError):
            if error.dead:
                self._crashed(call, replica, incarnation)
            return
        refused = isinstance(error, RefusedError)
        if call.ends_early and not refused and self._clock() > call.deadline - DEADLINE_MARGIN:
            return  # the client's own timeout is no failure of the replica
        self._upstreams.record_failure(replica, refused)
        if not refused and not isinstance(error, DeadlineError) and await self._transport.refuses(replica.address):
            self._crashed(call, replica, incarnation)

    def _crashed(self, call: Call, replica: Replica, incarnation: int) -> None:
        self._upstreams.record_failure(replica, refused=True)
        self._quarantine.crashed(call.fingerprint, replica.id, incarnation)
