"""The real relay, admission and upstreams over scripted engines, and a book that says what they owe to whom."""

import json
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from service.admission.gate import Admission
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
from service.relay.relay import Relay
from service.server.asgi import ClientDisconnectedError, Message
from service.transport.pool import ConnectionPool
from service.upstreams.replica import Replica
from service.upstreams.upstreams import POLL, Upstreams
from tests.relay.clockwork import Clockwork, Engine, Fault, Job
from tests.support import fleets

CHAT = GENERATION[0]
CONNECT = 1.0  # seconds that a connection may take
READER = 60.0  # seconds for which a client may take nothing
LATE = 0.01  # seconds by which a deadline may be overdrawn: timers are that coarse
KEPT = 600.0  # seconds for which an answer is kept for its key
LISTENING = 0.06  # seconds after its beginning from which on it is noticed that a client has left
# Where an engine failed so, before any output, another one must be asked.
REPEATABLE = frozenset(("refused", "stuck", "reset", "short", "full", "draining", "abort", "error", "death"))
FREE = frozenset(("full", "draining", "refused"))  # the engine did no work, so the second attempt costs nothing more
CRASHES = frozenset(("reset", "short", "death"))  # so may a request end that was in flight when an engine crashed
Ending = Literal["answered", "refused", "left"]
Due = Literal["generated", "replayed", "idempotency_conflict", "idempotency_in_progress"]
Key = tuple[str, str]  # the tenant's id, and the key that it chose


@dataclass(eq=False)
class Client:
    """One request and its client: what it wants, what it was told, and what became of it on the way.

    `sent` is the body that it was sent, also after it left. `due` is what it must get by its key, and `source` whose
    answer that is.
    """

    book: "Book"
    record: Record
    model: str
    tenant: str
    priority: Priority | None
    streamed: bool
    timeout: float | None
    key: str | None
    fields: dict[str, Any]
    reads: bool = True
    left_at: float | None = None
    messages: list[Message] = field(default_factory=list)
    sent: bytes = b""
    due: Due = "generated"
    source: "Client | None" = None
    ending: Ending | None = None
    error: ApiError | None = None
    served: ServedModel | None = None
    known_as: Tenant | None = None
    urgency: Priority = "default"
    place: Slot | None = None
    waited: bool = False
    patience: float = 0.0
    tried: list[Replica] = field(default_factory=list)
    begun: bool = False
    order: int = 0
    left: float = 0.0
    knocked: Literal["open", "closed", "stuck"] = "open"
    repeats: Fault | Literal["refused", "stuck"] | None = None
    _stirred: list[Any] = field(default_factory=list)

    @property
    def stage(self) -> str:
        """Where its place says that it is: nowhere, waiting, refused, in, left."""
        return self.place._state if self.place else "nowhere"

    @property
    def heard(self) -> bytes:
        """The body that it got, without comments."""
        body = b"".join(message.get("body", b"") for message in self.messages)
        if not self.streamed:
            return body
        return b"".join(event + b"\n\n" for event in body.split(b"\n\n")[:-1] if not event.startswith(b":"))

    @property
    def failed(self) -> str | None:
        """The code of the error event that ended its stream."""
        event = self.heard[:-2].rpartition(b"\n\n")[2]
        return json.loads(event[6:])["error"]["code"] if event.startswith(b'data: {"error"') else None

    @property
    def jobs(self) -> list[Job]:
        """What engines got of it, or of the request whose answer it gets."""
        request = (self.source or self).record.request_id
        return [job for engine in self.book.engines for job in engine.jobs if job.request == request]

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

    async def ask(self, relay: Relay) -> None:
        """Has the request answered, and takes note of its one ending."""
        CURRENT.set(self)
        try:
            answer = relay.answer(CHAT, self.body(), tuple(self.headers()), self.record, self._receive, self._send)
            self.book.understood(self)
            await answer
        except ApiError as error:
            self.ending, self.error = "refused", error
            self.record.fail(error)
        except ClientDisconnectedError:
            self.ending = "left"
        else:
            self.ending = "answered"
        self.book.ended(self)

    def leave(self, now: float) -> None:
        self.left_at = now
        self.wake_waiters()

    def wake_waiters(self) -> None:
        """Something about this client has changed."""
        for waiter in self._stirred:
            if not waiter.done():
                waiter.set_result(None)
        self._stirred.clear()

    async def _receive(self) -> Message:
        while self.left_at is None:
            await self._change()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.book.expect(self.ending is None, f"{self} is told something after its end")
        self.sent += message.get("body", b"")
        if self.left_at is None:
            self.messages.append(message)
        while not self.reads and self.left_at is None:
            await self._change()

    async def _change(self) -> None:
        waiter = self.book.loop.create_future()
        self._stirred.append(waiter)
        await waiter

    def __str__(self) -> str:
        return f"request {self.record.request_id}"


