"""The slots of one model: which requests hold some at a replica, and which are queued for them.

A slot is for one sequence, so that a request holds as many as it is sequences for the engine. It is admitted as soon as
one slot is free, and holds the others beyond the replica's limit. So it never waits until a busy replica is idle, those
after it do not overtake it, and none of them is admitted there until the replica is below its limit again.
"""

import asyncio
import math
from collections.abc import Callable
from itertools import islice
from typing import Literal, NamedTuple, Protocol

from service.admission.budgets import BudgetState
from service.admission.flow import Ticket
from service.admission.queue import Queue
from service.admission.rate_limits import Charge
from service.admission.service_rate import ServiceRate, retry_after
from service.auth.tenants import Priority
from service.errors import ApiError, ErrorCode

Clock = Callable[[], float]  # monotonic seconds
# How many more sequences the usable replicas of a model take at that moment of the clock; below zero where each has
# more than its limit.
Capacity = Callable[[float], int]


class Waiting(NamedTuple):
    """A queued request, which is refused in `seconds` unless it is admitted before. The next one is at `position` 1."""

    tenant: str
    priority: Priority
    position: int
    sequences: int
    seconds: float


class Assignable(Protocol):
    """A replica, as far as admission knows it."""

    in_flight: int


class SlotPool:
    """The slots of one model. `held` counts the requests that hold some, `sequences` the slots that they hold, and
    `unassigned` those slots that are assigned to no replica at the moment.

    `capacity` is what the replicas can take, which does not account for unassigned slots. `queued` holds the queued
    requests, `queue` decides their order, and `peak` is the highest number of requests, held and queued, since it was
    last read. `jitter` returns floats from 0 to 1.
    """

    def __init__(self, model_id: str, clock: Clock, jitter: Callable[[], float]) -> None:
        self.model_id, self.clock, self._jitter = model_id, clock, jitter
        self.capacity: Capacity = lambda now: 0
        self.held = self.sequences = self.unassigned = self.peak = 0
        self.queue = Queue()
        self.service_rate = ServiceRate(clock())
        self.queued: dict[Ticket, Slot] = {}

    def acquire(self, sequences: int, now: float) -> None:
        """Counts the slots of a request that is admitted."""
        self.service_rate.observe(now, self.sequences)
        self.held += 1
        self.sequences += sequences
        self.unassigned += sequences
        self._update_peak()

    def release(self, slot: "Slot", tokens: float) -> None:
        """Frees the slots of an admitted request, which took `tokens`, and admits the next ones."""
        now, sequences = self.clock(), slot.sequences
        self.service_rate.complete(now, self.sequences, sequences)
        self.held -= 1
        self.sequences -= sequences
        self.unassigned -= sequences
        if slot.ticket:
            self.queue.complete(slot.ticket, tokens)
        if self.queued:
            self.admit_queued(now)

    def admit_queued(self, now: float) -> None:
        """Admits queued requests, in the queue's order, while the replicas have free capacity."""
        free = self.capacity(now) - self.unassigned if self.queued else 0
        while free > 0 and self.queued:
            ticket = self.queue.first()
            slot = self.queued[ticket]
            if slot.deadline <= now:
                self.expire(slot, ticket)
                continue
            del self.queued[ticket]
            self.queue.admit(ticket)
            self.acquire(slot.sequences, now)
            slot.admit()
            free -= slot.sequences

    def enqueue(self, slot: "Slot", ticket: Ticket, max_queued: int, now: float) -> None:
        """Queues a request; raises 503 if the queue is full or the expected wait exceeds the request's deadline.

        If the queue is full and another request is first in line to be dropped, that one is rejected instead.
        """
        self.queue.push(ticket)
        self.queued[ticket] = slot
        self._update_peak()
        self.service_rate.observe(now, self.sequences)
        if self.service_rate.is_measured(self.sequences):
            wait = self._must_end(ticket) / self.service_rate.rate(self.sequences)
            if wait > slot.deadline - now:
                raise self._rejection(ticket, f"the expected wait of {wait:.0f} s exceeds this request's queue timeout")
        if len(self.queued) > max_queued:
            dropped = self.queue.to_drop(ticket)
            dropped_slot = self.queued[dropped]
            error = self._rejection(dropped, f"its queue is full ({max_queued} requests)")
            if dropped_slot is slot:
                raise error
            dropped_slot.reject(error)

    def expire(self, slot: "Slot", ticket: Ticket) -> None:
        """Rejects a queued request whose deadline has passed."""
        slot.reject(self._rejection(ticket, "this request timed out in the queue"))

    def withdraw(self, ticket: Ticket) -> None:
        """Removes a request from the queue."""
        self.queue.remove(ticket)
        del self.queued[ticket]

    def waiting(self, tenant: str | None, most: int) -> list[Waiting]:
        """The queued requests of a tenant, or of all (None), but no more than the `most` that came first."""
        now = self.clock()
        found = ((one, slot) for one, slot in self.queued.items() if tenant is None or one.tenant.id == tenant)
        return [
            Waiting(one.tenant.id, one.priority, slot.position, one.sequences, max(0.0, slot.deadline - now))
            for one, slot in islice(found, most)
        ]

    def _must_end(self, ticket: Ticket) -> int:
        """How many sequences end before a queued request is admitted: those beyond a limit, those ahead, and one."""
        return max(0, self.unassigned - self.capacity(self.clock())) + self.queue.ahead(ticket).sequences + 1

    def _update_peak(self) -> None:
        now = self.held + len(self.queued)
        if now > self.peak:
            self.peak = now

    def _rejection(self, ticket: Ticket, why: str) -> ApiError:
        """Removes a request from the queue; returns the 503 with `why` and the time until a slot may be free."""
        must_end = self._must_end(ticket)
        self.withdraw(ticket)
        seconds = retry_after(must_end, self.service_rate.rate(self.sequences), self._jitter())
        message = f"'{self.model_id}' is busy: {why}. Try again in {seconds:g} s."
        return ApiError(ErrorCode.OVERLOADED, message, retry_after=seconds)


