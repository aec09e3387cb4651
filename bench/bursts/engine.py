"""A model of vLLM's scheduler on a virtual clock: steps with a token budget, `max_num_seqs`, a KV cache, preemption.

The speeds are fitted to an H100 that runs Llama 2 7B in bf16, as `bench.gpu.streams` measured it without the gateway:
`MEASURED` has those figures, and `tests/bench/test_bursts.py` holds the model against them.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import MappingProxyType

from service.engine.engine_stats import EngineStats

BLOCK = 16  # tokens
# For each number of streams, 128 tokens in and 128 out: tokens per second, and p50 and p99 of the TTFT in milliseconds.
MEASURED = MappingProxyType({
    1: (166.4, 12.8, 13.1),
    8: (1168.9, 50.7, 64.9),
    32: (3656.8, 147.4, 199.4),
    128: (8253.8, 390.6, 479.1),
    256: (9306.1, 679.8, 970.4),
})  # fmt: skip


@dataclass(frozen=True)
class Speed:
    """What an engine can do; the defaults are the H100's. Times are seconds.

    A step takes `step`, and more for each sequence in it (`sequence`, and `sequences_squared` for the square of their
    number), for each token of the prompts read (`prompt_token`), and for each token of the contexts (`context_token`).
    `arrival` is what the API server needs for a request before the scheduler sees it, one after the other.
    """

    step: float = 5.9e-3
    sequence: float = 22e-6
    sequences_squared: float = 76e-9
    prompt_token: float = 27e-6
    context_token: float = 0.07e-6
    arrival: float = 1e-3
    max_num_seqs: int = 1024
    max_num_batched_tokens: int = 8192
    blocks: int = 7589


@dataclass(eq=False)
class Request:
    """`prompt` and `answer` are tokens. `known` of the tokens so far are in the KV cache, in `blocks` blocks of it."""

    prompt: int
    answer: int
    generated: int = 0
    known: int = 0
    blocks: int = 0
    first_token_at: float | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def unknown(self) -> int:
        """How many of the tokens so far are still to be read."""
        return self.prompt + self.generated - self.known


class Engine:
    """One engine. `read` counts the prompt tokens that it has read, those of preempted requests again."""

    def __init__(self, speed: Speed, clock: Callable[[], float]) -> None:
        self._speed, self._clock = speed, clock
        self._arrived: list[Request] = []
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._free, self._accepted_at = speed.blocks, 0.0
        self._stir = asyncio.Event()
        self._finished = self._generated = self.read = self.preemptions = 0
        self._shown = (0, 0, 0.0)

    async def generate(self, prompt: int, answer: int) -> Request:
        """Runs a request to its end."""
        request = Request(prompt, answer)
        self._accepted_at = max(self._accepted_at, self._clock()) + self._speed.arrival
        asyncio.get_running_loop().call_at(self._accepted_at, self._accept, request)
        await request.done.wait()
        return request

    def stats(self) -> EngineStats:
        """What its metrics say now: as vLLM's gauges, the state at the end of the last step."""
        running, waiting, usage = self._shown
        tokens = self.read + self._generated
        return EngineStats(self._clock(), running, waiting, usage, tokens, finished=self._finished)

    async def run(self) -> None:
        """Takes step after step, until cancelled."""
        while True:
            self._waiting.extend(self._arrived)
            self._arrived.clear()
            if not self._waiting and not self._running:
                self._stir.clear()
                await self._stir.wait()
                continue
            planned = list(self._schedule())
            await asyncio.sleep(self._duration(planned))
            for request, count in planned:
                self._advance(request, count)
            usage = 1 - self._free / self._speed.blocks
            self._shown = len(self._running), len(self._waiting), usage

    def _accept(self, request: Request) -> None:
        self._arrived.append(request)
        self._stir.set()

    def _schedule(self) -> Iterator[tuple[Request, int]]:
        """The requests of the next step, each with how many of its tokens are read in it."""
        budget, preempted, index = self._speed.max_num_batched_tokens, False, 0
        while index < len(self._running) and budget:
            request = self._running[index]
            count = min(request.unknown, budget)
            while not self._allocate(request, request.known + count):
                preempted = True
                if self._preempt() is request:
                    break
            else:
                budget -= count
                index += 1
                yield request, count
        while not preempted and self._waiting and budget and len(self._running) < self._speed.max_num_seqs:
            request = self._waiting[0]
            if not self._allocate(request, request.unknown):
                break
            self._running.append(self._waiting.popleft())
            count = min(request.unknown, budget)
            budget -= count
            yield request, count

    def _allocate(self, request: Request, tokens: int) -> bool:
        """Whether the KV cache has room for so many tokens of it, which is then taken."""
        more = -(-tokens // BLOCK) - request.blocks
        if more > self._free:
            return False
        if more > 0:
            self._free -= more
            request.blocks += more
        return True

    def _preempt(self) -> Request:
        """Takes its room from the request that began last, which has to be read again."""
        request = self._running.pop()
        self._free += request.blocks
        request.blocks = request.known = 0
        self._waiting.appendleft(request)
        self.preemptions += 1
        return request

    def _duration(self, planned: list[tuple[Request, int]]) -> float:
        speed, sequences = self._speed, len(planned)
        read = sum(count for request, count in planned if count > 1 or not request.generated)
        context = sum(request.known for request, _ in planned)
        return (
            speed.step
            + speed.sequence * sequences
            + speed.sequences_squared * sequences**2
            + speed.prompt_token * read
            + speed.context_token * context
        )

    def _advance(self, request: Request, count: int) -> None:
        if count > 1 or not request.generated:
            self.read += count
        request.known += count
        if request.unknown:
            return
        request.generated += 1
        self._generated += 1
        if request.first_token_at is None:
            request.first_token_at = self._clock()
        if request.generated == request.answer:
            self._running.remove(request)
            self._free += request.blocks
            self._finished += 1
            request.done.set()
