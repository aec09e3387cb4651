"""What differences between two models' scores amount to: means, a bootstrap interval, wins and losses. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

Metric = Literal["judge", "similarity", "rouge-l", "exact-match"]
Verdict = Literal["better", "worse", "equal", "unclear", "too few"]

RESAMPLES = 10_000
FEWEST = 8  # cases: of fewer, resampling says nothing
AT_ONCE = 2_000_000  # numbers that are drawn at a time
# Differences up to this are ties. Embeddings of texts that mean the same are never quite the same.
TIES: dict[Metric, float] = {"similarity": 0.01}
ROUNDING = 1e-9


@dataclass(frozen=True)
class Sampling:
    """How intervals are made: `confidence` 0 to 1, the number of resamples, and the seed."""

    confidence: float = 0.95
    resamples: int = RESAMPLES
    seed: int = 0


@dataclass(frozen=True)
class Comparison:
    """One metric over `cases`: the means of both models, the new one's difference, and its bootstrap interval.

    `interval` is None where there are too few cases for one.
    """

    metric: Metric
    cases: int
    new: float
    against: float
    difference: float
    interval: tuple[float, float] | None
    wins: int
    ties: int
    losses: int

    @property
    def verdict(self) -> Verdict:
        """Whether the new model is better or worse, beyond what chance in the choice of cases would explain."""
        if self.interval is None:
            return "too few"
        low, high = self.interval
        if low == high == 0:
            return "equal"
        return "better" if low > 0 else "worse" if high < 0 else "unclear"


def compare(metric: Metric, pairs: Sequence[tuple[float, float]], sampling: Sampling) -> Comparison:
    """The comparison of one metric; `pairs` has each case's scores, the new model's first, and is not empty."""
    differences = [new - against for new, against in pairs]
    tie = TIES.get(metric, 0.0) + ROUNDING
    wins, losses = sum(one > tie for one in differences), sum(one < -tie for one in differences)
    new, against = fmean(one for one, _ in pairs), fmean(one for _, one in pairs)
    return Comparison(
        metric, len(pairs), new, against, fmean(differences), interval(differences, sampling),
        wins, len(pairs) - wins - losses, losses,
    )  # fmt: skip


def interval(differences: Sequence[float], sampling: Sampling) -> tuple[float, float] | None:
    """The percentile bootstrap interval of the mean of paired differences, or None of too few.

    Cases are drawn with replacement, as many as there are, `resamples` times; the interval holds the middle
    `confidence` of the means. The same seed gives the same interval.
    """
    count = len(differences)
    if count < FEWEST:
        return None
    import numpy as np  # takes 0.1 s, which no other command should spend

    values, draw = np.asarray(differences, dtype=np.float64), np.random.default_rng(sampling.seed)
    rows = max(1, AT_ONCE // count)
    sizes = [min(rows, sampling.resamples - done) for done in range(0, sampling.resamples, rows)]
    means = np.concatenate([values[draw.integers(count, size=(size, count))].mean(axis=1) for size in sizes])
    outside = (1 - sampling.confidence) / 2
    low, high = np.quantile(means, (outside, 1 - outside))
    return float(low.round(12)), float(high.round(12))


def signed(number: float) -> str:
    """A difference with its sign and three digits; what rounds to nothing has no minus."""
    return f"{round(number, 3) + 0.0:+.3f}"
