"""The queued requests of one tenant in one priority class: its sessions take turns, one request each.

A session is what the client says belongs together, such as one person's agent with all of its sub-agents; a request
that names none is of the session None, which they all share. A session exists while it has requests queued, so that
what is kept is bounded by the queue. A session that comes anew waits for one request of each other one at most. Pure.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from service.auth.tenants import Priority, Tenant


@dataclass(eq=False, slots=True)
class Ticket:
    """A queued request. `cost` is its estimated tokens, above zero, `sequences` what it is for the engine.

    The queue sets `number`, which counts arrivals, and `flow`, which the request is charged to.
    """

    tenant: Tenant
    priority: Priority
    cost: float
    sequences: int = 1
    session: str | None = None
    number: int = 0
    flow: "Flow | None" = None


class Before(NamedTuple):
    """What is queued before a request: requests, and their estimated tokens and sequences."""

    requests: int
    tokens: float
    sequences: int


@dataclass(eq=False, slots=True)
class Session:
    """The requests of one session in order of arrival, with the sums of `tokens` and `sequences`."""

    queued: OrderedDict[Ticket, None] = field(default_factory=OrderedDict)
    tokens: float = 0.0
    sequences: int = 0

    def before(self, ticket: Ticket) -> Before:
        """Those of its own that go before this one, exactly."""
        if next(reversed(self.queued)) is ticket:  # the newest, so the sums are known
            return Before(len(self.queued) - 1, self.tokens - ticket.cost, self.sequences - ticket.sequences)
        requests, tokens, sequences = 0, 0.0, 0
        for other in self.queued:
            if other is ticket:
                break
            requests, tokens, sequences = requests + 1, tokens + other.cost, sequences + other.sequences
        return Before(requests, tokens, sequences)


class Sessions:
    """The requests of one tenant in one class by session, with the sums of `tokens` and `sequences`."""

    __slots__ = ("_length", "_sessions", "sequences", "tokens")

    def __init__(self) -> None:
        self._sessions: OrderedDict[str | None, Session] = OrderedDict()  # in the order of their turns
        self._length, self.tokens, self.sequences = 0, 0.0, 0

    def __len__(self) -> int:
        return self._length

    def push(self, ticket: Ticket) -> None:
        """Queues a request behind those of its session; a session that has none is the last one in turn."""
        session = self._sessions.get(ticket.session)
        if session is None:
            session = self._sessions[ticket.session] = Session()
        session.queued[ticket] = None
        session.tokens += ticket.cost
        session.sequences += ticket.sequences
        self._length += 1
        self.tokens += ticket.cost
        self.sequences += ticket.sequences

    def remove(self, ticket: Ticket) -> None:
        """Takes a request out; its session keeps its turn if it has more."""
        session = self._sessions[ticket.session]
        del session.queued[ticket]
        session.tokens -= ticket.cost
        session.sequences -= ticket.sequences
        if not session.queued:
            del self._sessions[ticket.session]
        self._length -= 1
        self.tokens = self.tokens - ticket.cost if self._length else 0.0
        self.sequences -= ticket.sequences

    def rotate(self, ticket: Ticket) -> None:
        """Ends the turn of this request's session."""
        self._sessions.move_to_end(ticket.session)

    def first(self) -> Ticket:
        """The next request: the oldest of the session whose turn it is."""
        return next(iter(next(iter(self._sessions.values())).queued))

    def newest_of_longest(self) -> Ticket:
        """The newest request of the session with the most."""
        return next(reversed(max(self._sessions.values(), key=lambda session: len(session.queued)).queued))

    def is_longer(self, one: Ticket, other: Ticket) -> bool:
        """Whether the session of `one` has more requests queued than that of `other`."""
        return len(self._sessions[one.session].queued) > len(self._sessions[other.session].queued)

    def before(self, ticket: Ticket) -> Before:
        """What goes before this request, if no more arrive.

        How many requests is exact; their tokens and sequences are so for its own session, and the mean for others.
        """
        own = self._sessions[ticket.session]
        before = own.before(ticket)
        if len(self._sessions) == 1:
            return before
        others = self._turns_before(own, before.requests)
        share = others / (self._length - len(own.queued))
        return Before(
            before.requests + others,
            before.tokens + (self.tokens - own.tokens) * share,
            before.sequences + int((self.sequences - own.sequences) * share),
        )

    def _turns_before(self, own: Session, rounds: int) -> int:
        """How many requests of other sessions go before that one of `own` which comes after `rounds` of its turns."""
        if not rounds and next(reversed(self._sessions.values())) is own:
            return len(self._sessions) - 1  # it has just come, so each of the others has one turn before
        turns, count = rounds + 1, 0
        for session in self._sessions.values():
            if session is own:
                turns = rounds
            else:
                count += min(len(session.queued), turns)
        return count


@dataclass(eq=False, slots=True)
class Flow:
    """The requests of one tenant in one class: `queued` is those that wait.

    `start_tag` is the start tag of the next request. It never falls below `floor`, the virtual time of the class when
    the tenant last queued its first request. `running` counts admitted requests that have not completed.
    """

    weight: float
    start_tag: float
    floor: float
    queued: Sessions
    running: int = 0

    def complete(self, cost: float, tokens: float) -> None:
        """A running request has completed: corrects the `cost` that it was charged to the `tokens` that it took."""
        self.running -= 1
        self.start_tag = max(self.floor, self.start_tag + (tokens - cost) / self.weight)

    def backlog(self) -> float:
        """Queued requests per unit of weight."""
        return len(self.queued) / self.weight

    def starting_before(self, tag: float) -> int:
        """How many queued requests have a start tag up to `tag`, if all of them cost the same."""
        gap, count = tag - self.start_tag, len(self.queued)
        return min(count, 1 + int(gap * self.weight * count / self.queued.tokens)) if gap >= 0 else 0
