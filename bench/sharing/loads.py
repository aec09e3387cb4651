"""Loads for models that share a memory: requests of two models in several mixes, and a day of four models. Seeded."""

import math
import random
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from bench.sharing.simulation import Job, Load

DAY = 86_400.0
# What the picture shows: a chat model by day, one for code at office hours, embeddings now and then, reports at night.
# A 40 GiB memory: memory in GiB, seconds of the load.
DAY_MODELS: Mapping[str, Load] = MappingProxyType({
    "chat 8b": Load(memory=20, load=40, slots=64),
    "code 14b": Load(memory=30, load=70, slots=32),
    "reports 32b": Load(memory=38, load=120, slots=32),
    "embed": Load(memory=6, load=20, slots=64),
})  # fmt: skip
DAY_MEMORY = 40


def mix(share: float, rate: float = 2.0, seconds: float = 300.0, seed: int = 7) -> list[Job]:
    """Requests of two models at `rate` a second, of which the first model has this share."""
    chance = random.Random(seed)
    return [Job(int(chance.random() >= share), at, chance.randint(64, 256)) for at in _poisson(chance, rate, seconds)]


def bursts(size: int = 40, pause: float = 30.0, count: int = 10, seed: int = 7) -> list[Job]:
    """Bursts of requests, each of one model or the other, within five seconds."""
    chance = random.Random(seed)
    return sorted(
        (Job(number % 2, number * pause + 5 * chance.random(), chance.randint(64, 256))
         for number in range(count) for _ in range(size)), key=lambda job: job.at,
    )  # fmt: skip


LOADS: Mapping[str, Callable[[], list[Job]]] = MappingProxyType(
    {"90:10": lambda: mix(0.9), "50:50": lambda: mix(0.5), "bursts": bursts}
)


def day(seed: int = 7) -> list[Job]:
    """A day of `DAY_MODELS`, in the order in which they stand there."""
    chance = random.Random(seed)
    rates: tuple[Callable[[float], float], ...] = (
        lambda hour: 0.25 * _hump(hour, 14, 5),
        lambda hour: 0.06 * (_hump(hour, 10, 1.5) + _hump(hour, 15, 1.5)),
        lambda hour: 0.05 if 1 <= hour < 3 or 22 <= hour < 22.5 else 0.0,
        lambda hour: 0.4 if hour % 6 < 0.3 else 0.0,
    )
    jobs = []
    for model, rate in enumerate(rates):
        most = max(rate(hour / 4) for hour in range(96)) or 1.0
        jobs += [Job(model, at, chance.randint(100, 600)) for at in _poisson(chance, most, DAY)
                 if chance.random() < rate(at / 3600) / most]  # fmt: skip
    return sorted(jobs, key=lambda job: job.at)


def _hump(hour: float, middle: float, width: float) -> float:
    return math.exp(-(((hour - middle) / width) ** 2))


def _poisson(chance: random.Random, rate: float, seconds: float) -> Iterator[float]:
    at = chance.expovariate(rate)
    while at < seconds:
        yield at
        at += chance.expovariate(rate)
