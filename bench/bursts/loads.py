"""What is simulated: bursts at an engine with room for all of them, and ten times as many requests as one can run."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from bench.bursts.engine import Speed
from bench.bursts.simulation import Load, NextLimit, Simulation
from service.engine.engine_stats import EngineStats
from service.fleet.served_model import ServedModel
from service.upstreams import limit
from service.upstreams.limit import FULL, QUEUE_DIVISOR, Observation
from tests.support import fleets

PHASES = tuple(number / 10 for number in range(10))  # of the time between samples: when the burst comes
OVERLOAD = 10  # times the capacity


@dataclass(frozen=True)
class Burst:
    """A load from nothing, with the engine sampled every `poll` seconds; `counts_finished` is false for an old vLLM."""

    load: Load
    poll: float = 1.0
    counts_finished: bool = True

    def simulation(self, served: ServedModel) -> Simulation:
        """The simulation of it, without its phase."""
        return Simulation(served, poll=self.poll, seen=_same if self.counts_finished else _without_finished)


@dataclass(frozen=True)
class Overload:
    """Requests like `load` at an engine of which its `streams` are all that it can run at once, for `seconds`."""

    load: Load
    speed: Speed = Speed()
    seconds: float = 60.0


BURSTS: Mapping[str, Burst] = MappingProxyType({
    **{f"{streams} streams": Burst(Load(streams)) for streams in (32, 64, 128, 256, 512)},
    "256 streams, 5 bursts": Burst(Load(256, each=1, bursts=5, every=0.7)),
    "256 streams, sampled every 3 s": Burst(Load(256), poll=3.0),
    "256 streams, 5 bursts, sampled every 3 s": Burst(Load(256, each=1, bursts=5, every=0.7), poll=3.0),
    "256 streams, 5 bursts, finished requests unknown":
        Burst(Load(256, each=1, bursts=5, every=0.7), counts_finished=False),
})  # fmt: skip
OVERLOADS: Mapping[str, Overload] = MappingProxyType({
    "compute": Overload(Load(256, vary=0.5), seconds=30.0),
    "max_num_seqs 64": Overload(Load(64, vary=0.5), Speed(max_num_seqs=64), 40.0),
    "KV cache, long prompts": Overload(Load(40, prompt=3000, answer=200, vary=0.3)),
    "KV cache, long answers": Overload(Load(25, prompt=100, answer=800, vary=0.3), Speed(blocks=1000), 120.0),
    "prompts": Overload(Load(64, prompt=1000, answer=4, vary=0.3), seconds=30.0),
})  # fmt: skip


def single_sample_limit(now: int, in_flight: int, observation: Observation, ceiling: int, _: int | None = None) -> int:
    """The control: a limit that one sample alone decides, and that grows by a tenth. Burst or not, who waits counts."""
    stats = observation.stats
    assert stats is not None
    may_wait = max(1, stats.running // QUEUE_DIVISOR)
    if stats.waiting > may_wait:
        if in_flight:
            share = in_flight * stats.running // (stats.running + stats.waiting) + may_wait
            now = min(now, max(share, in_flight * 3 // 4))
    elif not stats.waiting and in_flight >= now - now // 10 and stats.kv_usage < FULL:
        now += max(1, now // 10)
    return max(1, min(now, ceiling))


LIMITS: Mapping[str, NextLimit] = MappingProxyType({"single sample": single_sample_limit, "limit": limit.next_limit})


def served(max_in_flight: int) -> ServedModel:
    """A model of which the gateway knows no `max_num_seqs`."""
    with tempfile.TemporaryDirectory() as folder:
        return fleets.only(Path(folder), f"{{model: pebble-chat, max_in_flight: {max_in_flight}}}")


def burst(name: str, rule: NextLimit, phases: tuple[float, ...] = PHASES) -> dict[str, float]:
    """A burst through the gateway against the same burst direct: the worst ratios of all phases.

    `tokens_per_s` and `p99` are direct; `ratio` is of tokens per second, `p99_ratio` of the p99 TTFT.
    """
    asked = BURSTS[name]
    simulation = replace(asked.simulation(served(1024)), next_limit=rule)
    direct = simulation.direct(asked.load)
    found = [replace(simulation, phase=phase * asked.poll).service(asked.load) for phase in phases]
    return {
        "tokens_per_s": direct.tokens_per_s,
        "p99": direct.percentile(99),
        "ratio": min(one.tokens_per_s for one in found) / direct.tokens_per_s,
        "p99_ratio": max(one.percentile(99) for one in found) / direct.percentile(99),
    }


def overload(name: str, rule: NextLimit) -> dict[str, float]:
    """Ten times what an engine can run, against what comes of as much as it can run, without a gateway.

    `goodput` counts the tokens of requests that began in time, `direct` those without a gateway under the same load.
    `waiting` is the mean number of requests in the engine's own queue, after a quarter of the time.
    """
    asked = OVERLOADS[name]
    simulation = Simulation(served(256), asked.speed, rule, phase=0.37)
    capacity = simulation.direct(replace(asked.load, each=3)).tokens_per_s / asked.load.answer
    at_capacity = replace(asked.load, rate=capacity, seconds=asked.seconds)
    expected = simulation.direct(at_capacity)
    more = replace(at_capacity, rate=OVERLOAD * capacity)
    found, direct = simulation.service(more), simulation.direct(more)
    later = found.in_engine[len(found.in_engine) // 4 :]
    return {
        "requests_per_s": capacity,
        "goodput": found.tokens_per_s / expected.tokens_per_s,
        "direct": direct.tokens_per_s / expected.tokens_per_s,
        "preemptions": found.preemptions,
        "direct_preemptions": direct.preemptions,
        "waiting": sum(later) / len(later),
    }


def _same(stats: EngineStats) -> EngineStats:
    return stats


def _without_finished(stats: EngineStats) -> EngineStats:
    return replace(stats, finished=0)
