"""Loads on the simulated engine: directly, or through the gateway's own admission, slots and concurrency limit."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import quantiles

from bench.bursts.engine import Engine, Request, Speed
from service.admission.gate import Admission
from service.auth.tenants import Tenant
from service.config.settings import Settings
from service.engine.engine_stats import EngineStats
from service.engine.state import EngineState
from service.errors import ApiError
from service.fleet.served_model import ServedModel
from service.upstreams import limit
from service.upstreams.limit import Observation
from service.upstreams.replica import Replica
from tests.admission.virtual import simulate

LAG = 0.25  # seconds: the gateway looks four times a second at what engines write

NextLimit = Callable[[int, int, Observation, int, int | None], int]
Send = Callable[[int, int], Awaitable[Request]]
"""Sends a request of so many tokens, prompt and answer; raises ApiError where it is refused."""


@dataclass(frozen=True)
class Load:
    """Requests of `prompt` tokens that get `answer`; lengths vary evenly by up to the fraction `vary` of them.

    Closed: so many `streams`, each with `each` requests one after the other, all at once after every pause of
    `every` seconds, `bursts` times. Open, where `rate` is set: so many a second arrive at random, for `seconds`.
    """

    streams: int = 0
    each: int = 2
    prompt: int = 128
    answer: int = 128
    vary: float = 0.0
    bursts: int = 1
    every: float = 0.0
    rate: float = 0.0
    seconds: float = 0.0


@dataclass
class Result:
    """What came of a load. `ttft` has a time in seconds for each request, beginning when the client sent it.

    `seconds` is the time in which the load's requests were answered, without the pauses between bursts. `in_engine` is
    how many waited in the engine at each sample, and `limits` the limit after it.
    """

    seconds: float = 0.0
    tokens: int = 0
    refused: int = 0
    preemptions: int = 0
    ttft: list[float] = field(default_factory=list)
    in_engine: list[int] = field(default_factory=list)
    limits: list[int] = field(default_factory=list)

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens per second."""
        return self.tokens / self.seconds

    def percentile(self, percent: int) -> float:
        """A percentile of the TTFT in seconds."""
        return quantiles(self.ttft, n=100, method="inclusive")[percent - 1]


@dataclass
class Simulation:
    """Runs loads. Of two with equal fields the results are equal.

    `poll` is how often the gateway samples the engine, `phase` when it does so first, `lag` how much later it reads the
    sample, all in seconds, and `seen` what it makes of a
    sample. `patience` is the TTFT up to which the answers of an open load count.
    """

    served: ServedModel
    speed: Speed = Speed()
    next_limit: NextLimit = limit.next_limit
    poll: float = 1.0
    phase: float = 0.0
    lag: float = LAG
    seen: Callable[[EngineStats], EngineStats] = lambda stats: stats
    patience: float = 12.0
    seed: int = 1

    def direct(self, load: Load, after: Load | None = None) -> Result:
        """The load at the engine itself, at once `after` another."""
        return self._run(load, after, through=False)

    def service(self, load: Load, after: Load | None = None) -> Result:
        """The load through the gateway."""
        return self._run(load, after, through=True)

    def _run(self, load: Load, after: Load | None, through: bool) -> Result:
        result = Result()

        async def scenario(clock: Callable[[], float]) -> None:
            engine = Engine(self.speed, clock)
            gateway = Gateway(self, engine, clock, result)
            source = random.Random(self.seed)
            async with asyncio.TaskGroup() as group:
                background = [group.create_task(engine.run())]
                if through:
                    background.append(group.create_task(gateway.watch()))
                send = gateway.send if through else engine.generate
                if after:
                    await Clients(after, send, clock, Result(), source, self.patience).run()
                    result.in_engine.clear()
                    result.limits.clear()
                await Clients(load, send, clock, result, source, self.patience).run()
                for task in background:
                    task.cancel()
            result.preemptions = engine.preemptions

        simulate(scenario)
        return result


class Gateway:
    """What the gateway does for a request between its arrival and the engine: a slot, or the queue."""

    def __init__(self, simulation: Simulation, engine: Engine, clock: Callable[[], float], result: Result) -> None:
        self._simulation, self._engine, self._clock, self._result = simulation, engine, clock, result
        served = simulation.served
        most = limit.initial_limit(served, 1)
        self._replica = Replica("a-0", "/a", EngineState("a-0", served.id, 0, "ready"), limit=most)
        self._admission = Admission(Settings(), clock, random.Random(simulation.seed).random)

    async def send(self, prompt: int, answer: int) -> Request:
        """Runs a request at the engine once it has a slot; raises ApiError where it gets none."""
        clock, tokens = self._clock, prompt + answer
        with self._admission.acquire(
            self._simulation.served, Tenant("x"), "default", tokens, self._replica.capacity, clock()
        ) as slot:
            while slot.is_queued:
                await slot.wait_admitted(60.0)
            slot.assign(self._replica)
            request = await self._engine.generate(prompt, answer)
            slot.tokens = tokens
            return request

    async def watch(self) -> None:
        """Samples the engine and adapts the limit, as `Upstreams` does."""
        simulation, replica = self._simulation, self._replica
        observation = Observation(limit.configured_max_num_seqs(simulation.served))
        most = limit.ceiling(simulation.served, 1)
        await asyncio.sleep(simulation.phase)
        while True:
            sent, stats = replica.in_flight, simulation.seen(self._engine.stats())
            await asyncio.sleep(simulation.lag)
            observation = limit.observe(observation, stats)
            replica.limit = simulation.next_limit(replica.limit, replica.in_flight, observation, most, sent)
            self._result.in_engine.append(stats.waiting)
            self._result.limits.append(replica.limit)
            self._admission.wake_waiters()
            await asyncio.sleep(simulation.poll - simulation.lag)


class Clients:
    """Those who send a load."""

    def __init__(
        self,
        load: Load,
        send: Send,
        clock: Callable[[], float],
        result: Result,
        source: random.Random,
        patience: float,
    ) -> None:
        self._load, self._send, self._clock, self._result = load, send, clock, result
        self._random, self._patience = source, patience

    async def run(self) -> None:
        """Sends all of it and waits for the answers, of an open load for those within its seconds."""
        if self._load.rate:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._load.seconds), asyncio.TaskGroup() as group:
                    while True:
                        await asyncio.sleep(self._random.expovariate(self._load.rate))
                        group.create_task(self._one())
            self._result.seconds = self._load.seconds
            return
        for number in range(self._load.bursts):
            await asyncio.sleep(self._load.every if number else 0.0)
            began = self._clock()
            async with asyncio.TaskGroup() as group:
                for _ in range(self._load.streams):
                    group.create_task(self._stream())
            self._result.seconds += self._clock() - began

    async def _stream(self) -> None:
        for _ in range(self._load.each):
            await self._one()

    async def _one(self) -> None:
        load, result, sent_at = self._load, self._result, self._clock()
        prompt, answer = self._length(load.prompt), self._length(load.answer)
        try:
            request = await self._send(prompt, answer)
        except ApiError:
            result.refused += 1
            return
        assert request.first_token_at is not None
        ttft = request.first_token_at - sent_at
        result.ttft.append(ttft)
        if not load.rate or ttft <= self._patience:
            result.tokens += answer

    def _length(self, tokens: int) -> int:
        return round(tokens * self._random.uniform(1 - self._load.vary, 1 + self._load.vary))
