"""A histogram that costs a request less than prometheus_client's own, whose values it keeps."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

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
