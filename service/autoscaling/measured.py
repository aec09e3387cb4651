"""What a simulation measures: replicas and queue over time, percentiles of the time to first token, GPU time."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import NamedTuple

PLACES = 4  # decimals to which waiting times are kept apart


class Sample(NamedTuple):
    """One moment: seconds, requests that arrived so far, replicas ordered and ready, requests queued and running."""

    at: float
    arrived: int
    ordered: int
    ready: int
    queued: int
    running: int


@dataclass
class Measured:
    """The results of a run. `step` is the seconds between samples; `replica_seconds` counts replicas that hold GPUs.

    `refused` are requests that found the queue full or waited longer than they may; `left` those that had not ended.
    """

    step: float
    samples: list[Sample] = field(default_factory=list)
    arrived: int = 0
    refused: int = 0
    left: int = 0
    peak_replicas: int = 0
    peak_queued: int = 0
    replica_seconds: float = 0.0
    seconds: float = 0.0
    _waits: dict[float, int] = field(default_factory=dict)

    def pass_time(self, seconds: float, replicas: int) -> None:
        """Counts `seconds` in which so many replicas held their GPUs."""
        self.seconds += seconds
        self.replica_seconds += seconds * replicas
        self.peak_replicas = max(self.peak_replicas, replicas)

    def first_token(self, seconds: float, count: int) -> None:
        """Counts requests whose first token comes `seconds` after they arrived."""
        key = round(seconds, PLACES)
        self._waits[key] = self._waits.get(key, 0) + count

    def ttft(self, *shares: float) -> list[float | None]:
        """The times to first token within which these shares of the served requests stay; None if none was served."""
        times = sorted(self._waits)
        sums = list(accumulate(self._waits[time] for time in times))
        if not sums:
            return [None for _ in shares]
        return [times[bisect_left(sums, share * sums[-1])] for share in shares]

    def within(self, seconds: float) -> float:
        """The share of all requests that arrived whose first token came within so many seconds."""
        prompt = sum(count for time, count in self._waits.items() if time <= seconds)
        return prompt / self.arrived if self.arrived else 1.0

    def gpu_hours(self, gpus: int) -> float:
        """Hours of GPUs, of which a replica has `gpus`."""
        return self.replica_seconds * gpus / 3600

    def rates(self) -> Iterator[tuple[float, float]]:
        """Moments, and the requests a second that arrived up to each since the one before."""
        for earlier, later in pairwise(self.samples):
            yield later.at, (later.arrived - earlier.arrived) / (later.at - earlier.at)