class Slot:
    """A request's slots in the pool of its model, held or still queued for: one for each of its `sequences`.

    As a context manager it is released at exit. Once admitted it is assigned to the replica that is tried, and
    unassigned if that attempt fails: the slots stay held until `release`, so that a retry at another replica need not
    queue again. A slot without a ticket was admitted at once; one with a ticket is queued until `deadline`, in
    monotonic seconds. `charge` is what the tenant's limits were charged, if it has some; `tokens` are those that the
    request took, until somebody says so its estimated cost.
    """

    __slots__ = (
        "_admitted", "_error", "_pool", "_replica", "_state", "charge", "deadline", "sequences", "ticket", "tokens",
    )  # fmt: skip

    def __init__(
        self,
        pool: SlotPool,
        cost: float,
        sequences: int,
        ticket: Ticket | None = None,
        deadline: float = math.inf,
    ) -> None:
        self._pool = pool
        self.sequences = sequences
        self.charge: Charge | None = None
        self.tokens = cost
        self.ticket = ticket
        self.deadline = deadline
        self._state: Literal["queued", "admitted", "rejected", "released"] = "queued" if ticket else "admitted"
        self._replica: Assignable | None = None
        self._error: ApiError | None = None
        self._admitted: asyncio.Future[None] | None = None

    @property
    def is_queued(self) -> bool:
        """Whether the request is not admitted yet; also after a rejection, which `wait_admitted` then raises."""
        return self._state == "queued" or self._state == "rejected"

    @property
    def ahead(self) -> int:
        """How many queued requests go before this one, as things stand."""
        return self._pool.queue.ahead(self.ticket).requests if self.ticket and self._state == "queued" else 0

    @property
    def position(self) -> int:
        """The position in the queue: 1 is next, 0 is not queued."""
        return self.ahead + 1 if self._state == "queued" else 0

    def budgets(self) -> tuple[BudgetState, ...]:
        """The budgets of its tenant, if it has some."""
        return self.charge.states(self._pool.clock()) if self.charge else ()

    async def wait_admitted(self, seconds: float) -> bool:
        """Waits at most `seconds`; returns whether the request has been admitted. Raises 503 if it was rejected."""
        if self._state == "queued":
            remaining = self.deadline - self._pool.clock()
            if remaining > 0:
                self._admitted = self._admitted or asyncio.get_running_loop().create_future()
                await asyncio.wait((self._admitted,), timeout=min(seconds, remaining))
            if self._state == "queued" and remaining <= seconds and self.ticket:
                self._pool.expire(self, self.ticket)
        if self._error:
            raise self._error
        return self._state == "admitted"

    def assign(self, replica: Assignable) -> None:
        """Assigns the slots to a replica, which counts the sequences as in flight from now on."""
        pool, sequences = self._pool, self.sequences
        replica.in_flight += sequences
        pool.unassigned -= sequences
        self._replica = replica
        if sequences > 1 and pool.queued:
            pool.admit_queued(pool.clock())  # its slots beyond this replica's limit are free at the others from now on

    def unassign(self) -> None:
        """Takes the slots back from their replica, if they are assigned to one."""
        if self._replica:
            self._replica.in_flight -= self.sequences
            self._pool.unassigned += self.sequences
            self._replica = None

    def admit(self) -> None:
        """Called by the pool: the request leaves the queue and holds its slot."""
        self._state = "admitted"
        self._wake()

    def reject(self, error: ApiError) -> None:
        """Called by the pool: the request has left the queue, and its next `wait_admitted` raises `error`."""
        self._state, self._error = "rejected", error
        self._wake()

    def release(self) -> None:
        """Frees the slot, or leaves the queue. Calling it again does nothing."""
        state, self._state = self._state, "released"
        if state == "admitted":
            if self._replica:
                self.unassign()
            if self.charge:
                self.charge.settle(self.tokens)
            self._pool.release(self, self.tokens)
        elif state != "released":
            if self.charge:
                self.charge.refund()
                self.charge = None
            if state == "queued" and self.ticket:
                self._pool.withdraw(self.ticket)

    def give_back(self) -> None:
        """After `release`: another model is to answer the request and charges it anew, so that it counts once."""
        if self.charge:
            self.charge.give_back(self.tokens)
            self.charge = None

    def __enter__(self) -> "Slot":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _wake(self) -> None:
        if self._admitted and not self._admitted.done():
            self._admitted.set_result(None)
