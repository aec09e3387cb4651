"""The order of the requests queued for one model: strict priority classes, and weighted fair queueing within a class.

Within a class it is start-time fair queueing: P. Goyal, H. Vin and H. Cheng, "Start-time fair queuing: a scheduling
algorithm for integrated services packet switching networks", SIGCOMM 1996. Each tenant is a flow with a start tag,
which advances by cost / weight for every request admitted; the flow with the lowest start tag is next. The cost, in
tokens, is an estimate until the request has completed, and then corrected. A tenant is not charged for requests
admitted while nothing was queued, and gains no credit while it is idle. Within a flow the sessions of the tenant take
turns, see `flow`. Pure.
"""

from collections.abc import Iterator
from typing import NamedTuple

from service.admission.flow import Flow, Sessions, Ticket
from service.auth.tenants import PRIORITIES, Priority, Tenant


class Ahead(NamedTuple):
    """What is queued before a request."""

    requests: int
    sequences: int


class PriorityClass:
    """The queued requests of one priority. `virtual_time` is the highest start tag admitted since it was last empty."""

    def __init__(self) -> None:
        self.flows: dict[str, Flow] = {}
        self.virtual_time = 0.0
        self.length = self.sequences = 0

    def backlogged(self) -> Iterator[Flow]:
        """The flows that have queued requests."""
        return (flow for flow in self.flows.values() if flow.queued)

    def push(self, ticket: Ticket) -> None:
        """Queues a request behind those of its tenant and session."""
        flow = self._flow(ticket.tenant)
        if not flow.queued:
            flow.start_tag, flow.floor = max(flow.start_tag, self.virtual_time), self.virtual_time
        flow.queued.push(ticket)
        ticket.flow = flow
        self.length += 1
        self.sequences += ticket.sequences

    def remove(self, ticket: Ticket, flow: Flow) -> None:
        """Takes a request out; with the last one the accounts of all tenants are cleared."""
        flow.queued.remove(ticket)
        self.length -= 1
        self.sequences -= ticket.sequences
        if not self.length:
            self.flows, self.virtual_time = {}, 0.0

    def admit(self, ticket: Ticket, flow: Flow) -> None:
        """Takes a request out and charges its flow for it."""
        self.virtual_time = max(self.virtual_time, flow.start_tag)
        flow.start_tag += ticket.cost / flow.weight
        flow.running += 1
        flow.queued.rotate(ticket)
        self.remove(ticket, flow)

    def first(self) -> Ticket:
        """The next request: of the flow with the lowest start tag, and of equal ones the one that arrived first."""
        heads = ((flow.start_tag, flow.queued.first()) for flow in self.backlogged())
        return min(heads, key=lambda pair: (pair[0], pair[1].number))[1]

    def newest_of_longest(self) -> Ticket:
        """The newest request of the longest session, in the flow with the longest backlog for its weight."""
        return max(self.backlogged(), key=Flow.backlog).queued.newest_of_longest()

    def _flow(self, tenant: Tenant) -> Flow:
        flow = self.flows.get(tenant.id)
        if flow is None:
            # An idle flow that is not ahead of virtual time would start where a new one does, so it need not be kept.
            kept = {
                name: other
                for name, other in self.flows.items()
                if other.queued or other.running or other.start_tag > self.virtual_time
            }
            self.flows = kept
            flow = kept[tenant.id] = Flow(tenant.weight, self.virtual_time, self.virtual_time, Sessions())
        flow.weight = tenant.weight
        return flow


class Queue:
    """The queued requests of one model. It is unbounded: its owner drops `to_drop` when there are too many."""

    def __init__(self) -> None:
        self._classes = {priority: PriorityClass() for priority in PRIORITIES}
        self._length = self._count = 0

    def __len__(self) -> int:
        return self._length

    def push(self, ticket: Ticket) -> None:
        """Queues a request behind those of its class, tenant and session."""
        self._count += 1
        ticket.number = self._count
        self._classes[ticket.priority].push(ticket)
        self._length += 1

    def first(self) -> Ticket:
        """The next request; the queue must not be empty."""
        return next(one for one in self._classes.values() if one.length).first()

    def admit(self, ticket: Ticket) -> None:
        """Takes a request out of the queue and charges its tenant for it."""
        assert ticket.flow
        self._classes[ticket.priority].admit(ticket, ticket.flow)
        self._length -= 1

    def remove(self, ticket: Ticket) -> None:
        """Takes a request out of the queue without charging for it."""
        assert ticket.flow
        self._classes[ticket.priority].remove(ticket, ticket.flow)
        self._length -= 1

    def complete(self, ticket: Ticket, tokens: float) -> None:
        """An admitted request has completed, having taken `tokens`."""
        assert ticket.flow
        ticket.flow.complete(ticket.cost, tokens)

    def ahead(self, ticket: Ticket) -> Ahead:
        """What is queued before this request, if no more arrive.

        Exact where one session is queued. Otherwise the requests of each other session, and of each other tenant, are
        taken to be equal.
        """
        flow = ticket.flow
        assert flow
        requests, tokens, sequences = flow.queued.before(ticket)
        start_tag = flow.start_tag + tokens / flow.weight
        *higher, own = self._down_to(ticket.priority)
        for one in higher:
            requests, sequences = requests + one.length, sequences + one.sequences
        for other in own.backlogged():
            if other is not flow:
                count = other.starting_before(start_tag)
                requests, sequences = requests + count, sequences + count * other.queued.sequences // len(other.queued)
        return Ahead(requests, sequences)

    def to_drop(self, newcomer: Ticket) -> Ticket:
        """The request to drop when the queue is too long: of the lowest class, the newest of the longest flow's longest
        session.

        It is `newcomer` itself where that is of the lowest class and no flow has a longer backlog for its weight, and
        in its own flow no session has more queued.
        """
        assert newcomer.flow
        lowest = next(one for one in reversed(self._classes.values()) if one.length)
        newest = lowest.newest_of_longest()
        assert newest.flow
        if newest.priority != newcomer.priority or newest.flow.backlog() > newcomer.flow.backlog():
            return newest
        longest = newcomer.flow.queued.newest_of_longest()
        return longest if newcomer.flow.queued.is_longer(longest, newcomer) else newcomer

    def _down_to(self, priority: Priority) -> list[PriorityClass]:
        """The classes above this one, the highest first, and then this one."""
        return [self._classes[name] for name in PRIORITIES[: PRIORITIES.index(priority) + 1]]
