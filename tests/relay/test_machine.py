"""Router, admission, relay and upstreams against a small model of themselves: whatever happens, in whatever order."""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from service.auth.tenants import PRIORITIES
from service.fleet.fleet import Fleet
from tests.relay.clockwork import FAULTS, Job
from tests.relay.house import Client, House
from tests.support import fleets

WAITS = "timeouts: {queue: 10, activation: 20, first_token: 8, idle: 4, total: 40}"
# The fleet that the engines start with, and those that an operator may change it to.
FLEETS = (
    f"""
models:
  - {{model: pebble-chat, min_replicas: 2, max_in_flight: 2, max_queued: 3, policy: least_load, {WAITS}}}
  - {{model: pebble-instruct, min_replicas: 0, max_in_flight: 1, max_queued: 4, policy: round_robin, {WAITS}}}
aliases: {{small: pebble-chat}}
tenants: {{acme: {{weight: 2}}, crawler: {{priority: batch, max_in_flight: 2}}, default: {{}}}}
""",
    f"""
models:
  - {{model: pebble-chat, min_replicas: 2, max_in_flight: 1, max_queued: 1, {WAITS}}}
aliases: {{small: pebble-chat}}
tenants: {{crawler: {{priority: batch, max_in_flight: 1}}, default: {{}}}}
""",
    f"""
models:
  - {{model: pebble-chat, min_replicas: 2, max_in_flight: 3, max_queued: 5, policy: round_robin, {WAITS}}}
  - {{model: pebble-instruct, min_replicas: 0, max_in_flight: 2, max_queued: 2, {WAITS}}}
aliases: {{small: pebble-instruct}}
tenants: {{acme: {{}}, crawler: {{max_in_flight: 3}}, default: {{weight: 3}}}}
""",
)
NAMES = ("pebble-chat", "pebble-chat", "pebble-chat", "small", "pebble-instruct", "auto", "nobody")

turns = st.sampled_from((0, 1, 2, 4, 8, None, None, None))  # of the loop before the next thing happens; None is all
which = st.integers(0, 31)
orders = st.integers(0, 2)


