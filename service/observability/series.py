"""Counters, gauges and histograms of prometheus_client that cost little at each request and at each scrape.

What a request adds is kept in plain numbers, which the event loop alone changes, and moved into the library's values
before anyone reads them. Each series knows the beginning of its lines, so that a page needs no dictionary of labels.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import prometheus_client
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]
go_text: Callable[[float], str] = floatToGoString  # which has no types


class Counter(prometheus_client.Counter):
    """A counter. The event loop may add to `pending` what is to be counted; other threads use `inc`."""

    pending = 0.0

    def flush(self) -> None:
        """Counts what is pending."""
        if self.pending:
            amount, self.pending = self.pending, 0.0
            self._value.inc(amount)

    def lines(self) -> str:
        """The line of this series."""
        self.flush()
        return f"{self._start}{go_text(self._value.get())}\n"

    @cached_property
    def _start(self) -> str:
        return start(f"{self._name}_total", self._labelnames, self._labelvalues)

    def _child_samples(self) -> Iterable[Sample]:
        self.flush()
        return super()._child_samples()


class Gauge(prometheus_client.Gauge):
    """A gauge."""

    def lines(self) -> str:
        """The line of this series."""
        return f"{self._start}{go_text(self._value.get())}\n"

    @cached_property
    def _start(self) -> str:
        return start(self._name, self._labelnames, self._labelvalues)


class Histogram(prometheus_client.Histogram):
    """A histogram, which only the event loop observes. It has no exemplars."""

    def _metric_init(self) -> None:
        super()._metric_init()
        self._counts, self._total = [0] * len(self._upper_bounds), 0.0

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Observes one value. Like the library's, NaN is in no bucket."""
        self._total += amount
        if amount == amount:
            self._counts[bisect_left(self._upper_bounds, amount)] += 1

    def observe_all(self, amounts: Iterable[float]) -> None:
        """Observes each value, such as the gaps of a stream, which costs less than one call for each."""
        ordered, bounds, done = sorted(amounts), self._upper_bounds, 0
        self._total += sum(ordered)
        for _ in bounds:
            if done == len(ordered):
                break
            bucket = bisect_left(bounds, ordered[done])
            reached = bisect_right(ordered, bounds[bucket], done)
            self._counts[bucket] += reached - done
            done = reached

    def flush(self) -> None:
        """Moves what was observed into the library's values."""
        if any(self._counts) or self._total:
            self._sum.inc(self._total)
            for value, count in zip(self._buckets, self._counts, strict=True):
                if count:
                    value.inc(count)
            self._counts, self._total = [0] * len(self._upper_bounds), 0.0

    def lines(self) -> str:
        """The lines of this series."""
        self.flush()
        count, written = 0.0, []
        *buckets, last, total = self._starts
        for begun, value in zip(buckets, self._buckets, strict=True):
            count += value.get()
            written.append(f"{begun}{go_text(count)}\n")
        return f"{''.join(written)}{last}{go_text(count)}\n{total}{go_text(self._sum.get())}\n"

    @cached_property
    def _starts(self) -> list[str]:
        """How the lines of the buckets, of the count and of the sum begin."""
        names, values = self._labelnames, self._labelvalues
        bounds = [(*values, go_text(bound)) for bound in self._upper_bounds]
        buckets = [start(f"{self._name}_bucket", (*names, "le"), labels) for labels in bounds]
        return [*buckets, *(start(self._name + suffix, names, values) for suffix in ("_count", "_sum"))]

    def _child_samples(self) -> Iterable[Sample]:
        self.flush()
        return super()._child_samples()


AnyMetric = Counter | Gauge | Histogram


class Series(dict[str, Any]):
    """The series of one set of requests by name, each of which is looked up when it is first asked for.

    To look all of them up for every request would be half of what metrics cost.
    """

    def __init__(self, **series: tuple[AnyMetric, Labels]) -> None:
        super().__init__()
        self._series = series

    def __missing__(self, name: str) -> Any:
        metric, labels = self._series[name]
        found = metric.labels(*labels)
        self[name] = found
        return found


def declared(group: object) -> Iterator[AnyMetric]:
    """The metrics that are attributes of an object, in their order."""
    return (cast(AnyMetric, metric) for metric in vars(group).values() if isinstance(metric, MetricWrapperBase))


def children(metric: AnyMetric) -> Mapping[Labels, AnyMetric]:
    """The series of a metric by the values of their labels."""
    return cast(Mapping[Labels, AnyMetric], metric._metrics.copy() if metric._labelnames else {(): metric})


def flush(metrics: Iterable[AnyMetric]) -> None:
    """Moves into the library's values what requests have added."""
    for metric in metrics:
        if not isinstance(metric, Gauge):
            for series in children(metric).values():
                cast(Counter | Histogram, series).flush()


def page(metrics: Iterable[AnyMetric], present: Mapping[str, Collection[str]]) -> str:
    """All series in Prometheus' text format, as `generate_latest` writes them, without the times of their creation.

    A gauge with one of the labels in `present` is left out where the label has none of those values.
    """
    return "".join(text for metric in metrics for text in _family(metric, present))


def start(name: str, labels: Sequence[str], values: Sequence[str]) -> str:
    """How the line of a series begins: its name and labels, and a space."""
    pairs = (f'{label}="{_escaped(value)}"' for label, value in sorted(zip(labels, values, strict=True)))
    inner = ",".join(pairs)
    return f"{name}{{{inner}}} " if inner else f"{name} "


def _family(metric: AnyMetric, present: Mapping[str, Collection[str]]) -> Iterator[str]:
    (family,) = metric.describe()
    name = f"{family.name}_total" if isinstance(metric, Counter) else family.name
    yield f"# HELP {name} {family.documentation}\n# TYPE {name} {family.type}\n"
    limits = [(at, present[label]) for at, label in enumerate(metric._labelnames) if label in present]
    for labels, series in children(metric).items():
        if not (isinstance(metric, Gauge) and any(labels[at] not in values for at, values in limits)):
            yield series.lines()


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
