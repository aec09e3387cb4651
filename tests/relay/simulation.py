"""A model-based test of the relay: the real relay, admission and upstreams over scripted engines, and an oracle.

The oracle is a small model of what they must do. It observes every admission and dispatch, and checks after each step
of the event loop that requests, slots and responses are as they must be. test_machine.py drives it.
"""

import asyncio
import json
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from service.admission.gate import Admission
from service.admission.rate_limits import Booking
from service.admission.slots import Capacity, Slot
from service.auth.tenants import PRIORITIES, Priority, Tenant
from service.config.settings import Settings
from service.engine import state
from service.engine.state import Condition, EngineState
from service.errors import ApiError
from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel
from service.observability.record import Record
from service.protocol.generation import GENERATION
from service.protocol.request_headers import parse_headers
from service.relay.relay import Relay
from service.server.asgi import ClientDisconnectedError, Message
from service.transport.pool import ConnectionPool
from service.upstreams.replica import Replica
from service.upstreams.upstreams import POLL, Upstreams
from tests.relay.scripted_engines import Engine, EngineRequest, Fault, SteppedLoop
from tests.support import fleets
from tests.support.background import unexpected

CHAT = GENERATION[0]
CONNECT_TIMEOUT = 1.0  # seconds
CLIENT_WRITE_TIMEOUT = 60.0  # seconds
TIMER_SLACK = 0.01  # seconds by which a timer may be late
CACHE_TTL = 600.0  # seconds for which a response is kept for its key
DISCONNECT_DELAY = 0.06  # seconds after the start of a request until a disconnect is noticed
# After these failures, before any output, another replica must be tried.
RETRYABLE = frozenset(("refused", "stuck", "reset", "short", "full", "draining", "abort", "error", "death"))
UNPROCESSED = frozenset(("full", "draining", "refused"))  # the engine did no work, so a retry needs no budget
CRASHES = frozenset(("reset", "short", "death"))  # how a request can fail that was in flight at an engine crash
Outcome = Literal["responded", "rejected", "disconnected"]
Expected = Literal["generated", "replayed", "idempotency_conflict", "idempotency_in_progress"]
Key = tuple[str, str]  # the tenant's id, and the idempotency key


