"""Concurrent streams and their results: tokens per second, TTFT, ITL."""

import itertools
import json
import random
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bench import load
from service.transport.pool import ConnectionPool, TransportError, post_request

PATH = "/v1/completions"
TOOL = "bench.gpu.streams"
PERCENTILES = (50, 95, 99)


class LoadError(Exception):
    """An answer that is none: the status and what the engine or the gateway said."""


@dataclass(frozen=True)
class Workload:
    """Requests of one kind. `prompt`, `shared` and `answer` are tokens; the first `shared` of each prompt are alike.

    `each` is how many requests come one after the other in each stream.
    """

    name: str
    prompt: int
    answer: int
    shared: int = 0
    each: int = 2

    def within(self, context: int) -> "Workload":
        """The same with a prompt that leaves room for the answer in a context of so many tokens."""
        prompt = min(self.prompt, context - self.answer - 1)
        return Workload(
            self.name, prompt, self.answer, min(self.shared, prompt * self.shared // self.prompt), self.each
        )

    def requests(self, model: str, vocabulary: int, count: int, seed: int) -> list[dict[str, Any]]:
        """`count` requests with random token ids as prompts; a new `seed` gives prompts that no cache holds."""
        source = random.Random(seed)
        ids = range(vocabulary // 2, vocabulary * 3 // 4)  # neither bytes nor special tokens
        shared = source.choices(ids, k=self.shared)
        return [
            {"model": model, "prompt": [*shared, *source.choices(ids, k=self.prompt - self.shared)],
             "max_tokens": self.answer, "temperature": 0, "ignore_eos": True}
            for _ in range(count)
        ]  # fmt: skip


@dataclass(frozen=True)
class Stream:
    """One answer. Seconds: `ttft` to the first token, `gaps` between one token's arrival and the next, `duration`."""

    tokens: int
    ttft: float
    gaps: tuple[float, ...]
    duration: float


async def ask(transport: ConnectionPool, address: str, fields: dict[str, Any]) -> Stream:
    """One streamed completion from `address`, a socket's path or host:port."""
    body = json.dumps({**fields, "stream": True, "stream_options": {"include_usage": True}}).encode()
    began = time.perf_counter()
    try:
        exchange = await transport.send(address, post_request(PATH, body), load.PATIENT)
        try:
            status = await exchange.head()
            pieces, times = [], []
            while piece := await exchange.read():
                times.append(time.perf_counter())
                pieces.append(piece)
        finally:
            transport.release(address, exchange)
    except TransportError as error:
        raise LoadError(f"{address}: {error}") from None
    data = b"".join(pieces)
    if status != 200 or not data.endswith(b"data: [DONE]\n\n"):
        raise LoadError(f"{address}: status {status}: {data[-300:].decode(errors='replace')}")
    # An event that arrives together with others has no gap of its own; the last two are usage and the end mark.
    arrivals = [at for at, piece in zip(times, pieces, strict=True) for _ in range(piece.count(b"data: "))][:-2]
    usage = json.loads(data.rpartition(b"data: {")[2].join((b"{", b"")).split(b"\n")[0])["usage"]
    gaps = tuple(later - earlier for earlier, later in itertools.pairwise(arrivals))
    return Stream(usage["completion_tokens"], times[0] - began, gaps, times[-1] - began)


async def work(address: str, streams: int, requests: Iterable[dict[str, Any]]) -> tuple[float, list[Stream]]:
    """Works through `requests`, `streams` of them at a time; returns the seconds it took, and every answer."""
    try:
        return await load.work(ask, address, streams, requests)
    except* LoadError as errors:
        raise next(_leaves(errors)) from None


def figures(took: float, answers: list[Stream]) -> dict[str, Any]:
    """The figures of one load: rates in tokens per second, times in milliseconds."""
    tokens = sum(one.tokens for one in answers)
    return {
        "requests": len(answers),
        "tokens": tokens,
        "seconds": round(took, 3),
        "tokens_per_s": round(tokens / took, 1),
        "ttft_ms": percentiles([one.ttft for one in answers]),
        "itl_ms": percentiles([gap for one in answers for gap in one.gaps]),
    }


def percentiles(seconds: list[float]) -> dict[str, float]:
    """`p50`, `p95` and `p99` in milliseconds."""
    if len(seconds) < 2:
        return {f"p{one}": round(sum(seconds) * 1000, 2) for one in PERCENTILES}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {f"p{one}": round(cuts[one - 1] * 1000, 2) for one in PERCENTILES}


def _leaves(errors: ExceptionGroup[LoadError]) -> Iterator[LoadError]:
    for one in errors.exceptions:
        if isinstance(one, ExceptionGroup):
            yield from _leaves(one)
        else:
            yield one