CURRENT: ContextVar[Client] = ContextVar("CURRENT")  # whose request it is that is worked at


class Gate(Admission):
    """The real admission; the book sees who enters."""

    book: "Book"

    def enter(
        self,
        served: ServedModel,
        tenant: Tenant,
        priority: Priority,
        cost: float,
        room: Capacity,
        now: float,
        patience: float | None = None,
    ) -> Slot:
        client, book = CURRENT.get(), self.book
        book.look()
        client.served, client.known_as = served, tenant
        client.urgency, client.patience = priority, patience or 0.0
        free, queued = book.free(served.id), self.queued(served.id)
        try:
            client.place = super().enter(served, tenant, priority, cost, room, now, patience)
        except ApiError as error:
            book.turned_away(client, error, queued)
            raise
        client.waited = client.place.is_waiting
        book.entered(client, free, queued)
        return client.place


class Replicas(Upstreams):
    """The real upstreams; the book sees who is asked, and looks whenever what they take may change."""

    book: "Book"

    def record_request(self, replica: Replica) -> None:
        self.book.asks(CURRENT.get(), replica)
        super().record_request(replica)

    def record_failure(self, replica: Replica, refused: bool = False) -> None:
        self.book.look()
        super().record_failure(replica, refused)

    def record_success(self, replica: Replica) -> None:
        self.book.look()
        CURRENT.get().begun = True
        super().record_success(replica)

    def refresh(self) -> bool:
        if hasattr(self, "book"):
            self.book.look()
        return super().refresh()


