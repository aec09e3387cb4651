"""Replicas asked for answers: one, and once more another one while nothing of it has reached the client."""

from collections.abc import Callable
from dataclasses import dataclass

from service.admission.gate import Admission
from service.admission.slots import Slot
from service.errors import ApiError, ErrorCode
from service.protocol import answers
from service.protocol.answers import BrokenAnswerError
from service.protocol.streams import BrokenStreamError, Watch
from service.relay.call import Call
from service.relay.quarantine import Quarantine
from service.relay.refusals import not_ready
from service.relay.retry_budget import RetryBudget
from service.routing.policies import POLICIES, PolicyInput
from service.routing.prefix_key import key
from service.transport.pool import ConnectionPool, DeadlineError, Exchange, RefusedError, TransportError
from service.upstreams.replica import Replica
from service.upstreams.upstreams import Upstreams

LARGEST_ANSWER = 64 * 2**20
KEYED = ("prefix_affinity", "power_of_two")  # the policies that ask what a request has in common with others


class RetryableError(Exception):
    """A replica failed before any of its answer had reached the client, so another one may be asked.

    `answer` is what the client gets where there is no other. `free` says that no engine did any work for it.
    """

    def __init__(self, answer: ApiError, *, free: bool = False) -> None:
        super().__init__()
        self.answer, self.free = answer, free


@dataclass
class Reply:
    """An answer that has begun: where it comes from, and the part of it that is here already.

    `incarnation` counts the restarts of the replica before this one.
    """

    replica: Replica
    exchange: Exchange
    first: bytes
    watch: Watch | None
    incarnation: int


