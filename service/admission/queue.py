"""Who goes next among the requests that wait for one model: pure, and no step costs more than the tenants who wait.

Classes of priority go strictly one after the other. Within a class each tenant has a virtual time, which moves on by
tokens over weight with every request that is let in, and the tenant whose time is earliest goes next: start-time fair
queuing. Tokens are an estimate until a request has ended, and corrected then. Nobody pays for what they got while
nobody waited, and nobody saves up what they did not ask for.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile

from service.auth.tenants import PRIORITIES, Priority, Tenant


@dataclass(eq=False, slots=True)
class Ticket:
    """A request that waits. `cost` is its tokens, above zero.

    `number` and `flow` are the queue's: as which it came, and the flow that pays for it.
    """

    tenant: Tenant
    priority: Priority
    cost: float
    number: int = 0
    flow: "Flow | None" = None


@dataclass(eq=False, slots=True)
class Flow:
    """One tenant's requests of one class: those that wait, in the order they came, and their tokens.

    `time` is the tenant's virtual time. It is never set back before `since`, where the class was when the tenant last
    came with nothing else waiting. `running` counts those that were let in and have not ended.
    """

    weight: float
    time: float
    since: float
    waiting: OrderedDict[Ticket, None] = field(default_factory=OrderedDict)
    tokens: float = 0.0
    running: int = 0

    def end(self, cost: float, tokens: float) -> None:
        """One of those running has ended: it was charged `cost` and took `tokens`."""
        self.running -= 1
        self.time = max(self.since, self.time + (tokens - cost) / self.weight)

    def share(self) -> float:
        """How many wait for each unit of weight."""
        return len(self.waiting) / self.weight

    def before(self, ticket: Ticket) -> list[Ticket]:
        """Those in this flow that go before one of it."""
        return list(takewhile(lambda one: one is not ticket, self.waiting))

    def starting_before(self, time: float) -> int:
        """How many of those waiting are let in before this virtual time, as if they all cost the same."""
        gap = time - self.time
        return min(len(self.waiting), 1 + int(gap * self.weight * len(self.waiting) / self.tokens)) if gap >= 0 else 0


class PriorityClass:
    """The requests of one class. `time` is its virtual time: that of the tenant who was let in last, and never back."""

    def __init__(self) -> None:
        self.flows: dict[str, Flow] = {}
        self.time = 0.0
        self.length = 0

    def backlog(self) -> Iterator[Flow]:
        """The flows in which requests wait."""
        return (flow for flow in self.flows.values() if flow.waiting)

    def push(self, ticket: Ticket) -> None:
        flow = self._flow(ticket.tenant)
        if not flow.waiting:
            flow.time, flow.since = max(flow.time, self.time), self.time
        flow.waiting[ticket] = None
        flow.tokens += ticket.cost
        ticket.flow = flow
        self.length += 1

    def remove(self, ticket: Ticket, flow: Flow) -> None:
        del flow.waiting[ticket]
        flow.tokens = flow.tokens - ticket.cost if flow.waiting else 0.0
        self.length -= 1
        if not self.length:
            self.flows, self.time = {}, 0.0

    def take(self, ticket: Ticket, flow: Flow) -> None:
        self.time = max(self.time, flow.time)
        flow.time += ticket.cost / flow.weight
        flow.running += 1
        self.remove(ticket, flow)

    def first(self) -> Ticket:
        """The one that goes next: of tenants at the same time the one who came first."""
        heads = ((flow.time, next(iter(flow.waiting))) for flow in self.backlog())
        return min(heads, key=lambda pair: (pair[0], pair[1].number))[1]

    def newest_of_most(self) -> Ticket:
        """The newest request of the tenant who has most waiting for its weight."""
        return next(reversed(max(self.backlog(), key=Flow.share).waiting))

    def _flow(self, tenant: Tenant) -> Flow:
        flow = self.flows.get(tenant.id)
        if flow is None:
            # A tenant with nothing here and nothing to make up for is as good as a new one.
            kept = {name: one for name, one in self.flows.items() if one.waiting or one.running or one.time > self.time}
            self.flows = kept
            flow = kept[tenant.id] = Flow(tenant.weight, self.time, self.time)
        flow.weight = tenant.weight
        return flow


class Queue:
    """The requests that wait for one model. How many may is for its owner to say."""

    def __init__(self) -> None:
        self._lines = {priority: PriorityClass() for priority in PRIORITIES}
        self._length = self._count = 0

    def __len__(self) -> int:
        return self._length

    def push(self, ticket: Ticket) -> None:
        """Lets one more wait, behind those of its tenant and class."""
        self._count += 1
        ticket.number = self._count
        self._lines[ticket.priority].push(ticket)
        self._length += 1

    def first(self) -> Ticket:
        """The one that goes next; at least one must wait."""
        return next(line for line in self._lines.values() if line.length).first()

    def take(self, ticket: Ticket) -> None:
        """It is let in, and its tenant is charged for it."""
        assert ticket.flow
        self._lines[ticket.priority].take(ticket, ticket.flow)
        self._length -= 1

    def remove(self, ticket: Ticket) -> None:
        """It waits no more, and costs nobody anything."""
        assert ticket.flow
        self._lines[ticket.priority].remove(ticket, ticket.flow)
        self._length -= 1

    def ended(self, ticket: Ticket, tokens: float) -> None:
        """One that was let in has ended, and took so many tokens."""
        assert ticket.flow
        ticket.flow.end(ticket.cost, tokens)

    def ahead(self, ticket: Ticket) -> int:
        """How many go before one that waits, if nobody else comes.

        Exact where one tenant waits; among several it takes each one's requests for equally costly.
        """
        flow = ticket.flow
        assert flow
        if next(reversed(flow.waiting)) is ticket:  # a newcomer: the sums are known
            count, tokens = len(flow.waiting) - 1, flow.tokens - ticket.cost
        else:
            before = flow.before(ticket)
            count, tokens = len(before), sum(one.cost for one in before)
        start = flow.time + tokens / flow.weight
        *higher, line = self._down_to(ticket.priority)
        others = sum(other.starting_before(start) for other in line.backlog() if other is not flow)
        return sum(one.length for one in higher) + count + others

    def excess(self, newcomer: Ticket) -> Ticket:
        """Who makes way when one too many waits: one of the lowest class, or else of the tenant with the most waiting.

        It is the newcomer itself where its class is the lowest and no tenant has more waiting for its weight.
        """
        assert newcomer.flow
        lowest = next(line for line in reversed(self._lines.values()) if line.length)
        newest = lowest.newest_of_most()
        assert newest.flow
        if newest.priority == newcomer.priority and newest.flow.share() <= newcomer.flow.share():
            return newcomer
        return newest

    def _down_to(self, priority: Priority) -> list[PriorityClass]:
        """The classes that go first, and this one."""
        return [self._lines[one] for one in PRIORITIES[: PRIORITIES.index(priority) + 1]]
