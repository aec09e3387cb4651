"""A faster histogram, and series that are looked up once: what makes metrics cheap at every request."""

import functools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import Histogram


class FastHistogram(Histogram):
    """Finds the bucket by bisection, and takes many values at once. It has no exemplars."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Observes one value. Like the library's, NaN is in no bucket."""
        self._sum.inc(amount)
        if amount == amount:
            self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)

    def observe_all(self, amounts: Iterable[float]) -> None:
        """Observes each value, such as the gaps of a stream, which costs less than one call for each."""
        ordered = sorted(amounts)
        counted = 0
        for bound, bucket in zip(self._upper_bounds, self._buckets, strict=True):
            up_to_bound = bisect_right(ordered, bound)
            if up_to_bound > counted:
                bucket.inc(up_to_bound - counted)
                counted = up_to_bound
        self._sum.inc(sum(ordered))


def known_series() -> Callable[..., Any]:
    """A function from a metric and values of its labels to their series, which it remembers.

    The lookup of `labels` would take half of the time that a request's metrics cost.
    """
    return functools.cache(lambda metric, *labels: metric.labels(*labels))
