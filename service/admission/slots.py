"""The places at one model's replicas: who holds one, and who waits for one."""

import asyncio
import math
from collections.abc import Callable
from typing import Literal, Protocol

from service.admission.queue import Queue, Ticket
from service.admission.rate_limits import Budget
from service.admission.service_rate import ServiceRate, retry_after
from service.errors import ApiError, ErrorCode

Clock = Callable[[], float]  # monotonic seconds
Capacity = Callable[[], int]  # how many more requests the usable replicas of a model take


class Assignable(Protocol):
    """A replica, as far as admission knows one."""

    in_flight: int


class SlotPool:
    """The slots of one model: `held` counts them all, `unassigned` those that are at no replica at the moment.

    `capacity` asks the replicas, which do not know of unassigned slots. `waiting` holds the queued requests, `queue`
    decides who of them is next, and `most` is the peak of both together since it was last read. `chance` gives numbers
    from 0 to 1.
    """

    def __init__(self, model_id: str, clock: Clock, chance: Callable[[], float]) -> None:
        self.model_id, self.clock, self._chance = model_id, clock, chance
        self.capacity: Capacity = int
        self.held = self.unassigned = self.most = 0
        self.queue = Queue()
        self.service_rate = ServiceRate(clock())
        self.waiting: dict[Ticket, Slot] = {}

    def take(self, now: float) -> None:
        """A request is let in."""
        self.service_rate.hold(now, self.held)
        self.held += 1
        self.unassigned += 1
        self._count()

    def give_back(self, place: "Slot", tokens: float) -> None:
        """A request that was let in has ended, and took so many tokens: the next one's turn."""
        now = self.clock()
        self.service_rate.end(now, self.held)
        self.held -= 1
        self.unassigned -= 1
        if place.ticket:
            self.queue.ended(place.ticket, tokens)
        if self.waiting:
            self.fill(now)

    def fill(self, now: float) -> None:
        """Lets in as many of those who wait as there is room for."""
        free = self.capacity() - self.unassigned if self.waiting else 0
        while free > 0 and self.waiting:
            ticket = self.queue.first()
            place = self.waiting[ticket]
            if place.deadline <= now:
                self.expire(place, ticket)
                continue
            del self.waiting[ticket]
            self.queue.take(ticket)
            self.take(now)
            place.grant()
            free -= 1

    def enqueue(self, place: "Slot", ticket: Ticket, most: int, now: float) -> None:
        """Lets a request wait, among `most` at most; raises 503 where it would wait in vain."""
        self.queue.push(ticket)
        self.waiting[ticket] = place
        self._count()
        self.service_rate.hold(now, self.held)
        if self.service_rate.knows(self.held):
            wait = (self.queue.ahead(ticket) + 1) / self.service_rate.rate(self.held)
            if wait > place.deadline - now:
                raise self._refused(ticket, f"would take about {wait:.0f} s to get a place, longer than it may wait")
        if len(self.waiting) > most:
            excess = self.queue.excess(ticket)
            loser = self.waiting[excess]
            error = self._refused(excess, f"finds {most} others waiting, as many as may")
            if loser is place:
                raise error
            loser.refuse(error)

    def expire(self, place: "Slot", ticket: Ticket) -> None:
        """Refuses a request that has waited for as long as it may."""
        place.refuse(self._refused(ticket, "has found no free place for as long as it may wait"))

    def withdraw(self, ticket: Ticket) -> None:
        """A request waits no more."""
        self.queue.remove(ticket)
        del self.waiting[ticket]

    def _count(self) -> None:
        now = self.held + len(self.waiting)
        if now > self.most:
            self.most = now

    def _refused(self, ticket: Ticket, why: str) -> ApiError:
        """Takes a request out of the queue, and says why and when to come again."""
        position = self.queue.ahead(ticket) + 1
        self.withdraw(ticket)
        seconds = retry_after(position, self.service_rate.rate(self.held), self._chance())
        message = f"'{self.model_id}' is busy: this request {why}. Try again in {seconds:g} s."
        return ApiError(ErrorCode.OVERLOADED, message, retry_after=seconds)


class Slot:
    """A request's place at a model's replicas, or in the queue for one. As a context it frees at the end what it has.

    Once let in, the request takes its place to a replica with `sit`, and away from there with `rise`: the place stays
    its own until it leaves, so that a second attempt at another replica needs no second place. Without a ticket it was
    never in the queue; with one it waits until `deadline`.
    """

    __slots__ = ("_budget", "_cost", "_error", "_future", "_places", "_seat", "_state", "_tokens", "deadline", "ticket")

    def __init__(
        self,
        places: SlotPool,
        budget: Budget | None,
        cost: float,
        ticket: Ticket | None = None,
        deadline: float = math.inf,
    ) -> None:
        self._places = places
        self._budget = budget
        self._cost = self._tokens = cost
        self.ticket = ticket
        self.deadline = deadline
        self._state: Literal["waiting", "in", "refused", "left"] = "waiting" if ticket else "in"
        self._seat: Assignable | None = None
        self._error: ApiError | None = None
        self._future: asyncio.Future[None] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether the request has not been let in yet."""
        return self._state == "waiting" or self._state == "refused"

    @property
    def ahead(self) -> int:
        """How many go before it, as things stand."""
        return self._places.queue.ahead(self.ticket) if self.ticket and self._state == "waiting" else 0

    @property
    def position(self) -> int:
        """Its place in the queue: 1 goes next, 0 waits no more."""
        return self.ahead + 1 if self._state == "waiting" else 0

    async def granted(self, seconds: float) -> bool:
        """Waits for at most so long; returns whether the request was let in, and raises 503 once it is refused."""
        if self._state == "waiting":
            left = self.deadline - self._places.clock()
            if left > 0:
                self._future = self._future or asyncio.get_running_loop().create_future()
                await asyncio.wait((self._future,), timeout=min(seconds, left))
            if self._state == "waiting" and left <= seconds and self.ticket:
                self._places.expire(self, self.ticket)
        if self._error:
            raise self._error
        return self._state == "in"

    def assign(self, seat: Assignable) -> None:
        """Takes the place to a replica, which counts it from now on."""
        seat.in_flight += 1
        self._places.unassigned -= 1
        self._seat = seat

    def unassign(self) -> None:
        """Takes the place away from its replica, if it is at one."""
        if self._seat:
            self._seat.in_flight -= 1
            self._places.unassigned += 1
            self._seat = None

    def ended(self, tokens: float) -> None:
        """Says how many tokens the request really took, before it leaves; without that what was thought counts."""
        self._tokens = tokens

    def grant(self) -> None:
        """The request is let in."""
        self._state = "in"
        self._wake()

    def refuse(self, error: ApiError) -> None:
        """The request is refused, and learns it when it next asks."""
        self._state, self._error = "refused", error
        self._wake()

    def leave(self) -> None:
        """Frees the place, in the queue or at the replicas; what has left already has nothing to free."""
        state, self._state = self._state, "left"
        if state == "in":
            if self._seat:
                self.unassign()
            if self._budget:
                self._budget.leave(self._cost, self._tokens)
            self._places.give_back(self, self._tokens)
        elif state != "left":
            if self._budget:
                self._budget.cancel(self._cost)
            if state == "waiting" and self.ticket:
                self._places.withdraw(self.ticket)

    def __enter__(self) -> "Slot":
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def _wake(self) -> None:
        if self._future and not self._future.done():
            self._future.set_result(None)
