"""`METRIC[:MARGIN]`: when an evaluation ends with a failure. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from service.evaluation.statistics import Comparison, Metric


@dataclass(frozen=True)
class Gate:
    """What must not get worse. With a margin, it fails unless the loss is at most that; without, where there is one."""

    metric: Metric
    margin: float | None = None

    def __str__(self) -> str:
        return self.metric if self.margin is None else f"{self.metric}:{self.margin:g}"


def gate_of(text: str) -> Gate:
    """The gate that a text such as `rouge-l:0.02` means; raises ValueError."""
    name, colon, number = text.partition(":")
    metric = next((one for one in get_args(Metric) if one == name), None)
    if metric is None:
        raise ValueError(f"there is no metric '{name}'; metrics are {', '.join(get_args(Metric))}")
    if not colon:
        return Gate(metric)
    try:
        margin = float(number)
    except ValueError:
        margin = math.nan
    if not 0 <= margin <= 1:
        raise ValueError(f"'{number}' is no margin: a number from 0 to 1, such as {name}:0.02")
    return Gate(metric, margin)


def failure(gate: Gate, comparisons: Sequence[Comparison], cases: int) -> str | None:
    """Why a gate fails, or None. `cases` is how many there are: that one could not be measured is a failure, too."""
    found = next((one for one in comparisons if one.metric == gate.metric), None)
    if found is None:
        return f"{gate.metric} could not be measured"
    if found.cases < cases:
        return f"{gate.metric} could not be measured for {cases - found.cases} of {cases} cases"
    if found.interval is None:
        return f"{found.cases} cases are too few to say anything about {gate.metric}"
    low, high = found.interval
    if gate.margin is None:
        return None if high >= 0 else f"{gate.metric} is worse by {-found.difference:.3f} ({-high:.3f} to {-low:.3f})"
    if low >= -gate.margin:
        return None
    return f"{gate.metric} may be worse by {-low:.3f}, more than {gate.margin:g}"
