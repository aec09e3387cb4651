"""What requests get done, and who waits for whom, when far more come than can be answered. Time is simulated."""

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
from service.auth.tenants import Priority, Tenant
from service.config.settings import Settings
from service.errors import ApiError
from service.fleet.served_model import ServedModel
from tests.admission.gates import Seats
from tests.admission.virtual import simulate
from tests.support import fleets

PLACES = 8
SERVICE = 1.0  # seconds that a request takes on average; the tokens it takes are a hundred times as many
CAPACITY = PLACES / SERVICE  # requests per second
SPAN = 72.0  # seconds of load
WARM = 12.0  # of them at the beginning, in which the queue builds up
PATIENCE = 10.0  # seconds that a request may wait


@dataclass(frozen=True)
class Source:
    """Requests that come at random times, so many a second, whatever became of those before."""

    rate: float
    tenant: Tenant = Tenant("x")
    priority: Priority = "default"
    inflated: float = 1.0  # by how much the tokens are thought too many
    size: float = 1.0  # mean of a request, in those of the others


@dataclass
class Run:
    """What came of a load: the answers, and what each tenant and class got of them."""

    served: ServedModel
    settings: Settings = field(default_factory=lambda: Settings(queue_timeout=PATIENCE))
    look: float = 4.0  # seconds after which one who waits looks at its place in the queue
    good: int = 0  # of those that were answered: who waited no longer than patience allows
    answered: int = 0
    refused: int = 0
    retry_after: list[int] = field(default_factory=list)
    longest_queue: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    waits: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.seats = [Seats(PLACES // 2), Seats(PLACES // 2)]
        self.random = random.Random(1)

    def __call__(self, *sources: Source) -> "Run":
        simulate(lambda clock: self._load(clock, sources))
        return self

    async def _load(self, clock: Callable[[], float], sources: tuple[Source, ...]) -> None:
        self.clock = clock
        self.admission = Admission(self.settings, clock, self.random.random)
        async with asyncio.TaskGroup() as group:
            for source in sources:
                group.create_task(self._come(source, group))
        assert (self.admission.load(self.served.id), self.admission.queued(self.served.id)) == (0, 0)
        assert [one.in_flight for one in self.seats] == [0, 0]

    async def _come(self, source: Source, group: asyncio.TaskGroup) -> None:
        while self.clock() < SPAN:
            await asyncio.sleep(self.random.expovariate(source.rate))
            group.create_task(self._ask(source))

    async def _ask(self, source: Source) -> None:
        seconds = source.size * self.random.uniform(0.5, 1.5) * SERVICE
        tokens = round(100 * seconds)
        came = self.clock()
        room: Callable[[], int] = lambda: sum(one.room() for one in self.seats)  # noqa: E731
        try:
            with self.admission.enter(
                self.served, source.tenant, source.priority, tokens * source.inflated, room, came
            ) as place:
                self.longest_queue = max(self.longest_queue, self.admission.queued(self.served.id))
                while place.is_waiting and not await place.granted(self.look):
                    assert 1 <= place.position <= self.served.max_queued
                waited = self.clock() - came
                place.assign(max(self.seats, key=Seats.room))
                assert all(one.in_flight <= one.limit for one in self.seats)
                await asyncio.sleep(seconds)
                place.ended(tokens)
        except ApiError as error:
            self.refused += 1
            self.retry_after.append(int(error.headers["retry-after"]))
            return
        if came > WARM:
            self.waits.setdefault(f"{source.tenant.id} {source.priority}", []).append(waited)
        if WARM < self.clock() < SPAN:
            self.answered += 1
            self.tokens[source.tenant.id] += tokens
            self.good += waited <= PATIENCE

    def wait(self, who: str) -> float:
        """What 99 of 100 requests of a tenant and class waited at most, in seconds."""
        return quantiles(self.waits[who], n=100)[-1]


@pytest.fixture
def served(tmp_path: Path) -> ServedModel:
    return fleets.only(tmp_path, "model: pebble-chat\nmax_queued: 200")


def test_ten_times_as_many_requests_get_as_many_answers_in_time(served: ServedModel) -> None:
    just, much = Run(served)(Source(CAPACITY)), Run(served)(Source(10 * CAPACITY))
    print(f"goodput {just.good} at capacity, {much.good} at ten times as much; refused {just.refused}, {much.refused}")
    assert much.good >= 0.9 * just.good
    assert much.good == much.answered  # nobody was let in who had waited too long
    assert much.longest_queue <= served.max_queued
    # The wait that those refused are told is the one that those before them had.
    assert min(much.retry_after) >= 1
    assert 8 <= quantiles(sorted(much.retry_after)[100:], n=2)[0] <= 30


def test_without_bounds_hardly_any_answer_comes_in_time(served: ServedModel) -> None:
    """The simulation shows the difference that the bounds make."""
    just = Run(served)(Source(CAPACITY))
    much = Run(replace(served, max_queued=10**6), Settings(queue_timeout=1e6), look=1e6)(Source(5 * CAPACITY))
    assert much.refused == 0
    assert much.good < 0.2 * just.good


def test_a_tenant_with_fifty_times_as_many_requests_waits_behind_itself(served: ServedModel) -> None:
    quiet, noisy = Source(0.1 * CAPACITY, Tenant("quiet")), Source(5 * CAPACITY, Tenant("noisy"))
    alone, together = Run(served)(quiet), Run(served)(quiet, noisy)
    print(f"quiet waits {alone.wait('quiet default'):.2f} s alone, {together.wait('quiet default'):.2f} s beside")
    print(f"noisy waits {together.wait('noisy default'):.2f} s")
    assert together.wait("quiet default") <= alone.wait("quiet default") + SERVICE
    assert together.wait("noisy default") > 5 * SERVICE
    assert len(together.waits["quiet default"]) == pytest.approx(len(alone.waits["quiet default"]), rel=0.3)


def test_tenants_get_tokens_by_their_weight(served: ServedModel) -> None:
    tenants = [Tenant(name, weight) for name, weight in (("a", 1), ("b", 2), ("c", 4))]
    run = Run(served)(*(Source(2 * CAPACITY, tenant) for tenant in tenants))
    whole = sum(run.tokens.values())
    assert run.tokens["a"] / whole == pytest.approx(1 / 7, rel=0.1)
    assert run.tokens["b"] / whole == pytest.approx(2 / 7, rel=0.1)


@pytest.mark.parametrize(("inflated", "size"), [(8.0, 1.0), (0.1, 1.0), (1.0, 4.0)])
def test_shares_are_of_what_was_really_taken(served: ServedModel, inflated: float, size: float) -> None:
    one = Source(2 * CAPACITY, Tenant("a"), inflated=inflated, size=size)
    tokens = Run(served)(one, Source(2 * CAPACITY, Tenant("b"))).tokens
    assert tokens["a"] / sum(tokens.values()) == pytest.approx(0.5, abs=0.06)


def test_what_is_urgent_does_not_wait_for_what_is_not(served: ServedModel) -> None:
    run = Run(served)(
        Source(0.3 * CAPACITY, priority="interactive"),
        Source(0.3 * CAPACITY, priority="default"),
        Source(3 * CAPACITY, priority="batch"),
    )
    assert run.wait("x interactive") < 0.6 * SERVICE
    assert run.wait("x default") < SERVICE
    assert run.wait("x batch") > 5 * SERVICE
    assert math.isclose(run.tokens["x"], 100 * CAPACITY * (SPAN - WARM), rel_tol=0.05)


def test_what_is_idle_while_somebody_waits_is_nothing(served: ServedModel) -> None:
    run = Run(served)(Source(10 * CAPACITY))
    assert run.tokens["x"] == pytest.approx(100 * CAPACITY * (SPAN - WARM), rel=0.05)
