"""Load and latency of each model and replica over the last minutes, for the console's charts. Bounded and pure."""

from collections import deque
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple

from service.observability.record import Record

INTERVAL = 2.0  # seconds between two samples
LENGTH = 150  # samples that are kept: five minutes
MOST_TIMES = 512  # of one model in one interval, of which percentiles are taken; more of them would change little


class ModelSample(NamedTuple):
    """One model over one interval: requests that run and wait at its end, and those that ended in it.

    `errors` of the `ended` ones got an error. `ttft_p50`, `ttft_p95` and `tpot_p50` are seconds, of streams; None
    where none ended. `tokens` are those of the answers that ended.
    """

    running: int
    waiting: int
    ended: int = 0
    errors: int = 0
    tokens: int = 0
    ttft_p50: float | None = None
    ttft_p95: float | None = None
    tpot_p50: float | None = None


class ReplicaSample(NamedTuple):
    """One replica: sequences of this gateway process there, its own counts of requests, and of what it computes.

    `kv_usage` is the used fraction of its KV cache, `tokens_per_second` those read and generated. None where the engine
    has not said lately.
    """

    in_flight: int
    limit: int
    running: int | None = None
    waiting: int | None = None
    kv_usage: float | None = None
    tokens_per_second: float | None = None


class Ended:
    """The requests of one model that have ended since the last sample."""

    __slots__ = ("count", "errors", "tokens", "tpot", "ttft")

    def __init__(self) -> None:
        self.count = self.errors = self.tokens = 0
        self.ttft: list[float] = []
        self.tpot: list[float] = []

    def add_stream(self, record: Record) -> None:
        """Takes the times of an answer that was streamed."""
        if len(self.ttft) < MOST_TIMES and (ttft := record.ttft) is not None:
            self.ttft.append(ttft)
            if (tpot := record.tpot) is not None:
                self.tpot.append(tpot)

    def sample(self, running: int, waiting: int) -> ModelSample:
        """What it comes to."""
        ttft, tpot = sorted(self.ttft), sorted(self.tpot)
        times = (percentile(ttft, 0.5), percentile(ttft, 0.95), percentile(tpot, 0.5))
        return ModelSample(running, waiting, self.count, self.errors, self.tokens, *times)


class History:
    """The samples of the models and replicas that there are, the newest last. `count` is how many there were so far."""

    def __init__(self) -> None:
        self.count = 0
        self._ended: dict[str, Ended] = {}
        self._models: dict[str, deque[ModelSample]] = {}
        self._replicas: dict[str, deque[ReplicaSample]] = {}

    def observe(self, record: Record) -> None:
        """Counts a request that has ended."""
        if model := record.model:
            ended = self._ended.get(model)
            if ended is None:
                ended = self._ended[model] = Ended()
            ended.count += 1
            ended.tokens += record.completion_tokens
            if record.code:
                ended.errors += 1
            if record.streamed:
                ended.add_stream(record)

    def sample(self, loads: Mapping[str, tuple[int, int]], replicas: Mapping[str, ReplicaSample]) -> None:
        """Appends a sample of each; `loads` has what runs and waits of each model. What is not in them is forgotten."""
        ended, self._ended = self._ended, {}
        none = Ended()
        models = {name: ended.get(name, none).sample(*load) for name, load in loads.items()}
        self._models = {name: _appended(self._models.get(name), sample) for name, sample in models.items()}
        self._replicas = {name: _appended(self._replicas.get(name), sample) for name, sample in replicas.items()}
        self.count += 1

    def since(self, count: int, models: Iterable[str], replicas: Iterable[str]) -> dict[str, Any]:
        """The samples of these that came after the first `count` ones, as columns' names and rows."""
        new = max(0, self.count - count)
        return {
            "model_fields": ModelSample._fields,
            "replica_fields": ReplicaSample._fields,
            "models": {name: _last(self._models[name], new) for name in models if name in self._models},
            "replicas": {name: _last(self._replicas[name], new) for name in replicas if name in self._replicas},
        }


def percentile(ordered: list[float], fraction: float) -> float | None:
    """The smallest of the ordered values that so many are not above; None of no values. Rounded to 0.1 ms."""
    return round(ordered[max(0, -int(-len(ordered) * fraction // 1) - 1)], 4) if ordered else None


def _appended(samples: Any, sample: Any) -> Any:
    samples = deque(maxlen=LENGTH) if samples is None else samples
    samples.append(sample)
    return samples


def _last(samples: "deque[Any]", count: int) -> list[Any]:
    return list(islice(samples, max(0, len(samples) - count), None))
