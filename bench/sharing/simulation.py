"""Engines that share a memory, on a virtual clock: the service decides who is there, or it is first come, first served.

An engine loads for seconds that are given, serves up to `slots` requests at once, and leaves when the last of them has
ended. Nothing depends on the machine.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from service.sharing.turns import Decision, Place, Seat, decide

STEP, SEQUENCE = 5.9e-3, 22e-6  # seconds of a decoding step, and more of it for each sequence: an H100's (bench/bursts)
PREFILL = 0.05  # seconds until a request that has just begun makes its first token
STOP = 2.0  # seconds that an engine without requests takes to end


@dataclass(eq=False)
class Job:
    """A request: it arrives at `at` seconds and makes `tokens` tokens; the rest is what became of it."""

    model: int
    at: float
    tokens: int
    made: float = 0.0
    first_at: float | None = None
    ended_at: float | None = None


@dataclass(frozen=True)
class Load:
    """A model: bytes of memory, seconds of its load, requests that it serves at once."""

    memory: int = 1
    load: float = 30.0
    slots: int = 32


@dataclass(eq=False)
class Engine:
    """The state of one model. `changes_at` is when what it is doing (loading, ending) is done."""

    order: int
    kind: Load
    place: Place = "out"
    came_at: float = 0.0
    left_at: float = float("-inf")
    used_at: float = 0.0
    changes_at: float = 0.0
    starts: int = 0
    queued: list[Job] = field(default_factory=list)
    running: list[Job] = field(default_factory=list)

    def seat(self) -> Seat:
        """What the decision knows of it."""
        demand = len(self.queued) + len(self.running)
        since = self.queued[0].at if self.queued else None
        return Seat(self.order, self.kind.memory, place=self.place, came_at=self.came_at, left_at=self.left_at,
                    waits_since=since, demand=demand, used_at=self.used_at, back=self.kind.load)  # fmt: skip


Policy = Callable[[Sequence[Engine], int, float, float], frozenset[int]]


def turns(engines: Sequence[Engine], memory: int, turn: float, now: float) -> frozenset[int]:
    """The service's own decision."""
    return decided(engines, memory, turn, now).there


def decided(engines: Sequence[Engine], memory: int, turn: float, now: float) -> Decision:
    """The service's own decision, with what those that wait are told."""
    return decide([engine.seat() for engine in engines], memory, turn, now)


def first_come(engines: Sequence[Engine], memory: int, turn: float, now: float) -> frozenset[int]:
    """The control: whatever the oldest request needs is loaded, and those go that were used longest ago."""
    there = {engine.order: engine for engine in engines if engine.place in ("coming", "in")}
    waiting = [engine for engine in engines if engine.queued]
    oldest = min(waiting, key=lambda engine: (engine.queued[0].at, engine.order), default=None)
    if oldest and oldest.order not in there and oldest.place == "out":
        for one in sorted(there.values(), key=lambda engine: engine.used_at):
            if sum(engine.kind.memory for engine in there.values()) + oldest.kind.memory <= memory:
                break
            del there[one.order]
        there[oldest.order] = oldest
    return frozenset(there)


@dataclass
class World:
    """A share of `memory` bytes with its engines, at the time `now`. `timeline` has each stay of each engine."""

    kinds: Sequence[Load]
    memory: int
    turn: float
    policy: Policy
    tick: float = 0.05
    in_order: bool = False  # whether requests begin in the order of their arrival, whatever model they are for
    now: float = 0.0
    most_held: int = 0
    waits: list[float] = field(default_factory=list)
    timeline: list[tuple[int, Place, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.engines = [Engine(order, kind) for order, kind in enumerate(self.kinds)]
        self._since = [0.0] * len(self.engines)

    def run(self, jobs: Iterable[Job], until: float) -> "World":
        """Serves `jobs` until that time."""
        coming = sorted(jobs, key=lambda job: job.at)
        while self.now < until:
            while coming and coming[0].at <= self.now:
                self.engines[coming[0].model].queued.append(coming.pop(0))
            self.step()
            if not coming and not any(engine.queued or engine.running for engine in self.engines):
                break
        for engine in self.engines:
            self._note(engine, "out")
        return self

    def step(self) -> None:
        """One tick: the engines work, then it is decided who goes and comes."""
        for engine in self.engines:
            self._advance(engine)
        there = self.policy(self.engines, self.memory, self.turn, self.now)
        for engine in self.engines:
            if engine.place == "in" and engine.order not in there:
                self._enter(engine, "going")
                engine.changes_at = 0.0
            elif engine.place == "out" and engine.order in there and self.held + engine.kind.memory <= self.memory:
                self.waits.append(self.now - max(engine.seat().waits_since or self.now, engine.left_at))
                self._enter(engine, "coming")
                engine.changes_at, engine.starts = self.now + engine.kind.load, engine.starts + 1
        self.most_held = max(self.most_held, self.held)
        self.now += self.tick

    @property
    def held(self) -> int:
        """The bytes that are in use."""
        return sum(engine.kind.memory for engine in self.engines if engine.place != "out")

    @property
    def starts(self) -> int:
        """How often an engine was loaded."""
        return sum(engine.starts for engine in self.engines)

    def _advance(self, engine: Engine) -> None:
        if engine.place == "coming" and self.now >= engine.changes_at:
            self._enter(engine, "in")
            engine.came_at = self.now
        if engine.place == "in":
            self._admit(engine)
        step = STEP + SEQUENCE * len(engine.running)
        for job in engine.running[:]:
            if job.first_at is None:
                job.first_at = self.now + PREFILL
            job.made += self.tick / step
            if job.made >= job.tokens:
                job.ended_at = self.now
                engine.running.remove(job)
        if engine.queued or engine.running:
            engine.used_at = self.now
        if engine.place == "going" and not engine.running:
            engine.changes_at = engine.changes_at or self.now + STOP
            if self.now >= engine.changes_at:
                self._enter(engine, "out")
                engine.left_at = self.now

    def _admit(self, engine: Engine) -> None:
        others = [other.queued[0].at for other in self.engines if other is not engine and other.queued]
        first = min(others, default=float("inf")) if self.in_order else float("inf")
        while engine.queued and len(engine.running) < engine.kind.slots and engine.queued[0].at <= first:
            engine.running.append(engine.queued.pop(0))

    def _enter(self, engine: Engine, place: Place) -> None:
        self._note(engine, place)
        engine.place = place

    def _note(self, engine: Engine, place: Place) -> None:
        if engine.place != "out":
            self.timeline.append((engine.order, engine.place, self._since[engine.order], self.now))
        self._since[engine.order] = self.now


def fresh(jobs: Iterable[Job]) -> list[Job]:
    """The same requests, as they were before anything became of them."""
    return [replace(job, made=0.0, first_at=None, ended_at=None) for job in jobs]