class Dispatcher:
    """Asks replicas, and holds their failures against them, and against the requests that they die of."""

    def __init__(
        self, upstreams: Upstreams, admission: Admission, transport: ConnectionPool, clock: Callable[[], float]
    ) -> None:
        self._upstreams, self._admission, self._transport, self._clock = upstreams, admission, transport, clock
        self._quarantine, self._retry_budget = Quarantine(clock), RetryBudget()
        self._in_flight = 0

    async def begin(self, call: Call, place: Slot) -> Reply:
        """Asks a replica, and once more another one if the first fails before its answer began.

        The reply must be given to `end`. Raises ApiError where there is none.
        """
        first = self._pick(call, None)
        try:
            return await self._attempt(call, place, first)
        except RetryableError as error:
            self.check(call)  # the death just seen may have been its second one
            free = error.free
            if not self._candidates(call, first) or not (free or self._retry_budget.take(self._in_flight)):
                raise error.answer from None
        call.record.reset_attempt()
        try:
            return await self._attempt(call, place, self._pick(call, first))
        except RetryableError as error:
            raise error.answer from None
        finally:
            if not free:
                self._retry_budget.give_back()

    def check(self, call: Call) -> None:
        """Raises 422 where engines died of this request."""
        if self._quarantine:
            self._quarantine.check(call.fingerprint)

    def end(self, reply: Reply) -> None:
        """The answer is over, whole or not."""
        self._transport.release(reply.replica.address, reply.exchange)
        self._in_flight -= 1

    async def broke(self, call: Call, reply: Reply, error: TransportError | BrokenStreamError) -> ApiError:
        """Takes note that an answer broke off midway; returns what the client is told."""
        await self._record_failure(call, reply.replica, reply.incarnation, error)
        if isinstance(error, DeadlineError):
            return ApiError(ErrorCode.TIMEOUT, f"The engine was too slow: {error}.")
        text = "The engine broke off the answer. What came before this event is incomplete."
        return ApiError(ErrorCode.UPSTREAM_ERROR, text)

    def completed(self, call: Call) -> None:
        """The answer came to its end: the request is no poison."""
        if self._quarantine:
            self._quarantine.succeeded(call.fingerprint)

    def _pick(self, call: Call, tried: Replica | None) -> Replica:
        candidates = self._candidates(call, tried)
        if not candidates:
            raise not_ready(call.upstream, self._clock())
        if len(candidates) == 1:
            return candidates[0]
        served, upstream = call.served, call.upstream
        upstream.request_count += 1
        return POLICIES[served.policy](candidates, PolicyInput(upstream.request_count, self._key(call)))

    def _key(self, call: Call) -> int:
        return key(call.request, call.tenant.id, call.options.session) if call.served.policy in KEYED else 0

    def _candidates(self, call: Call, tried: Replica | None) -> list[Replica]:
        """The replicas that may be asked: those with room, or where there is none all that are usable."""
        now, upstream = self._clock(), call.upstream
        if tried is None:
            return upstream.free(now) or upstream.usable(now)
        # Not `free` as a whole: the one that failed has room again, and would hide those that are full but usable.
        others = [replica for replica in upstream.usable(now) if replica is not tried]
        return [replica for replica in others if replica.capacity(now) > 0] or others

    async def _attempt(self, call: Call, place: Slot, replica: Replica) -> Reply:
        """Sends the request and waits until an answer has really begun."""
        left = call.deadline - self._clock()
        if left <= 0:  # a connection within no time would be a failure of the replica's
            text = "The time that this request had was over before an engine could begin with it."
            raise ApiError(ErrorCode.TIMEOUT, text)
        call.record.attempts += 1
        call.record.replica = replica.id
        place.assign(replica)
        self._upstreams.record_request(replica)
        self._in_flight += 1
        reply: Reply | None = None
        incarnation = replica.state.restarts if replica.state else 0
        try:
            exchange = await self._transport.send(replica.address, call.wire, call.deadlines, left)
            try:
                reply = await self._reply(call, replica, incarnation, exchange)
            finally:
                if reply is None:
                    self._transport.release(replica.address, exchange)
        except DeadlineError as error:
            await self._record_failure(call, replica, incarnation, error)
            text = f"The engine of '{call.served.id}' did not answer: {error}."
            raise ApiError(ErrorCode.TIMEOUT, text) from None
        except (TransportError, BrokenStreamError, BrokenAnswerError) as error:
            await self._record_failure(call, replica, incarnation, error)
            why = str(error) or "it broke off its answer"
            failure = ApiError(ErrorCode.UPSTREAM_ERROR, f"The engine of '{call.served.id}' failed: {why}.")
            raise RetryableError(failure, free=isinstance(error, RefusedError)) from None
        finally:
            if reply is None:
                place.unassign()
                self._in_flight -= 1
        rested = not replica.breaker.closed
        self._upstreams.record_success(replica)
        if rested:
            self._admission.wake_waiters(
                call.served.id
            )  # a replica on trial takes one request, and this one all that wait
        return reply

    async def _reply(self, call: Call, replica: Replica, incarnation: int, exchange: Exchange) -> Reply:
        status = await exchange.head()
        if status != 200:
            self._refused(call, replica, incarnation, status, await exchange.read_all(LARGEST_ANSWER))
        if call.record.streamed:
            watch = Watch(call.record, call.dialect, hide_usage=not call.request.wants_usage)
            return Reply(replica, exchange, await self._first_events(call, exchange, watch), watch, incarnation)
        body = call.redact_stop_reason(await exchange.read_all(LARGEST_ANSWER))
        answers.record_answer(call.record, body)
        return Reply(replica, exchange, body, None, incarnation)

    async def _first_events(self, call: Call, exchange: Exchange, watch: Watch) -> bytes:
        """Waits for the stream's first output: until then the status can still become an error."""
        events = b""
        while not watch.begun:
            data = await exchange.read()
            if not data:
                raise BrokenAnswerError("it ended its answer before it began")
            events += call.redact_stop_reason(watch.feed(data, self._clock()))
        return events

    def _refused(self, call: Call, replica: Replica, incarnation: int, status: int, body: bytes) -> None:
        """Raises what an answer of another status than 200 means."""
        if status == 503 or b"after shutdown" in body:
            raise RetryableError(answers.upstream_error(503, body, call.served), free=True)
        if status >= 500 or status == 404:
            dead = answers.is_death(body)
            self._upstreams.record_failure(replica, refused=dead)
            if dead:
                # Its API server lives on for seconds, and answers so whoever comes after the death.
                self._quarantine.crashed(call.fingerprint, replica.id, incarnation)
                raise RetryableError(answers.upstream_error(status, body, call.served))
        raise answers.upstream_error(status, body, call.served)

    async def _record_failure(self, call: Call, replica: Replica, incarnation: int, error: Exception) -> None:
        """Holds a failure against the replica, and against the request where the engine is dead now."""
        if isinstance(error, BrokenAnswerError):
            return
        if isinstance(error, BrokenStreamError):
            if error.dead:
                self._upstreams.record_failure(replica, refused=True)
                self._quarantine.crashed(call.fingerprint, replica.id, incarnation)
            return
        if isinstance(error, DeadlineError) and call.options.timeout and self._clock() >= call.deadline:
            return  # its client's impatience is no fault of the replica's
        refused = isinstance(error, RefusedError)
        self._upstreams.record_failure(replica, refused)
        if not refused and not isinstance(error, DeadlineError) and await self._transport.refuses(replica.address):
            self._upstreams.record_failure(replica, refused=True)
            self._quarantine.crashed(call.fingerprint, replica.id, incarnation)
