"""A simulation of replicas with a prefix cache each, like vLLM's, under the gateway's policies and prefix keys."""

import heapq
import itertools
import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.affinity.workloads import CHARACTERS, Conversation, Workload
from service.routing.policies import Policy, PolicyInput
from service.routing.prefix_key import key
from service.upstreams.replica import Replica

BLOCK = 16  # tokens
READS = 8000.0  # tokens a second that one replica reads of prompts, one after the other
WRITES = 50.0  # tokens a second of an answer, however many there are
TENANT = "someone"


class Cache:
    """The blocks that a replica knows, at most `size`; which were used last is what it keeps."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def known(self, blocks: Sequence[int]) -> int:
        """How many of these blocks it knows from the first on."""
        return next((number for number, block in enumerate(blocks) if block not in self._blocks), len(blocks))

    def learn(self, blocks: Sequence[int]) -> None:
        """Takes them in; of what is used together the end is forgotten first."""
        kept = self._blocks
        for block in reversed(blocks):
            if block in kept:
                kept.move_to_end(block)
            else:
                kept[block] = None
        while len(kept) > self._size:
            kept.popitem(last=False)


class Engine:
    """A replica as the gateway sees it, and what happens behind it. Times are simulated seconds."""

    def __init__(self, number: int, blocks: int, speed: float) -> None:
        self.replica = Replica(f"model-{number}", f"/{number}")
        self.cache = Cache(blocks)
        self.busy = 0.0
        self._speed, self._reads_until, self._since = READS * speed, 0.0, 0.0

    def change(self, now: float, requests: int) -> None:
        """So many more, or fewer, requests are in flight from now on; `busy` sums up those before, times seconds."""
        self.busy += self.replica.in_flight * (now - self._since)
        self._since = now
        self.replica.in_flight += requests

    def read(self, now: float, tokens: float) -> float:
        """Reads so many tokens after what it has to read already; returns when it has."""
        self._reads_until = max(now, self._reads_until) + tokens / self._speed
        return self._reads_until


@dataclass
class Tally:
    """What came of a run: tokens of prompts, those of them that a cache had, and seconds to each first token."""

    prompts: int = 0
    hits: int = 0
    waits: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """The figures of a run. `largest` is the most loaded replica over the mean, `in_flight` the mean of a replica."""

    hit_rate: float
    largest: float
    in_flight: float
    ttft: float
    ttft_p99: float


class Simulation:
    """One workload under one policy. `speed` and the cache's `blocks` are of each replica."""

    def __init__(
        self, workload: Workload, policy: Policy, replicas: int, users: int, blocks: int, speed: float = 1.0
    ) -> None:
        self._workload, self._policy = workload, policy
        self._engines = [Engine(number, blocks, speed) for number in range(replicas)]
        self._replicas = [engine.replica for engine in self._engines]
        self._rng = random.Random(7)
        self._order = itertools.count()
        self._events: list[tuple[float, int, Conversation, int, Engine | None]] = []
        self._turn = 0
        for user in range(users):
            self._later(self._rng.random() * workload.think, workload.opening(self._rng, user), user)

    def run(self, requests: int) -> Result:
        """Asks so many requests to fill the caches, and so many to be counted."""
        self._until(requests, Tally())
        tally, before = Tally(), [engine.busy for engine in self._engines]
        began = self._events[0][0]
        ended = self._until(2 * requests, tally)
        loads = [engine.busy - busy for engine, busy in zip(self._engines, before, strict=True)]
        mean = sum(loads) / len(loads)
        waits = sorted(tally.waits)
        return Result(
            hit_rate=tally.hits / tally.prompts,
            largest=max(loads) / mean,
            in_flight=mean / (ended - began),
            ttft=sum(waits) / len(waits),
            ttft_p99=waits[len(waits) * 99 // 100],
        )

    def _until(self, turn: int, tally: Tally) -> float:
        now = 0.0
        while self._turn < turn:
            now, _, conversation, user, engine = heapq.heappop(self._events)
            if engine is None:
                self._ask(now, conversation, user, tally)
            else:
                self._end(now, conversation, user, engine)
        for engine in self._engines:
            engine.change(now, 0)
        return now

    def _ask(self, now: float, conversation: Conversation, user: int, tally: Tally) -> None:
        self._turn += 1
        chosen = self._policy(self._replicas, PolicyInput(self._turn, key(conversation.request, TENANT)))
        engine = self._engines[self._replicas.index(chosen)]
        blocks, tokens = read(conversation), conversation.tokens
        known = engine.cache.known(blocks) * BLOCK
        engine.cache.learn(blocks)
        engine.change(now, 1)
        first = engine.read(now, tokens - known)
        tally.prompts += tokens
        tally.hits += known
        tally.waits.append(first - now)
        conversation.say("assistant", self._workload.answers(self._rng, conversation))
        self._later(first + (conversation.tokens - tokens) / WRITES, conversation, user, engine)

    def _end(self, now: float, conversation: Conversation, user: int, engine: Engine) -> None:
        engine.change(now, -1)
        engine.cache.learn(read(conversation))
        if conversation.asked < conversation.turns:
            conversation.say("user", self._workload.says(self._rng))
        else:
            conversation = self._workload.opening(self._rng, user)
        self._later(now + self._rng.expovariate(1 / self._workload.think), conversation, user)

    def _later(self, at: float, conversation: Conversation, user: int, engine: Engine | None = None) -> None:
        heapq.heappush(self._events, (at, next(self._order), conversation, user, engine))


def read(conversation: Conversation) -> list[int]:
    """The conversation's full blocks as it stands; each is named after all the text up to its end."""
    blocks, size = conversation.blocks, BLOCK * CHARACTERS
    for start in range(len(blocks) * size, len(conversation.text) - size + 1, size):
        blocks.append(hash((blocks[-1] if blocks else 0, conversation.text[start : start + size])))
    return blocks