class Book:
    """What holds at every turn of the loop, and what holds when nothing can happen before time passes.

    It is told what clients and engines do, sees where each request is, and collects in `wrong` whatever should not be.
    """

    def __init__(self, loop: Clockwork, engines: list[Engine], fleet: Fleet) -> None:
        self.loop, self.engines, self.fleet = loop, engines, fleet
        self.clients: list[Client] = []
        self.wrong: list[str] = []
        self._waiting: list[Client] = []
        self._starved: dict[str, float] = {}
        self._entered = 0
        self._running: dict[Key, Client] = {}
        self._kept: dict[Key, tuple[Client, float]] = {}  # whose answer, and until when
        self.stopped = False
        self.replicas: list[Replica] = []

    upstreams: Replicas
    admission: Gate

    def expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.wrong.append(f"{self.loop.now:.3f}: {otherwise}")

    @property
    def live(self) -> list[Client]:
        """Those whose request has not ended, the oldest first."""
        return [client for client in self.clients if client.ending is None]

    def of(self, model_id: str) -> list[Replica]:
        """The replicas of a model."""
        return [one for one in self.replicas if one.id.rpartition("-")[0] == model_id]

    def at(self, *stages: str) -> list[Client]:
        """Those whose place is there."""
        return [client for client in self.clients if client.stage in stages]

    def free(self, model_id: str) -> int:
        """How many more requests its replicas take, beside those that are on their way to one."""
        unassigned = [one for one in self.at("in") if self.is_for(one, model_id) and not one.tried]
        return sum(replica.capacity(self.loop.now) for replica in self.of(model_id)) - len(unassigned)

    def is_for(self, client: Client, model_id: str) -> bool:
        return client.served is not None and client.served.id == model_id

    # What is told.

    def understood(self, client: Client) -> None:
        """A request can be read, its tenant and model are known; what it gets next depends on its key."""
        if not client.key:
            return
        key, now = (client.tenant, client.key), self.loop.now
        first, until = self._kept.get(key, (None, now))
        first = self._running.get(key) or (first if until > now else None)
        if not first:
            self._running[key] = client
        elif first.body() != client.body():
            client.due = "idempotency_conflict"
        elif first.ending is None:
            client.due = "idempotency_in_progress"
        else:
            client.due, client.source = "replayed", first
            self._kept[key] = first, now + KEPT

    def entered(self, client: Client, free: int, queued: int) -> None:
        """A request has a place, or one in the queue; before it so many places were free, and so many waited."""
        assert client.served and client.place and client.known_as
        served, now = client.served, self.loop.now
        self.look()
        if client.waited:
            most = max(served.max_queued, queued)
            self.expect(self.admission.queued(served.id) <= most, f"{client} is one too many in the queue")
            self.expect(free <= 0 or queued > 0, f"{client} waits where {free} places are free")
            self.expect(abs(client.place.deadline - now - client.patience) < LATE, f"{client} waits for another while")
            self._entered += 1
            client.order = self._entered
            self._waiting.append(client)
        else:
            self.expect(free > 0, f"{client} was let in where no place is free")
            self.expect(not self.admission.queued(served.id), f"{client} was let in before those who wait")
        wanted = max(client.known_as.priority, client.priority or "default", key=PRIORITIES.index)
        self.expect(client.urgency == wanted, f"{client} is {client.urgency} and not {wanted}")

    def turned_away(self, client: Client, error: ApiError, queued: int) -> None:
        """A request is refused where it wanted to enter, and so many waited."""
        assert client.served and client.known_as
        most = client.known_as.max_in_flight
        inside = sum(one.tenant == client.tenant for one in self.at("waiting", "refused", "in"))
        if error.status == 429:
            self.expect(most is not None and inside >= most, f"{client} is over no budget")
        elif "others waiting" in error.message:
            self.expect(queued >= client.served.max_queued, f"{client} finds no full queue")
        else:
            self.expect("would take about" in error.message, f"{client} is refused as {error.message}")

    def asks(self, client: Client, replica: Replica) -> None:
        """A replica is about to be asked."""
        tried, client.tried = client.tried, [*client.tried, replica]
        self.look()
        self.expect(replica.usable(self.loop.now), f"{client} goes to {replica.id}, which is not usable")
        self.expect(client.ending is None and client.stage == "in", f"{client} goes to an engine from nowhere")
        self.expect(client.served is not None and replica in self.of(client.served.id), f"{client} went astray")
        self.expect(len(tried) < 2, f"{client} is tried a third time")
        if tried:
            fault = self.fault(client, tried[0])
            self.expect(replica is not tried[0], f"{client} is repeated where it failed")
            self.expect(not client.heard and not client.begun, f"{client} is repeated after it had bytes")
            self.expect(fault in REPEATABLE, f"{client} is repeated after {fault}")
            client.repeats = fault
            self.expect(self.repeating <= max(3, len(self.at("in")) // 10), f"{client} is one repeated too many")
        client.left = self.until(client) - self.loop.now
        client.knocked = self.engine(replica).door

    def engine(self, replica: Replica) -> Engine:
        return self.engines[self.replicas.index(replica)]

    def fault(self, client: Client, replica: Replica) -> Fault | Literal["refused", "stuck"] | None:
        """How the attempt there failed, if it is the engine who failed it."""
        engine = self.engine(replica)
        jobs = [job for job in client.jobs if job.engine is engine]
        if jobs:
            return jobs[-1].fault
        return "refused" if client.knocked == "closed" else "stuck" if client.knocked == "stuck" else None

    @property
    def repeating(self) -> int:
        """How many second attempts are under way that cost an engine its work twice."""
        return sum(one.repeats not in (None, *FREE) and not one.begun for one in self.live)

    def ended(self, client: Client) -> None:
        """A request has ended: in one of the ways that there are, and with a reason."""
        code = client.error.code if client.error else client.failed
        self.look()
        self._has_its_due(client, code)
        slow = not client.reads and self.loop.now - client.record.started > READER - LATE
        if slow and client.ending == "left":
            client.left_at = self.loop.now  # who takes nothing for so long is as good as gone
        if client.left_at is None:
            self.expect(client.ending != "left", f"{client} ended as if its client had left")
            self.expect((code is None) == (client.record.outcome == "complete"), f"{client} is {client.record.outcome}")
            if code is None:
                self._is_whole(client)
            else:
                self.expect(b"[DONE]" not in client.heard, f"{client} failed and is told that it is done")
                # Where the service stops within a whole answer, the end of its connection is all that is left to say.
                cut = self.stopped and not client.streamed
                self.expect(not client.error or not client.messages or cut, f"{client} fails twice")
                self._is_deserved(client, code)
        self._is_its_own(client)
        self.expect(client.stage in ("nowhere", "left"), f"{client} ended, and its place is {client.stage}")

    def _has_its_due(self, client: Client, code: str | None) -> None:
        """Its key got it what it must, and stands from now on for its answer, or for nothing."""
        record = client.record
        self.expect(record.replayed == (client.due == "replayed"), f"{client} should be {client.due}, and is {record}")
        if client.source:
            same = client.sent == client.source.sent
            self.expect(code is None and same, f"{client} is replayed as {client.sent!r}, not {client.source.sent!r}")
            self.expect(not record.attempts and not record.completion_tokens, f"{client} cost something: {record}")
        elif client.due != "generated":
            self.expect(code == client.due, f"{client} should be {client.due}, and is {code}")
        elif client.key and self._running.get((client.tenant, client.key)) is client:
            del self._running[client.tenant, client.key]
            if client.ending == "answered" and record.outcome == "complete":
                self._kept[client.tenant, client.key] = client, self.loop.now + KEPT

    def _is_whole(self, client: Client) -> None:
        whole = [job.shown for job in client.jobs if job.whole]
        self.expect(client.heard in whole, f"{client} is complete with {client.heard!r}")
        self.expect(not client.messages[-1].get("more_body", False), f"{client} is not told that this is all")
        start = [one for one in client.messages if one["type"] == "http.response.start"]
        self.expect(len(start) == 1 and start[0]["status"] == 200, f"{client} begins as {start}")

    def _is_its_own(self, client: Client) -> None:
        """What a client hears is the beginning of what an engine said to it, or to the first with its key."""
        heard = client.heard
        if client.failed:
            heard = heard[: heard.rfind(b'data: {"error"')]
        said = any(job.shown.startswith(heard) for job in client.jobs)
        self.expect(not heard or said, f"{client} hears {heard!r}")

    def _is_deserved(self, client: Client, code: str) -> None:
        """Every error has its reason."""
        if code == client.due or (self.stopped and code == "shutting_down"):
            return
        now, fault = self.loop.now, self.fault(client, client.tried[-1]) if client.tried else None
        usable = [one for one in self.of(client.served.id) if one.usable(now)] if client.served else []
        message = client.error.message if client.error else client.heard.decode()
        waits_out = "may wait" in message and client.place is not None and now >= client.place.deadline - LATE
        why = {
            "model_not_found": client.served is None,
            "unknown_tenant": client.tenant not in self.fleet.tenants,
            "model_loading": not usable,
            "model_unavailable": not usable,
            "rate_limit_exceeded": not client.tried,
            "overloaded": fault in FREE or waits_out or "others waiting" in message or "would take" in message,
            "timeout": client.place is not None and self._late(client),
            "upstream_error": fault is not None,
            "upstream_rejected": fault == "wrong",
            "request_quarantined": self._crashes(client) >= 2,
        }
        self.expect(why.get(code, False), f"{client} is told {code} ({message}), with fault {fault}")
        early = len(client.tried) == 1 and not client.heard and now < self.until(client)
        if code in ("upstream_error", "overloaded") and early:
            self._has_no_other(client, fault, usable)

    def _crashes(self, client: Client) -> int:
        """At how many crashes of engines the same request may have been in flight."""
        same = [one for one in self.clients if one.body() == client.body() and not one.source]
        return sum(job.fault in CRASHES for one in same for job in one.jobs)

    def _has_no_other(self, client: Client, fault: Fault | str | None, usable: list[Replica]) -> None:
        others = [one.id for one in usable if one is not client.tried[0]]
        spent = fault not in FREE and self.repeating >= 3
        owed = fault in REPEATABLE
        self.expect(not (owed and others) or spent, f"{client} failed by {fault} and {others} were not asked")

    def _late(self, client: Client) -> bool:
        """Whether its engine, or all of it, has been slower than it may be."""
        assert client.served
        timeouts, jobs, now = client.served.timeouts, client.jobs, self.loop.now
        shortest = min(timeouts.first_token or 0, timeouts.idle or 0, timeouts.total or 0)
        heard = jobs[-1].said_at or jobs[-1].heard_at if jobs else now
        return now - heard >= shortest - LATE or now >= self.until(client) - LATE

    def until(self, client: Client) -> float:
        """When all patience with it ends."""
        assert client.served
        total = client.served.timeouts.total or 0.0
        return client.record.started + min(client.timeout or total, total)

    # What is seen.

    def look(self) -> None:
        """Takes note of who was let in since the last look, and whether that was right."""
        granted = [one for one in self._waiting if one.stage == "in"]
        self._waiting = [one for one in self._waiting if one.stage == "waiting"]
        for one in granted:
            assert one.served
            self.expect(self.free(one.served.id) >= 0, f"{one} was let in where no place is free")
            for other in self._waiting:
                assert other.served
                if one.served.id == other.served.id:
                    ahead = PRIORITIES.index(other.urgency) < PRIORITIES.index(one.urgency)
                    self.expect(not ahead, f"{one} ({one.urgency}) was let in before {other} ({other.urgency})")
                    same = (one.tenant, one.urgency) == (other.tenant, other.urgency)
                    self.expect(not same or one.order < other.order, f"{one} overtook {other}")

    def check(self) -> None:
        """What holds at every turn."""
        self.look()
        for served in {one.served.id for one in self.clients if one.served}:
            inside = [one for one in self.at("in") if self.is_for(one, served)]
            queued = [one for one in self.at("waiting") if self.is_for(one, served)]
            load, length = self.admission.load(served), self.admission.queued(served)
            self.expect(load == len(inside), f"{served} has {load} in its places, and {len(inside)} are")
            self.expect(length == len(queued), f"{served} has {length} queued, and {len(queued)} are")
        for replica in self.replicas:
            there = [one for one in self.at("in") if one.tried and one.tried[-1] is replica]
            self.expect(replica.in_flight == len(there), f"{replica.id} has {replica.in_flight}, and {len(there)} are")
        for client in self.clients:
            if client.ending:
                self.expect(client.stage in ("nowhere", "left"), f"{client} ended, and its place is {client.stage}")

    def check_still(self) -> None:
        """What holds while nothing can happen before time passes: whatever should have happened has."""
        now = self.loop.now
        for client in self.live:
            self.expect(self._lives(client), f"{client} is forgotten ({client.stage}, {client.record})")
        owners = {one.record.request_id: one for one in self.clients}
        for engine in self.engines:
            for job in engine.running:
                self._is_wanted(job, owners[job.request])
            self.expect(all(now - knock <= CONNECT + LATE for knock in engine.knocks), f"{engine.name} is knocked at")
        for served in {one.served.id for one in self._waiting if one.served}:
            if self.free(served) > 0:
                since = self._starved.setdefault(served, now)
                self.expect(now - since <= POLL + LATE, f"requests wait for {served}, and there is room since {since}")
            else:
                self._starved.pop(served, None)
        for served in self._starved.keys() - {one.served.id for one in self._waiting if one.served}:
            del self._starved[served]

    def _lives(self, client: Client) -> bool:
        """Whether a request has a reason of its own not to have ended yet."""
        now = self.loop.now
        if self._is_gone(client):
            return False
        if not client.reads and client.messages and client.left_at is None:
            return True
        if client.stage == "waiting":
            assert client.place
            return now < client.place.deadline + LATE
        if client.stage != "in":
            return False
        job = next((job for job in client.jobs if not job.over), None)
        if job and job.begun and client.left_at is None:
            self.expect(client.heard == job.shown, f"{client} has not heard all: {client.heard!r}")
        return job is not None or bool(self.engine(client.tried[-1]).knocks)

    def _is_gone(self, client: Client) -> bool:
        """Whether a client has left for long enough that it must have been noticed."""
        return client.left_at is not None and self.loop.now > max(client.left_at, client.record.started + LISTENING)

    def _is_wanted(self, job: Job, client: Client) -> None:
        """An engine works only for those who wait for it, and no longer than it may."""
        assert client.served
        now, timeouts = self.loop.now, client.served.timeouts
        self.expect(client.ending is None, f"{client} ended, and {job.engine.name} works on")
        first = timeouts.first_token if client.streamed else timeouts.total
        latest = job.heard_at + (first or 0) if job.said_at is None else job.said_at + (timeouts.idle or 0)
        # The time that a connection takes comes on top.
        self.expect(
            now <= min(latest, job.heard_at + client.left) + LATE, f"{client} waits too long for {job.engine.name}"
        )


class House:
    """Everything wired as the gateway wires it, on a loop that a test turns. What it is told to do, it does later."""

    def __init__(self, run_dir: Path, fleet: Fleet) -> None:
        self.engines: list[Engine] = []
        self.loop = Clockwork({})
        self._run_dir = run_dir
        for order, (served, number) in enumerate(fleet.replicas()):
            engine = Engine(state.replica_id(served.id, number), self.loop.time)
            self.engines.append(engine)
            self.loop.engines[str(state.socket_path(run_dir, order))] = engine
        self._lives = [0] * len(self.engines)
        settings = Settings(
            run_dir=run_dir, connect_timeout=CONNECT, client_write_timeout=READER, sse_heartbeat_interval=1.0
        )
        self.book = book = Book(self.loop, self.engines, fleet)
        self.transport = ConnectionPool()
        book.upstreams = self.upstreams = Replicas(fleet, settings, self.transport, self.loop.time)
        book.replicas = [replica for upstream in self.upstreams for replica in upstream.replicas]
        book.admission = self.admission = Gate(settings, self.loop.time, lambda: 0.5)
        self.upstreams.book = self.admission.book = book
        self.relay = Relay(
            fleet, fleets.CATALOG, self.upstreams, self.admission, self.transport, settings, self.loop.time
        )
        for order, (served, _) in enumerate(fleet.replicas()):
            self.show(order, "ready" if served.min_replicas else "scaled_to_zero")
        self._watching = self.loop.create_task(self.upstreams.watch(self.admission.wake_waiters))
        self.tasks: list[Any] = []

    def show(self, order: int, condition: Condition, seen: bool = True) -> None:
        """Lets an engine say how it is; the gateway looks at once, or when it next does."""
        replica = self.book.replicas[order]
        model = replica.id.rpartition("-")[0]
        self._lives[order] += condition == "starting"
        state.write(self._run_dir, EngineState(replica.id, model, order, condition, restarts=self._lives[order]))
        if seen and self.upstreams.refresh():
            self.admission.wake_waiters()

    def submit(self, **options: Any) -> Client:
        """A client sends a request."""
        number = str(len(self.book.clients))
        client = Client(self.book, Record(number, CHAT.path, self.loop.now), **options)
        self.book.clients.append(client)
        self.tasks.append(self.loop.create_task(client.ask(self.relay)))
        return client

    def apply(self, fleet: Fleet) -> None:
        """Another fleet, as the gateway takes it into use."""
        self.book.fleet = fleet
        self.upstreams.apply(fleet)
        self.relay.apply(fleet)
        self.admission.apply(fleet)

    def end(self) -> None:
        """Breaks off all that runs."""
        self.book.stopped = True
        self.relay.end()

    def turn(self) -> None:
        """One turn of the loop."""
        self.loop.turn()
        self.check()

    def settle(self) -> None:
        """Turns until nothing happens before time passes."""
        while not self.loop.still:
            self.turn()
        self.check()

    def advance(self, seconds: float, stalled: bool) -> None:
        """Lets time pass."""
        self.loop.advance(seconds, stalled, self.check)

    def check(self) -> None:
        """Raises AssertionError where something is as it should not be."""
        self.book.check()
        if self.loop.still:
            self.book.check_still()
        for task in [task for task in self.tasks if task.done()]:
            self.tasks.remove(task)
            task.result()
        assert not self.loop.troubles, self.loop.troubles
        assert not self.book.wrong, "\n".join(self.book.wrong)

    def close(self) -> None:
        """Ends everything, whatever is left."""
        for task in [self._watching, *self.tasks]:
            task.cancel()
        while not self.loop.still:
            self.loop.turn()
        self.transport.close()
        while not self.loop.still:
            self.loop.turn()
        self.loop.close()
