"""Goodput and fairness under overload, simulated on a virtual clock."""

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import quantiles

import pytest

from service.admission.gate import Admission
from service.admission.slots import Capacity
from service.auth.tenants import Priority, Tenant
from service.config.settings import Settings
from service.errors import ApiError
from service.fleet.served_model import ServedModel
from tests.admission.harness import FakeReplica
from tests.admission.virtual import simulate
from tests.support import fleets

SLOTS = 8
SERVICE_TIME = 1.0  # mean seconds per request; a request takes 100 tokens per second
CAPACITY = SLOTS / SERVICE_TIME  # requests per second
DURATION = 72.0  # seconds of load
WARM_UP = 12.0  # seconds of it that are not counted, in which the queue builds up
QUEUE_TIMEOUT = 10.0  # seconds


@dataclass(frozen=True)
class Source:
    """An open-loop load: Poisson arrivals at `rate` per second, whatever becomes of earlier requests."""

    rate: float
    tenant: Tenant = Tenant("x")
    priority: Priority = "default"
    overestimate: float = 1.0  # estimated cost / tokens taken
    size: float = 1.0  # mean service time / SERVICE_TIME
    session: str | None = None
    invents_sessions: bool = False  # another one for each request


@dataclass
class Run:
    """One simulated load and its results: in total, and per tenant and priority."""

    served: ServedModel
    settings: Settings = field(default_factory=lambda: Settings(queue_timeout=QUEUE_TIMEOUT))
    poll: float = 4.0  # seconds after which a queued request reads its position
    in_time: int = 0  # of those completed: how many were queued within QUEUE_TIMEOUT
    completed: int = 0
    rejected: int = 0
    retry_after: list[int] = field(default_factory=list)
    longest_queue: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    queue_times: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.replicas = [FakeReplica(SLOTS // 2), FakeReplica(SLOTS // 2)]
        self.random = random.Random(1)

    def __call__(self, *sources: Source) -> "Run":
        simulate(lambda clock: self._load(clock, sources))
        return self

    async def _load(self, clock: Callable[[], float], sources: tuple[Source, ...]) -> None:
        self.clock = clock
        self.admission = Admission(self.settings, clock, self.random.random)
        async with asyncio.TaskGroup() as group:
            for source in sources:
                group.create_task(self._arrive(source, group))
        assert (self.admission.load(self.served.id), self.admission.queued(self.served.id)) == (0, 0)
        assert [replica.in_flight for replica in self.replicas] == [0, 0]

    async def _arrive(self, source: Source, group: asyncio.TaskGroup) -> None:
        while self.clock() < DURATION:
            await asyncio.sleep(self.random.expovariate(source.rate))
            group.create_task(self._send(source))

    async def _send(self, source: Source) -> None:
        seconds = source.size * self.random.uniform(0.5, 1.5) * SERVICE_TIME
        tokens = round(100 * seconds)
        arrived = self.clock()
        capacity: Capacity = lambda now: sum(replica.capacity() for replica in self.replicas)  # noqa: E731
        try:
            with self.admission.acquire(
                self.served,
                source.tenant,
                source.priority,
                tokens * source.overestimate,
                capacity,
                arrived,
                session=str(self.random.random()) if source.invents_sessions else source.session,
            ) as slot:
                self.longest_queue = max(self.longest_queue, self.admission.queued(self.served.id))
                while slot.is_queued and not await slot.wait_admitted(self.poll):
                    assert 1 <= slot.position <= self.served.max_queued
                queue_time = self.clock() - arrived
                slot.assign(max(self.replicas, key=FakeReplica.capacity))
                assert all(replica.in_flight <= replica.limit for replica in self.replicas)
                await asyncio.sleep(seconds)
                slot.tokens = tokens
        except ApiError as error:
            self.rejected += 1
            self.retry_after.append(int(error.headers["retry-after"]))
            return
        if arrived > WARM_UP:
            for key in (f"{source.tenant.id} {source.priority}", f"{source.tenant.id} {source.session}"):
                self.queue_times.setdefault(key, []).append(queue_time)
        if WARM_UP < self.clock() < DURATION:
            self.completed += 1
            self.tokens[source.tenant.id] += tokens
            self.in_time += queue_time <= QUEUE_TIMEOUT

    def p99_queue_time(self, key: str) -> float:
        """The 99th percentile of the queue time, in seconds, of `"<tenant> <priority>"`."""
        return quantiles(self.queue_times[key], n=100)[-1]


@pytest.fixture
def served(tmp_path: Path) -> ServedModel:
    return fleets.only(tmp_path, "model: pebble-chat\nmax_queued: 200")


def test_goodput_at_ten_times_the_capacity_is_that_at_capacity(served: ServedModel) -> None:
    at_capacity, overloaded = Run(served)(Source(CAPACITY)), Run(served)(Source(10 * CAPACITY))
    print(f"goodput {at_capacity.in_time} at capacity, {overloaded.in_time} at ten times as much")
    print(f"rejected {at_capacity.rejected} and {overloaded.rejected}")
    assert overloaded.in_time >= 0.9 * at_capacity.in_time
    assert overloaded.in_time == overloaded.completed  # no request is admitted after its queue timeout
    assert overloaded.longest_queue <= served.max_queued
    # The Retry-After of rejected requests is about the time that a full queue takes.
    assert min(overloaded.retry_after) >= 1
    assert 8 <= quantiles(sorted(overloaded.retry_after)[100:], n=2)[0] <= 30


def test_goodput_collapses_without_a_bounded_queue_and_timeout(served: ServedModel) -> None:
    """A control: the simulation does show what the bounds are for."""
    at_capacity = Run(served)(Source(CAPACITY))
    overloaded = Run(replace(served, max_queued=10**6), Settings(queue_timeout=1e6), poll=1e6)(Source(5 * CAPACITY))
    assert overloaded.rejected == 0
    assert overloaded.in_time < 0.2 * at_capacity.in_time


def test_noisy_tenant_delays_only_itself(served: ServedModel) -> None:
    quiet, noisy = Source(0.1 * CAPACITY, Tenant("quiet")), Source(5 * CAPACITY, Tenant("noisy"))
    alone, together = Run(served)(quiet), Run(served)(quiet, noisy)
    p99 = [run.p99_queue_time("quiet default") for run in (alone, together)]
    print(f"p99 queue time of quiet: {p99[0]:.2f} s alone, {p99[1]:.2f} s beside noisy")
    print(f"p99 queue time of noisy: {together.p99_queue_time('noisy default'):.2f} s")
    assert p99[1] <= p99[0] + SERVICE_TIME
    assert together.p99_queue_time("noisy default") > 5 * SERVICE_TIME
    assert len(together.queue_times["quiet default"]) == pytest.approx(len(alone.queue_times["quiet default"]), rel=0.3)


def test_agents_of_one_session_do_not_starve_the_chat_of_another(served: ServedModel) -> None:
    """One tenant: a person's agents ask five times what the replicas take, another person chats."""
    calm, agents = Source(0.1 * CAPACITY, session="chat"), Source(5 * CAPACITY, session="agents")
    alone, together = Run(served)(calm), Run(served)(calm, agents)
    assert together.p99_queue_time("x chat") <= alone.p99_queue_time("x chat") + SERVICE_TIME
    assert together.p99_queue_time("x agents") > 5 * SERVICE_TIME
    assert len(together.queue_times["x chat"]) == pytest.approx(len(alone.queue_times["x chat"]), rel=0.3)
    mixed = Run(served)(replace(calm, session="agents"), agents)  # a control: without sessions the chat waits with them
    assert mixed.p99_queue_time("x agents") > 5 * SERVICE_TIME


def test_invented_sessions_gain_nothing_of_other_tenants(served: ServedModel) -> None:
    honest = Source(2 * CAPACITY, Tenant("honest"), session="s")
    run = Run(served)(honest, Source(2 * CAPACITY, Tenant("other"), invents_sessions=True))
    assert run.tokens["honest"] / sum(run.tokens.values()) == pytest.approx(0.5, abs=0.06)


def test_tenants_share_tokens_by_weight(served: ServedModel) -> None:
    tenants = [Tenant(name, weight) for name, weight in (("a", 1), ("b", 2), ("c", 4))]
    run = Run(served)(*(Source(2 * CAPACITY, tenant) for tenant in tenants))
    total = sum(run.tokens.values())
    assert run.tokens["a"] / total == pytest.approx(1 / 7, rel=0.1)
    assert run.tokens["b"] / total == pytest.approx(2 / 7, rel=0.1)


@pytest.mark.parametrize(("overestimate", "size"), [(8.0, 1.0), (0.1, 1.0), (1.0, 4.0)])
def test_shares_follow_tokens_taken_not_estimates(served: ServedModel, overestimate: float, size: float) -> None:
    one = Source(2 * CAPACITY, Tenant("a"), overestimate=overestimate, size=size)
    tokens = Run(served)(one, Source(2 * CAPACITY, Tenant("b"))).tokens
    assert tokens["a"] / sum(tokens.values()) == pytest.approx(0.5, abs=0.06)


def test_higher_priority_does_not_queue_behind_lower(served: ServedModel) -> None:
    run = Run(served)(
        Source(0.3 * CAPACITY, priority="interactive"),
        Source(0.3 * CAPACITY, priority="default"),
        Source(3 * CAPACITY, priority="batch"),
    )
    assert run.p99_queue_time("x interactive") < 0.6 * SERVICE_TIME
    assert run.p99_queue_time("x default") < SERVICE_TIME
    assert run.p99_queue_time("x batch") > 5 * SERVICE_TIME
    assert math.isclose(run.tokens["x"], 100 * CAPACITY * (DURATION - WARM_UP), rel_tol=0.05)


def test_no_slot_is_idle_while_requests_are_queued(served: ServedModel) -> None:
    run = Run(served)(Source(10 * CAPACITY))
    assert run.tokens["x"] == pytest.approx(100 * CAPACITY * (DURATION - WARM_UP), rel=0.05)