@dataclass(eq=False)
class SimulatedClient:
    """One request and its client: what it sends, what it receives, and how it was admitted and dispatched.

    `sent` is the body that it was sent, also after it disconnected. `expected` is what its idempotency key must get it,
    and `source` the client whose response that is.
    """

    oracle: "Oracle"
    record: Record
    model: str
    tenant: str
    priority: Priority | None
    streamed: bool
    timeout: float | None
    key: str | None
    fields: dict[str, Any]
    reads: bool = True
    disconnected_at: float | None = None
    messages: list[Message] = field(default_factory=list)
    sent: bytes = b""
    expected: Expected = "generated"
    source: "SimulatedClient | None" = None
    outcome: Outcome | None = None
    error: ApiError | None = None
    served: ServedModel | None = None
    resolved_tenant: Tenant | None = None
    effective_priority: Priority = "default"
    slot: Slot | None = None
    was_queued: bool = False
    queue_timeout: float = 0.0
    attempts: list[Replica] = field(default_factory=list)
    started: bool = False
    order: int = 0
    remaining: float = 0.0
    socket: Literal["open", "closed", "stuck"] = "open"
    retried_after: Fault | Literal["refused", "stuck"] | None = None
    _waiters: list[Any] = field(default_factory=list)

    @property
    def sequences(self) -> int:
        """How many it is for an engine."""
        return int(self.fields.get("n", 1))

    @property
    def stage(self) -> str:
        """The state of its slot: none, queued, rejected, admitted or released."""
        return self.slot._state if self.slot else "none"

    @property
    def received(self) -> bytes:
        """The body that it has received, without comments."""
        body = b"".join(message.get("body", b"") for message in self.messages)
        if not self.streamed:
            return body
        return b"".join(event + b"\n\n" for event in body.split(b"\n\n")[:-1] if not event.startswith(b":"))

    @property
    def failed(self) -> str | None:
        """The code of the error event that ended its stream."""
        event = self.received[:-2].rpartition(b"\n\n")[2]
        return json.loads(event[6:])["error"]["code"] if event.startswith(b'data: {"error"') else None

    @property
    def requests(self) -> list[EngineRequest]:
        """The requests that engines have received for it, or for the request whose response is replayed to it."""
        request_id = (self.source or self).record.request_id
        return [sent for engine in self.oracle.engines for sent in engine.requests if sent.request_id == request_id]

    def body(self) -> bytes:
        return json.dumps({"model": self.model, "stream": self.streamed, **self.fields}).encode()

    def headers(self) -> Iterator[tuple[bytes, bytes]]:
        yield b"x-roundhouse-tenant", self.tenant.encode()
        if self.priority:
            yield b"x-roundhouse-priority", self.priority.encode()
        if self.timeout:
            yield b"x-roundhouse-timeout", str(self.timeout).encode()
        if self.key:
            yield b"idempotency-key", self.key.encode()

    async def run(self, relay: Relay) -> None:
        """Sends the request and records its one outcome."""
        CURRENT_CLIENT.set(self)
        try:
            options = parse_headers(self.headers())
            response = relay.answer(CHAT, self.body(), options, self.record, self._receive, self._send)
            self.oracle.parsed(self)
            await response
        except ApiError as error:
            self.outcome, self.error = "rejected", error
            self.record.fail(error)
        except ClientDisconnectedError:
            self.outcome = "disconnected"
        else:
            self.outcome = "responded"
        self.oracle.ended(self)

    def disconnect(self, now: float) -> None:
        self.disconnected_at = now
        self.wake_waiters()

    def wake_waiters(self) -> None:
        """Wakes what waits for the client to disconnect or to read."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def _receive(self) -> Message:
        while self.disconnected_at is None:
            await self._change()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.oracle.expect(self.outcome is None, f"{self} is sent something after its end")
        self.sent += message.get("body", b"")
        if self.disconnected_at is None:
            self.messages.append(message)
        while not self.reads and self.disconnected_at is None:
            await self._change()

    async def _change(self) -> None:
        waiter = self.oracle.loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def __str__(self) -> str:
        return f"request {self.record.request_id}"


def count(clients: list[SimulatedClient]) -> int:
    """How many sequences they are."""
    return sum(client.sequences for client in clients)


CURRENT_CLIENT: ContextVar[SimulatedClient] = ContextVar("CURRENT_CLIENT")  # whose request the current task processes


class ObservedAdmission(Admission):
    """The real admission; reports every request to the oracle."""

    oracle: "Oracle"

    def acquire(
        self,
        served: ServedModel,
        tenant: Tenant,
        priority: Priority,
        cost: float,
        capacity: Capacity,
        now: float,
        queue_timeout: float | None = None,
        sequences: int = 1,
        session: str | None = None,
        booking: Booking | None = None,
    ) -> Slot:
        client, oracle = CURRENT_CLIENT.get(), self.oracle
        oracle.check_admissions()
        client.served, client.resolved_tenant = served, tenant
        client.effective_priority, client.queue_timeout = priority, queue_timeout or 0.0
        oracle.expect(sequences == client.sequences, f"{client} is admitted as {sequences} sequences")
        free, queued = oracle.free(served.id), self.queued(served.id)
        try:
            client.slot = super().acquire(
                served, tenant, priority, cost, capacity, now, queue_timeout, sequences, session, booking
            )
        except ApiError as error:
            oracle.rejected(client, error, queued)
            raise
        client.was_queued = client.slot.is_queued
        oracle.acquired(client, free, queued)
        return client.slot


class ObservedUpstreams(Upstreams):
    """The real upstreams; reports every dispatch, and every change of capacity, to the oracle."""

    oracle: "Oracle"

    def record_request(self, replica: Replica) -> None:
        self.oracle.dispatched(CURRENT_CLIENT.get(), replica)
        super().record_request(replica)

    def record_failure(self, replica: Replica, refused: bool = False) -> None:
        self.oracle.check_admissions()
        super().record_failure(replica, refused)

    def record_success(self, replica: Replica) -> None:
        self.oracle.check_admissions()
        CURRENT_CLIENT.get().started = True
        super().record_success(replica)

    def refresh(self) -> bool:
        if hasattr(self, "oracle"):
            self.oracle.check_admissions()
        return super().refresh()


class Oracle:
    """The invariants of the relay: `check` at every step of the loop, `check_idle` when nothing is ready to run.

    It follows what clients and engines do and where each request is, and collects what is wrong in `violations`.
    """

    def __init__(self, loop: SteppedLoop, engines: list[Engine], fleet: Fleet) -> None:
        self.loop, self.engines, self.fleet = loop, engines, fleet
        self.clients: list[SimulatedClient] = []
        self.violations: list[str] = []
        self._waiting: list[SimulatedClient] = []
        self._starved: dict[str, float] = {}
        self._queued_count = 0
        self._running: dict[Key, SimulatedClient] = {}
        self._cached: dict[Key, tuple[SimulatedClient, float]] = {}  # whose response, and until when
        self.stopped = False
        self.replicas: list[Replica] = []

    upstreams: ObservedUpstreams
    admission: ObservedAdmission

    def expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.violations.append(f"{self.loop.now:.3f}: {otherwise}")

    @property
    def live(self) -> list[SimulatedClient]:
        """The clients whose request has not ended, the oldest first."""
        return [client for client in self.clients if client.outcome is None]

    def replicas_of(self, model_id: str) -> list[Replica]:
        """The replicas of a model."""
        return [one for one in self.replicas if one.id.rpartition("-")[0] == model_id]

    def in_stage(self, *stages: str) -> list[SimulatedClient]:
        """The clients whose slot is in one of these states."""
        return [client for client in self.clients if client.stage in stages]

    def free(self, model_id: str) -> int:
        """How many more sequences the replicas take, without those admitted but not yet dispatched."""
        unassigned = [one for one in self.in_stage("admitted") if self.is_for(one, model_id) and not one.attempts]
        return sum(replica.capacity(self.loop.now) for replica in self.replicas_of(model_id)) - count(unassigned)

    def is_for(self, client: SimulatedClient, model_id: str) -> bool:
        return client.served is not None and client.served.id == model_id

    # Reported by the observed objects and clients.

    def parsed(self, client: SimulatedClient) -> None:
        """A request is valid, its tenant and model are known; what it gets next depends on its idempotency key."""
        if not client.key:
            return
        key, now = (client.tenant, client.key), self.loop.now
        first, expires = self._cached.get(key, (None, now))
        first = self._running.get(key) or (first if expires > now else None)
        if not first:
            self._running[key] = client
        elif first.body() != client.body():
            client.expected = "idempotency_conflict"
        elif first.outcome is None:
            client.expected = "idempotency_in_progress"
        else:
            client.expected, client.source = "replayed", first
            self._cached[key] = first, now + CACHE_TTL

    def acquired(self, client: SimulatedClient, free: int, queued: int) -> None:
        """A request was admitted or queued; just before, `free` slots were free and `queued` requests queued."""
        assert client.served and client.slot and client.resolved_tenant
        served, now = client.served, self.loop.now
        self.check_admissions()
        if client.was_queued:
            most = max(served.max_queued, queued)
            self.expect(self.admission.queued(served.id) <= most, f"{client} exceeds max_queued")
            self.expect(free <= 0 or queued > 0, f"{client} is queued while {free} slots are free")
            self.expect(
                abs(client.slot.deadline - now - client.queue_timeout) < TIMER_SLACK,
                f"{client} has another deadline",
            )
            self._queued_count += 1
            client.order = self._queued_count
            self._waiting.append(client)
        else:
            self.expect(free > 0, f"{client} was admitted without a free slot")
            self.expect(not self.admission.queued(served.id), f"{client} was admitted before queued requests")
        wanted = max(client.resolved_tenant.priority, client.priority or "default", key=PRIORITIES.index)
        self.expect(client.effective_priority == wanted, f"{client} is {client.effective_priority} and not {wanted}")

    def rejected(self, client: SimulatedClient, error: ApiError, queued: int) -> None:
        """Admission rejected a request while `queued` others were queued."""
        assert client.served and client.resolved_tenant
        most = client.resolved_tenant.max_in_flight
        in_flight = sum(one.tenant == client.tenant for one in self.in_stage("queued", "rejected", "admitted"))
        if error.status == 429:
            self.expect(most is not None and in_flight >= most, f"{client} is over no limit")
        elif "queue is full" in error.message:
            self.expect(queued >= client.served.max_queued, f"{client} was rejected by a queue that is not full")
        else:
            self.expect("expected wait" in error.message, f"{client} is rejected with {error.message}")

    def dispatched(self, client: SimulatedClient, replica: Replica) -> None:
        """A request is about to be sent to a replica."""
        attempts, client.attempts = client.attempts, [*client.attempts, replica]
        self.check_admissions()
        self.expect(replica.usable(self.loop.now), f"{client} goes to {replica.id}, which is not usable")
        self.expect(client.outcome is None and client.stage == "admitted", f"{client} is dispatched without a slot")
        self.expect(
            client.served is not None and replica in self.replicas_of(client.served.id), f"{client} has another model"
        )
        self.expect(len(attempts) < 2, f"{client} is tried a third time")
        if attempts:
            fault = self.fault(client, attempts[0])
            self.expect(replica is not attempts[0], f"{client} is retried at the replica that failed")
            self.expect(not client.received and not client.started, f"{client} is retried after its response has begun")
            self.expect(fault in RETRYABLE, f"{client} is retried after {fault}")
            client.retried_after = fault
            self.expect(
                self.concurrent_retries <= max(3, len(self.in_stage("admitted")) // 10),
                f"{client} exceeds the retry budget",
            )
        client.remaining = self.deadline(client) - self.loop.now
        client.socket = self.engine(replica).socket

    def engine(self, replica: Replica) -> Engine:
        return self.engines[self.replicas.index(replica)]

    def fault(self, client: SimulatedClient, replica: Replica) -> Fault | Literal["refused", "stuck"] | None:
        """How the attempt at this replica failed, if its engine failed it."""
        engine = self.engine(replica)
        requests = [request for request in client.requests if request.engine is engine]
        if requests:
            return requests[-1].fault
        return "refused" if client.socket == "closed" else "stuck" if client.socket == "stuck" else None

    @property
    def concurrent_retries(self) -> int:
        """How many retries are running that count against the retry budget."""
        return sum(one.retried_after not in (None, *UNPROCESSED) and not one.started for one in self.live)

    def ended(self, client: SimulatedClient) -> None:
        """A request has ended; checks that it ended in the right way."""
        code = client.error.code if client.error else client.failed
        self.check_admissions()
        self._check_expected(client, code)
        slow = not client.reads and self.loop.now - client.record.started > CLIENT_WRITE_TIMEOUT - TIMER_SLACK
        if slow and client.outcome == "disconnected":
            client.disconnected_at = self.loop.now  # a client that reads nothing is disconnected after the timeout
        if client.disconnected_at is None:
            self.expect(client.outcome != "disconnected", f"{client} was disconnected")
            self.expect((code is None) == (client.record.outcome == "complete"), f"{client} is {client.record.outcome}")
            if code is None:
                self._check_complete(client)
            else:
                self.expect(b"[DONE]" not in client.received, f"{client} failed and received [DONE]")
                # If the service stops during a response that is not streamed, it can only close the connection.
                cut = self.stopped and not client.streamed
                self.expect(not client.error or not client.messages or cut, f"{client} fails twice")
                self._check_error(client, code)
        self._check_own_bytes(client)
        self.expect(client.stage in ("none", "released"), f"{client} ended, and its slot is {client.stage}")

    def _check_expected(self, client: SimulatedClient, code: str | None) -> None:
        """Its key got it what it must, and stands from now on for its response, or for nothing."""
        record, expected = client.record, client.expected
        self.expect(record.replayed == (expected == "replayed"), f"{client} should be {expected}, and is {record}")
        if client.source:
            same = client.sent == client.source.sent
            self.expect(code is None and same, f"{client} is replayed as {client.sent!r}, not {client.source.sent!r}")
            self.expect(not record.attempts and not record.completion_tokens, f"{client} cost something: {record}")
        elif expected != "generated":
            self.expect(code == expected, f"{client} should be {expected}, and is {code}")
        elif client.key and self._running.get((client.tenant, client.key)) is client:
            del self._running[client.tenant, client.key]
            if client.outcome == "responded" and record.outcome == "complete":
                self._cached[client.tenant, client.key] = client, self.loop.now + CACHE_TTL

    def _check_complete(self, client: SimulatedClient) -> None:
        complete = [request.visible for request in client.requests if request.complete]
        self.expect(client.received in complete, f"{client} is complete with {client.received!r}")
        self.expect(not client.messages[-1].get("more_body", False), f"{client} has no end of its body")
        start = [one for one in client.messages if one["type"] == "http.response.start"]
        self.expect(len(start) == 1 and start[0]["status"] == 200, f"{client} begins as {start}")

    def _check_own_bytes(self, client: SimulatedClient) -> None:
        """What a client receives is the beginning of what an engine sent to it, or to the first with its key."""
        received = client.received
        if client.failed:
            received = received[: received.rfind(b'data: {"error"')]
        sent = any(request.visible.startswith(received) for request in client.requests)
        self.expect(not received or sent, f"{client} received {received!r}")

    def _check_error(self, client: SimulatedClient, code: str) -> None:
        """Every error has a cause."""
        if code == client.expected or (self.stopped and code == "shutting_down"):
            return
        now, fault = self.loop.now, self.fault(client, client.attempts[-1]) if client.attempts else None
        usable = [one for one in self.replicas_of(client.served.id) if one.usable(now)] if client.served else []
        message = client.error.message if client.error else client.received.decode()
        timed_out = (
            "timed out in the queue" in message
            and client.slot is not None
            and now >= client.slot.deadline - TIMER_SLACK
        )
        allowed = {
            "model_not_found": client.served is None,
            "unknown_tenant": client.tenant not in self.fleet.tenants,
            "model_loading": not usable,
            "model_unavailable": not usable,
            "rate_limit_exceeded": not client.attempts,
            "overloaded": fault in UNPROCESSED or timed_out or "queue is full" in message or "expected wait" in message,
            "timeout": client.slot is not None and self._has_timed_out(client),
            "upstream_error": fault is not None,
            "upstream_rejected": fault == "wrong",
            "request_quarantined": self._crashes(client) >= 2,
        }
        self.expect(allowed.get(code, False), f"{client} got {code} ({message}), with fault {fault}")
        early = len(client.attempts) == 1 and not client.received and now < self.deadline(client)
        if code in ("upstream_error", "overloaded") and early:
            self._check_no_alternative(client, fault, usable)

    def _crashes(self, client: SimulatedClient) -> int:
        """At how many engine crashes the same request may have been in flight."""
        same = [one for one in self.clients if one.body() == client.body() and not one.source]
        return sum(request.fault in CRASHES for one in same for request in one.requests)

    def _check_no_alternative(self, client: SimulatedClient, fault: Fault | str | None, usable: list[Replica]) -> None:
        others = [one.id for one in usable if one is not client.attempts[0]]
        over_budget = fault not in UNPROCESSED and self.concurrent_retries >= 3
        retryable = fault in RETRYABLE
        self.expect(
            not (retryable and others) or over_budget, f"{client} failed by {fault} and {others} were not tried"
        )

    def _has_timed_out(self, client: SimulatedClient) -> bool:
        """Whether its engine, or the request in total, has exceeded a timeout."""
        assert client.served
        timeouts, requests, now = client.served.timeouts, client.requests, self.loop.now
        shortest = min(timeouts.first_token or 0, timeouts.idle or 0, timeouts.total or 0)
        received = requests[-1].sent_at or requests[-1].received_at if requests else now
        return now - received >= shortest - TIMER_SLACK or now >= self.deadline(client) - TIMER_SLACK

    def deadline(self, client: SimulatedClient) -> float:
        """When the request times out in total."""
        assert client.served
        total = client.served.timeouts.total or 0.0
        return client.record.started + min(client.timeout or total, total)

    # Checked at every step.

    def check_admissions(self) -> None:
        """Checks what was admitted from the queue since the last call, and in which order."""
        admitted = [one for one in self._waiting if one.stage == "admitted"]
        self._waiting = [one for one in self._waiting if one.stage == "queued"]
        for one in admitted:
            assert one.served
            # The last of them needed one free slot, and took as many as it is sequences.
            most = max(other.sequences for other in admitted if other.served is one.served)
            self.expect(self.free(one.served.id) + most > 0, f"{one} was admitted without a free slot")
            for other in self._waiting:
                assert other.served
                if one.served.id == other.served.id:
                    ahead = PRIORITIES.index(other.effective_priority) < PRIORITIES.index(one.effective_priority)
                    self.expect(
                        not ahead,
                        f"{one} ({one.effective_priority}) was admitted before {other} ({other.effective_priority})",
                    )
                    same = (one.tenant, one.effective_priority) == (other.tenant, other.effective_priority)
                    self.expect(not same or one.order < other.order, f"{one} overtook {other}")

    def check(self) -> None:
        """Invariants that hold at every step."""
        self.check_admissions()
        for served in {one.served.id for one in self.clients if one.served}:
            admitted = [one for one in self.in_stage("admitted") if self.is_for(one, served)]
            queued = [one for one in self.in_stage("queued") if self.is_for(one, served)]
            load, length = self.admission.load(served), self.admission.queued(served)
            sequences = self.admission.sequences(served)
            self.expect(sequences == count(admitted), f"{served} counts {sequences} sequences, not {count(admitted)}")
            self.expect(load == len(admitted), f"{served} counts {load} slots, and {len(admitted)} are held")
            self.expect(length == len(queued), f"{served} counts {length} queued, and {len(queued)} are")
        for replica in self.replicas:
            assigned = [one for one in self.in_stage("admitted") if one.attempts and one.attempts[-1] is replica]
            self.expect(
                replica.in_flight == count(assigned), f"{replica.id} has {replica.in_flight}, not {count(assigned)}"
            )
        for client in self.clients:
            if client.outcome:
                self.expect(client.stage in ("none", "released"), f"{client} ended, and its slot is {client.stage}")

    def check_idle(self) -> None:
        """Invariants that hold when nothing is ready to run: whatever should have happened has happened."""
        now = self.loop.now
        for client in self.live:
            self.expect(self._lives(client), f"{client} is forgotten ({client.stage}, {client.record})")
        owners = {one.record.request_id: one for one in self.clients}
        for engine in self.engines:
            for request in engine.running:
                self._check_wanted(request, owners[request.request_id])
            self.expect(
                all(now - since <= CONNECT_TIMEOUT + TIMER_SLACK for since in engine.pending_connects),
                f"{engine.name} has a connect over its timeout",
            )
        for served in {one.served.id for one in self._waiting if one.served}:
            if self.free(served) > 0:
                since = self._starved.setdefault(served, now)
                self.expect(
                    now - since <= POLL + TIMER_SLACK, f"{served} has queued requests and free slots since {since}"
                )
            else:
                self._starved.pop(served, None)
        for served in self._starved.keys() - {one.served.id for one in self._waiting if one.served}:
            del self._starved[served]

    def _lives(self, client: SimulatedClient) -> bool:
        """Whether a request may still be running for a reason of its own."""
        now = self.loop.now
        if self._has_disconnected(client):
            return False
        if not client.reads and client.messages and client.disconnected_at is None:
            return True
        if client.stage == "queued":
            assert client.slot
            return now < client.slot.deadline + TIMER_SLACK
        if client.stage != "admitted":
            return False
        request = next((request for request in client.requests if not request.done), None)
        if request and request.started and client.disconnected_at is None:
            self.expect(client.received == request.visible, f"{client} has not received all: {client.received!r}")
        return request is not None or bool(self.engine(client.attempts[-1]).pending_connects)

    def _has_disconnected(self, client: SimulatedClient) -> bool:
        """Whether a client disconnected long enough ago to have been noticed."""
        return client.disconnected_at is not None and self.loop.now > max(
            client.disconnected_at, client.record.started + DISCONNECT_DELAY
        )

    def _check_wanted(self, request: EngineRequest, client: SimulatedClient) -> None:
        """An engine works only on requests that have not ended or timed out."""
        assert client.served
        now, timeouts = self.loop.now, client.served.timeouts
        self.expect(client.outcome is None, f"{client} ended, and {request.engine.name} still works on it")
        first = timeouts.first_token if client.streamed else timeouts.total
        latest = (
            request.received_at + (first or 0) if request.sent_at is None else request.sent_at + (timeouts.idle or 0)
        )
        # The time of the connect comes on top.
        self.expect(
            now <= min(latest, request.received_at + client.remaining) + TIMER_SLACK,
            f"{client} exceeds a timeout at {request.engine.name}",
        )


class SimulatedGateway:
    """The relay and its collaborators wired as in the gateway, on an event loop that the test steps."""

    def __init__(self, run_dir: Path, fleet: Fleet) -> None:
        self.engines: list[Engine] = []
        self.loop = SteppedLoop({})
        self._run_dir = run_dir
        for order, (served, number) in enumerate(fleet.replicas()):
            engine = Engine(state.replica_id(served.id, number), self.loop.time)
            self.engines.append(engine)
            self.loop.engines[str(state.socket_path(run_dir, order))] = engine
        self._lives = [0] * len(self.engines)
        settings = Settings(
            run_dir=run_dir,
            connect_timeout=CONNECT_TIMEOUT,
            client_write_timeout=CLIENT_WRITE_TIMEOUT,
            sse_heartbeat_interval=1.0,
        )
        self.oracle = oracle = Oracle(self.loop, self.engines, fleet)
        self.transport = ConnectionPool()
        oracle.upstreams = self.upstreams = ObservedUpstreams(fleet, settings, self.transport, self.loop.time)
        oracle.replicas = [replica for upstream in self.upstreams for replica in upstream.replicas]
        oracle.admission = self.admission = ObservedAdmission(settings, self.loop.time, lambda: 0.5)
        self.upstreams.oracle = self.admission.oracle = oracle
        self.relay = Relay(
            fleet, fleets.CATALOG, self.upstreams, self.admission, self.transport, settings, self.loop.time
        )
        for order, (served, _) in enumerate(fleet.replicas()):
            self.set_condition(order, "ready" if served.min_replicas else "scaled_to_zero")
        watching = self.upstreams.watch(self.admission.wake_waiters, unexpected)
        self.tasks: list[asyncio.Task[None]] = [self.loop.create_task(watching)]

    def set_condition(self, order: int, condition: Condition, seen: bool = True) -> None:
        """Writes the state file of an engine; the gateway reads it at once (`seen`), or at its next poll."""
        replica = self.oracle.replicas[order]
        model = replica.id.rpartition("-")[0]
        self._lives[order] += condition == "starting"
        state.write(self._run_dir, EngineState(replica.id, model, order, condition, restarts=self._lives[order]))
        if seen and self.upstreams.refresh():
            self.admission.wake_waiters()

    def submit(self, **options: Any) -> SimulatedClient:
        """Starts a request of a new client."""
        number = str(len(self.oracle.clients))
        client = SimulatedClient(self.oracle, Record(number, CHAT.path, self.loop.now), **options)
        self.oracle.clients.append(client)
        self.tasks.append(self.loop.create_task(client.run(self.relay)))
        return client

    def apply(self, fleet: Fleet) -> None:
        """Applies a reloaded fleet, as the gateway does."""
        self.oracle.fleet = fleet
        self.upstreams.apply(fleet)
        self.relay.apply(fleet)
        self.admission.apply(fleet)

    def shut_down(self) -> None:
        """Cancels all running requests, as a shutdown does."""
        self.oracle.stopped = True
        self.relay.end()

    def step(self) -> None:
        """Runs one iteration of the event loop."""
        self.loop.step()
        self.check()

    def run_until_idle(self) -> None:
        """Runs until nothing is ready before time passes."""
        while not self.loop.idle:
            self.step()
        self.check()

    def advance(self, seconds: float, stalled: bool) -> None:
        """Advances the time; see `SteppedLoop.advance`."""
        self.loop.advance(seconds, stalled, self.check)

    def check(self) -> None:
        """Raises AssertionError at a violation, a task that failed, or an error in the loop."""
        self.oracle.check()
        if self.loop.idle:
            self.oracle.check_idle()
        for task in [task for task in self.tasks if task.done()]:
            self.tasks.remove(task)
            task.result()
        assert not self.loop.errors, self.loop.errors
        assert not self.oracle.violations, "\n".join(self.oracle.violations)

    def close(self) -> None:
        """Cancels and closes everything."""
        for task in self.tasks:
            task.cancel()
        while not self.loop.idle:
            self.loop.step()
        self.transport.close()
        while not self.loop.idle:
            self.loop.step()
        self.loop.close()