class Machine(RuleBasedStateMachine):
    """Clients, engines, the clock and the operator, each doing anything at any time."""

    fleets: tuple[Fleet, ...]

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.house = House(Path(self._folder.name), self.fleets[0])
        self.stops = False

    @property
    def jobs(self) -> list[Job]:
        return [job for engine in self.house.engines for job in engine.running]

    @property
    def clients(self) -> list[Client]:
        return [one for one in self.house.book.live if one.left_at is None]

    @property
    def keyed(self) -> list[Client]:
        return [one for one in self.house.book.clients if one.key]

    def then(self, count: int | None) -> None:
        """Lets what has begun go on for so many turns of the loop."""
        if count is None:
            self.house.settle()
        for _ in range(count or 0):
            self.house.turn()
        self.house.check()

    @initialize(stops=st.booleans(), fleet=st.integers(0, 2))
    def begin(self, stops: bool, fleet: int) -> None:
        self.stops = stops
        self.house.settle()
        if fleet:
            self.house.apply(self.fleets[fleet])

    @rule(
        model=st.sampled_from(NAMES),
        tenant=st.sampled_from(("default", "default", "acme", "crawler")),
        priority=st.sampled_from((None, None, *PRIORITIES)),
        streamed=st.booleans(),
        timeout=st.sampled_from((None, None, None, 0.5, 3.0)),
        key=st.sampled_from((None, None, None, "a", "b")),
        text=st.sampled_from(("hello", "hello", "poison")),
        tokens=st.sampled_from((1, 500)),
        reads=st.sampled_from((True, True, True, False)),
        turns=turns,
    )
    def submit(self, text: str, tokens: int, reads: bool, turns: int | None, **options: Any) -> None:
        if text == "hello" and not options["key"]:
            text = f"hello {len(self.house.book.clients)}"
        fields = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens}
        self.house.submit(fields=fields, reads=reads, **options)
        self.then(turns)

    @precondition(lambda self: self.keyed)
    @rule(which=which, reads=st.booleans(), turns=turns)
    def send_again(self, which: int, reads: bool, turns: int | None) -> None:
        """A request with a key is sent once more, whatever became of it."""
        one = self.keyed[which % len(self.keyed)]
        self.house.submit(
            model=one.model, tenant=one.tenant, priority=one.priority, streamed=one.streamed, timeout=one.timeout,
            key=one.key, fields=one.fields, reads=reads,
        )  # fmt: skip
        self.then(turns)

    @precondition(lambda self: self.jobs)
    @rule(which=which, words=st.integers(1, 3), turns=turns)
    def speak(self, which: int, words: int, turns: int | None) -> None:
        job = self.jobs[which % len(self.jobs)]
        for _ in range(words):
            job.speak()
        self.then(turns)

    @precondition(lambda self: self.jobs)
    @rule(which=which, turns=turns)
    def finish(self, which: int, turns: int | None) -> None:
        self.jobs[which % len(self.jobs)].finish()
        self.then(turns)

    @precondition(lambda self: self.jobs)
    @rule(which=which, fault=st.sampled_from(FAULTS), turns=turns)
    def fail(self, which: int, fault: Any, turns: int | None) -> None:
        self.jobs[which % len(self.jobs)].fail(fault)
        self.then(turns)

    @rule(order=orders, turns=turns)
    def kill(self, order: int, turns: int | None) -> None:
        self.house.engines[order].die()
        self.then(turns)

    @rule(order=orders, door=st.sampled_from(("open", "open", "open", "closed", "stuck")), turns=turns)
    def door(self, order: int, door: Any, turns: int | None) -> None:
        self.house.engines[order].door = door
        self.then(turns)

    @rule(
        order=orders,
        condition=st.sampled_from(("ready", "ready", "ready", "starting", "failed", "stopping", "scaled_to_zero")),
        seen=st.booleans(),
        turns=turns,
    )
    def show(self, order: int, condition: Any, seen: bool, turns: int | None) -> None:
        if condition == "ready":
            self.house.engines[order].door = "open"
        self.house.show(order, condition, seen)
        self.then(turns)

    @precondition(lambda self: self.clients)
    @rule(which=which, turns=turns)
    def leave(self, which: int, turns: int | None) -> None:
        self.clients[which % len(self.clients)].leave(self.house.loop.now)
        self.then(turns)

    @precondition(lambda self: self.clients)
    @rule(which=which, turns=turns)
    def stall_or_read(self, which: int, turns: int | None) -> None:
        client = self.clients[which % len(self.clients)]
        client.reads = not client.reads
        client.wake_waiters()
        self.then(turns)

    @rule(order=orders, waiting=st.sampled_from((0, 0, 3)))
    def fill(self, order: int, waiting: int) -> None:
        self.house.engines[order].waiting = waiting

    @rule(seconds=st.sampled_from((0.05, 0.05, 0.3, 0.3, 1.0, 2.5)))
    def pass_time(self, seconds: float) -> None:
        self.house.advance(seconds, stalled=False)

    @rule(seconds=st.sampled_from((0.3, 1.0, 4.5, 11.0, 45.0)), turns=turns)
    def be_held_up(self, seconds: float, turns: int | None) -> None:
        self.house.advance(seconds, stalled=True)
        self.then(turns)

    @rule(fleet=st.integers(0, 2), turns=turns)
    def reload(self, fleet: int, turns: int | None) -> None:
        self.house.apply(self.fleets[fleet])
        self.then(turns)

    def teardown(self) -> None:
        try:
            self.finish_everything()
            self.have_every_place()
        finally:
            self.house.close()
            self._folder.cleanup()

    def finish_everything(self) -> None:
        house = self.house
        if self.stops:
            for client in self.clients[::3]:
                client.leave(house.loop.now)
            house.end()
            house.settle()
        for client in self.clients[::2]:
            client.leave(house.loop.now)
        for client in self.clients:
            client.reads = True
            client.wake_waiters()
        while house.book.live:
            house.settle()
            for job in self.jobs:
                job.finish()
            house.advance(0.3, stalled=False)

    def have_every_place(self) -> None:
        """When all have ended everything is as it was: every place can be had, and every retry."""
        house, book = self.house, self.house.book
        house.apply(self.fleets[2])
        for order, engine in enumerate(house.engines):
            engine.waiting = 0
            engine.door = "open"
            house.show(order, "starting")
            house.show(order, "ready")
        house.advance(70.0, stalled=True)
        house.settle()
        assert [replica.in_flight for replica in book.replicas] == [0, 0, 0]
        assert [house.admission.demand(served.id) for served in self.fleets[2].served] == [0, 0]
        room = sum(replica.limit for replica in book.replicas[:2])
        for _ in range(2):
            last = [*(self.last() for _ in range(room)), self.last(tenant="crawler")]
            house.settle()
            assert [one.stage for one in last] == ["in"] * room + ["waiting"]
            last[-1].leave(house.loop.now)
            house.advance(0.1, stalled=False)
            assert last[-1].stage == "left"
            again = [job for job in self.jobs if job.engine is house.engines[0]][:3]
            for job in again:
                job.fail("abort")
            house.settle()
            assert [len(book.clients[int(job.request)].tried) for job in again] == [2] * len(again)
            while book.live:
                for job in self.jobs:
                    job.finish()
                house.settle()
        bounded = [self.last(tenant="crawler") for _ in range(self.fleets[2].tenants["crawler"].max_in_flight or 0)]
        house.settle()
        assert {one.stage for one in bounded} <= {"in", "waiting"}
        while book.live:
            for job in self.jobs:
                job.speak()
                job.speak()
                house.settle()
                job.fail("error")
            house.settle()
        assert [one.failed for one in bounded] == ["upstream_error"] * len(bounded)
        short = self.last(timeout=0.5)
        house.settle()
        house.advance(0.6, stalled=False)
        assert short.error and short.error.code == "timeout"

    def last(self, tenant: str = "default", timeout: float | None = None) -> Client:
        fields = {"messages": [{"role": "user", "content": f"last {len(self.house.book.clients)}"}]}
        return self.house.submit(
            model="pebble-chat",
            tenant="default",
            priority=None,
            streamed=True,
            timeout=timeout,
            key=None,
            fields=fields,
        )


def test_whatever_happens(tmp_path: Path) -> None:
    Machine.fleets = tuple(fleets.load(tmp_path, text) for text in FLEETS)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=80,
            stateful_step_count=40,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
