"""The measurements: each takes a running setup and returns its figures."""

import asyncio
import itertools
import math
import os
import signal
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeVar

import psutil

from bench.gpu import lab, machine, predicted, vllm_tool
from bench.gpu.lab import Running
from bench.gpu.streams import TOOL, Stream, Workload, figures, work
from service.conformance.run import BLOCKS, MEMORY
from service.engine import state
from service.engine.state import EngineState
from service.planner.gpus import Gpu

SHORT = Workload("short", prompt=128, answer=128)
LONG = Workload("long", prompt=2048, answer=64, each=1)
SHARED = Workload("shared", prompt=1088, answer=128, shared=1024)
DECODE = Workload("decode", prompt=128, answer=256, each=1)
PREFILL = Workload("prefill", prompt=3072, answer=1, each=1)
VIA = ("direct", "service")
KEPT, DROPPED = 1, 2  # levels of sleep: with the weights in the host's memory, without them
T = TypeVar("T")
PATIENCE = 600.0  # seconds for the second of two engines


@dataclass(frozen=True)
class Scale:
    """How large the measurements are: numbers of streams, rounds of each, requests of each, a divisor of all lengths.

    `requests` is the least number in all rounds together: a percentile of a few requests says nothing.
    """

    streams: tuple[int, ...] = (1, 8, 32, 128, 256)
    batch: int = 32
    rounds: int = 2
    requests: int = 30
    shrink: int = 1

    def of(self, workload: Workload, context: int) -> Workload:
        """The workload in this scale, within a context of so many tokens."""
        small = replace(workload, prompt=workload.prompt // self.shrink, shared=workload.shared // self.shrink,
                        answer=max(1, workload.answer // self.shrink))  # fmt: skip
        return small.within(context)

    def count(self, streams: int, each: int, rounds: int = 1) -> int:
        """How many requests a round has: `each` for each of the streams, or more to have enough in all rounds."""
        return streams * max(each, math.ceil(self.requests / (streams * rounds)))


@dataclass(frozen=True)
class Bench:
    """A running setup, the card as the planner knows it (None where it does not), and the scale of measurements."""

    running: Running
    gpu: Gpu | None
    scale: Scale
    seeds: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def address(self, via: str, number: int = 0) -> str:
        """Where requests go: to an engine's own socket, or to the gateway."""
        return self.running.socket(number) if via == "direct" else self.running.address

    async def load(self, via: str, workload: Workload, streams: int, number: int = 0, each: int = 0) -> dict[str, Any]:
        """The figures of one load of so many streams, `each` requests of each; no prompt was ever sent before."""
        return figures(*await self.work(via, workload, streams, streams * (each or workload.each), number))

    async def work(
        self, via: str, workload: Workload, streams: int, count: int, number: int = 0
    ) -> tuple[float, list[Stream]]:
        """The seconds that `count` requests took, and the answers."""
        subject = self.running.setup.subjects[number]
        fitting = self.scale.of(workload, subject.context)
        requests = fitting.requests(subject.model.id, subject.model.shape.vocab_size or 0, count, next(self.seeds))
        return await work(self.address(via, number), streams, requests)


async def start(bench: Bench) -> dict[str, Any]:
    """How long the start took, what memory it uses, and vLLM's KV cache beside what the planner says of it."""
    running, rows = bench.running, []
    in_use = machine.memory_in_use()
    for number, subject in enumerate(running.setup.subjects):
        seen, said = (
            BLOCKS.search((await running.fetch("/metrics", number)).decode()),
            MEMORY.search(running.log(number)),
        )
        blocks, size = (int(seen[1]), int(seen[2])) if seen else (None, None)
        memory = int(float(said[1] or said[2]) * 2**30) if said else None
        first = await bench.load("direct", replace(SHORT, answer=1), 1, number, each=1)
        rows.append({
            "model": subject.model.id, "form": subject.form, "context": subject.context,
            "kv_blocks": blocks, "block_size": size, "kv_bytes": memory,
            "first_token_ms": first["ttft_ms"]["p50"],
            **predicted.cache(subject, running.setup, bench.gpu, memory, size),
        })  # fmt: skip
    return {
        "ready_s": round(running.ready - running.began, 1),
        "memory_bytes": in_use,
        "memory_before_bytes": running.memory_before,
        "engines": rows,
    }


def loads(workload: Workload) -> "Measure":
    """The measure of a workload at every number of streams, direct and through the service, in turns."""

    async def measure(bench: Bench) -> dict[str, Any]:
        await bench.load("service", workload, min(4, bench.scale.streams[-1]), each=1)  # kernels compile at first use
        rows = []
        for streams in bench.scale.streams:
            count = bench.scale.count(streams, workload.each, bench.scale.rounds)
            found: dict[str, list[tuple[float, list[Stream]]]] = {via: [] for via in VIA}
            spent = 0.0
            for _ in range(bench.scale.rounds):
                for via in VIA:
                    before = bench.running.gateway_seconds()
                    found[via].append(await bench.work(via, workload, streams, count))
                    spent += bench.running.gateway_seconds() - before if via == "service" else 0.0
            ratios = [_rate(*ours) / _rate(*theirs)
                      for ours, theirs in zip(found["service"], found["direct"], strict=True)]  # fmt: skip
            both = {via: _together(found[via]) for via in VIA}
            rows.append({
                "streams": streams,
                **both,
                "ratio": round(statistics.median(ratios), 4),
                "gateway_cpu_s_per_million": round(spent / both["service"]["tokens"] * 1e6, 1),
            })  # fmt: skip
        context = bench.running.setup.subjects[0].context
        asked = bench.scale.of(workload, context)
        return {"tool": TOOL, "prompt": asked.prompt, "shared": asked.shared, "answer": asked.answer, "loads": rows}

    return measure


async def batching(bench: Bench) -> dict[str, Any]:
    """The same number of requests one at a time, and all at once."""
    many = bench.scale.batch
    alone = await bench.load("direct", SHORT, 1, each=max(2, many // 4))
    together = await bench.load("direct", SHORT, many, each=1)
    return {"tool": TOOL, "one_at_a_time": alone, "together": together, "streams": many,
            "gain": round(together["tokens_per_s"] / alone["tokens_per_s"], 2)}  # fmt: skip


async def prefix(bench: Bench) -> dict[str, Any]:
    """Prompts with a long common beginning, as the prefix cache of this setup takes them."""
    found = await bench.load("direct", SHARED, bench.scale.batch)
    return {"tool": TOOL, "streams": bench.scale.batch, "load": found,
            "enabled": bench.running.setup.engine.get("enable_prefix_caching", True)}  # fmt: skip


async def chunked(bench: Bench) -> dict[str, Any]:
    """What long prompts that arrive meanwhile do to the gaps of streams that are being written."""
    each = max(8, bench.scale.count(2, LONG.each) // 2)
    writing = asyncio.create_task(bench.load("direct", DECODE, max(2, bench.scale.batch // 4), each=max(2, each // 4)))
    reading = asyncio.create_task(bench.load("direct", LONG, 2, each=each))
    short, long = await asyncio.gather(writing, reading)
    return {"tool": TOOL, "short": short, "long": long,
            "enabled": bench.running.setup.engine.get("enable_chunked_prefill", True)}  # fmt: skip


async def bounds(bench: Bench) -> dict[str, Any]:
    """Decoding against what the memory can deliver, reading a prompt against what the processors can multiply."""
    subject = bench.running.setup.subjects[0]
    rows = []
    for streams in (1, bench.scale.batch):
        found = await bench.load("direct", DECODE, streams, each=2 if streams == 1 else 1)
        asked = bench.scale.of(DECODE, subject.context)
        rate = round(streams * 1000 / max(found["itl_ms"]["p50"], 1e-6), 1)
        bound = predicted.decode(subject, bench.running.setup, bench.gpu, streams, asked.prompt + asked.answer // 2)
        rows.append({"streams": streams, "tokens_per_s": rate, "bound": bound, "share": _share(rate, bound)})
    asked = bench.scale.of(PREFILL, subject.context)
    found = await bench.load("direct", PREFILL, 1, each=bench.scale.count(1, PREFILL.each))
    rate = round(asked.prompt * 1000 / found["ttft_ms"]["p50"], 1)
    bound = predicted.prefill(subject, bench.running.setup, bench.gpu, asked.prompt)
    prompt = {"prompt": asked.prompt, "tokens_per_s": rate, "bound": bound, "share": _share(rate, bound)}
    return {"tool": TOOL, "card_known": bench.gpu is not None, "decode": rows, "prefill": prompt}


async def split(bench: Bench) -> dict[str, Any]:
    """Two models on one card: each alone, both at the same time, and requests that alternate between them."""
    both = range(len(bench.running.setup.subjects))
    alone = [await bench.load("service", SHORT, bench.scale.batch, number) for number in both]
    together = await asyncio.gather(*(bench.load("service", SHORT, bench.scale.batch, number) for number in both))
    turns = [
        (await bench.load("service", SHORT, 1, number, each=1))["ttft_ms"]["p50"] for _ in range(4) for number in both
    ]
    return {
        "tool": TOOL, "streams": bench.scale.batch, "models": [one.id for one in bench.running.served],
        "alone": alone, "together": list(together), "switch_ttft_ms": round(statistics.median(turns), 2),
    }  # fmt: skip


async def sleep(bench: Bench) -> dict[str, Any]:
    """Models that take turns on the whole card: seconds to put one to sleep, wake the other, and get a token."""
    running = bench.running
    memory = {"awake": machine.memory_in_use()}
    first_sleep = await _timed(running, f"/sleep?level={KEPT}", 0)
    memory["asleep"] = machine.memory_in_use()
    engines, both_s = len(running.served), None
    if engines > 1:
        both_s = round(await lab.until_ready(running, PATIENCE), 1)  # the second one had to wait for the room
    switches = []
    awake, asleep_at = engines - 1, KEPT
    for level in (KEPT, KEPT, DROPPED, KEPT) if engines > 1 else ():
        # What wakes without its weights is good for memory and time, not for answers: made-up ones are nowhere to read.
        other = 1 - awake
        slept = await _timed(running, f"/sleep?level={level}", awake)
        woke = await _timed(running, "/wake_up", other)
        first = (await bench.load("direct", SHORT, 1, other, each=1))["ttft_ms"]["p50"]
        switches.append({"to": running.served[other].id, "level": level, "woken_from": asleep_at, "sleep_s": slept,
                         "wake_s": woke, "first_token_ms": first})  # fmt: skip
        awake, asleep_at = other, level
    return {"tool": TOOL, "first_sleep_s": first_sleep, "switches": switches, "memory_bytes": memory,
            "both_started_s": both_s}  # fmt: skip


async def restart(bench: Bench) -> dict[str, Any]:
    """An engine that stops and starts again: seconds until its memory is free, of the start, and to a first token."""
    running, folder = bench.running, bench.running.folder
    before = state.read(folder, 0)
    assert before and before.pid
    pid, count, memory, began = before.pid, before.restarts, machine.memory_in_use(), time.monotonic()

    def again() -> EngineState | None:
        now = state.read(folder, 0)
        return now if now and now.restarts > count and now.condition == "ready" else None

    os.kill(pid, signal.SIGTERM)
    async with asyncio.timeout(PATIENCE):
        await _until(lambda: not psutil.pid_exists(pid))
        stopped, freed = time.monotonic(), machine.memory_in_use()
        now = await _until(again)
    back = time.monotonic()
    first = (await bench.load("direct", SHORT, 1, 0, each=1))["ttft_ms"]["p50"]
    return {"tool": TOOL, "model": running.served[0].id, "stop_s": round(stopped - began, 3),
            "start_s": round(sum(now.start_phases.values()), 3), "back_s": round(back - began, 3),
            "first_token_ms": first, "memory_bytes": {"awake": memory, "stopped": freed}}  # fmt: skip


async def _until(found: Callable[[], T | None]) -> T:
    """What `found` returns once that is something."""
    while True:
        if result := found():
            return result
        await asyncio.sleep(0.02)


async def _timed(running: Running, path: str, number: int) -> float:
    began = time.monotonic()
    await running.fetch(path, number, b"")
    return round(time.monotonic() - began, 3)


async def vllm_bench(bench: Bench) -> dict[str, Any]:
    """The short chat once more by vLLM's own `bench serve`, direct and through the service."""
    subject = bench.running.setup.subjects[0]
    asked = bench.scale.of(SHORT, subject.context)
    jobs = [
        vllm_tool.Job(via, bench.address(via), subject.model.id, bench.running.served[0].weights, streams,
                      bench.scale.count(streams, asked.each), asked, next(bench.seeds))
        for streams in bench.scale.streams[1:] for via in VIA
    ]  # fmt: skip
    return {"tool": "vllm bench serve", "prompt": asked.prompt, "answer": asked.answer,
            "loads": await vllm_tool.run(jobs)}  # fmt: skip


def _together(rounds: list[tuple[float, list[Stream]]]) -> dict[str, Any]:
    """The figures of all rounds, as if they were one."""
    return figures(sum(took for took, _ in rounds), [one for _, answers in rounds for one in answers])


def _rate(took: float, answers: list[Stream]) -> float:
    return sum(one.tokens for one in answers) / took


def _share(rate: float, bound: float | None) -> float | None:
    return round(rate / bound, 3) if bound else None


Measure = Callable[[Bench], Awaitable[dict[str, Any]]]
MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "start": start, "short": loads(SHORT), "long": loads(LONG), "shared": loads(SHARED), "batching": batching,
        "prefix": prefix, "chunked": chunked, "bounds": bounds, "split": split, "sleep": sleep,
        "restart": restart,
        "vllm-bench": vllm_bench,
    }
)  # fmt: skip
