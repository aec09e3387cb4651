"""Whether a model that gets a part of the traffic does worse than the one it is to replace, by their metrics. Pure."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from prometheus_client import Metric

LEAST_FAILED = 2  # requests: one alone may have many reasons
LEAST_STREAMS = 20  # by which medians of buckets mean something
TTFT_NOISE = 0.05  # seconds; buckets are coarse


@dataclass(frozen=True)
class Counts:
    """What was counted of one model: `failed` of `requests`, with those that another one had to answer in its place.

    `ttft` has the streams by the upper end of their bucket, not cumulated.
    """

    requests: float = 0
    failed: float = 0
    ejections: float = 0
    restarts: float = 0
    ttft: Mapping[float, float] = field(default_factory=dict)

    def since(self, before: "Counts") -> "Counts":
        """What was counted since then. Counters begin anew where the service was restarted."""
        if self.requests < before.requests:
            return self
        return Counts(
            self.requests - before.requests, self.failed - before.failed, self.ejections - before.ejections,
            self.restarts - before.restarts,
            {end: count - before.ttft.get(end, 0) for end, count in self.ttft.items()},
        )  # fmt: skip


def counts(families: Iterable[Metric], model: str, engines: str) -> Counts:
    """The counts of one model from the page of metrics; `engines` is the model whose engines it is on."""
    every = [one for family in families for one in family.samples if one.labels.get("model") in (model, engines)]
    samples = [one for one in every if one.labels["model"] == model]

    def total(name: str, model: str = model) -> float:
        return sum(one.value for one in every if one.name == name and one.labels["model"] == model)

    moved = total("roundhouse_fallbacks_total")
    failed = sum(
        one.value
        for one in samples
        if one.name == "roundhouse_requests_total"
        and (one.labels["status"].startswith("5") or one.labels["outcome"] == "failed")
    )
    below: dict[float, float] = defaultdict(float)
    for one in samples:
        if one.name == "roundhouse_time_to_first_token_seconds_bucket":
            below[float(one.labels["le"])] += one.value
    ends = sorted(below)
    ttft = {end: below[end] - below.get(before, 0.0) for before, end in pairwise([0.0, *ends])}
    return Counts(
        total("roundhouse_requests_total") + moved, failed + moved, total("roundhouse_ejections_total", engines),
        total("roundhouse_engine_restarts", engines), ttft,
    )  # fmt: skip


def alarm(old: Counts, new: Counts, *, errors: float, ttft: float) -> str:
    """Why the new model should get no more traffic; empty if nothing says so.

    `errors` is by how much its part of failed requests may exceed the old one's, `ttft` by what its median time to
    first token may be multiplied.
    """
    rates = [one.failed / one.requests if one.requests else 0.0 for one in (old, new)]
    if new.failed >= LEAST_FAILED and rates[1] > rates[0] + errors:
        return f"{new.failed:g} of {new.requests:g} requests failed ({rates[1]:.1%}; of the old one's {rates[0]:.1%})"
    if new.ejections > old.ejections:
        return f"its replicas were ejected {new.ejections:g} times"
    if new.restarts > old.restarts:
        return f"its engines were restarted {new.restarts:g} times"
    medians = [_median(one.ttft) for one in (old, new)]
    if medians[0] and medians[1] and medians[1] > medians[0] * ttft + TTFT_NOISE:
        return f"its median TTFT is {medians[1] * 1e3:.0f} ms (the old one's {medians[0] * 1e3:.0f} ms)"
    return ""


def _median(buckets: Mapping[float, float]) -> float | None:
    """The median by linear interpolation within its bucket; None of too few."""
    total = sum(buckets.values())
    if total < LEAST_STREAMS:
        return None
    below, start = 0.0, 0.0
    for end, count in sorted(buckets.items()):
        if below + count >= total / 2 and count:
            return start if math.isinf(end) else start + (end - start) * (total / 2 - below) / count
        below, start = below + count, end
    return None
