"""Counters, gauges and histograms of prometheus_client that cost little at each scrape and to count with.

Each series knows the beginning of its lines, so that a page needs no dictionary of labels.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Self, cast

import prometheus_client
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]
go_text: Callable[[float], str] = floatToGoString  # which has no types


class Labelled(MetricWrapperBase):
    """A metric whose series that are there already are found without the library's lock and checks."""

    def labels(self, *values: Any, **by_name: Any) -> Self:
        """The series with these values of the labels."""
        return cast(Self, self._metrics.get(values) or super().labels(*values, **by_name))


class Counter(Labelled, prometheus_client.Counter):
    """A counter."""

    def lines(self) -> str:
        """The line of this series."""
        return f"{self._start}{go_text(self._value.get())}\n"

    @cached_property
    def _start(self) -> str:
        return start(f"{self._name}_total", self._labelnames, self._labelvalues)


class Gauge(Labelled, prometheus_client.Gauge):
    """A gauge."""

    def lines(self) -> str:
        """The line of this series."""
        return f"{self._start}{go_text(self._value.get())}\n"

    @cached_property
    def _start(self) -> str:
        return start(self._name, self._labelnames, self._labelvalues)


class Histogram(Labelled, prometheus_client.Histogram):
    """A histogram."""

    def observe_all(self, amounts: Iterable[float]) -> None:
        """Observes values, of which none is NaN: many take little longer than one does."""
        ordered, bounds, done = sorted(amounts), self._upper_bounds, 0
        self._sum.inc(sum(ordered))
        while done < len(ordered):
            bucket = bisect_left(bounds, ordered[done])
            reached = bisect_right(ordered, bounds[bucket], done)
            self._buckets[bucket].inc(reached - done)
            done = reached

    def lines(self) -> str:
        """The lines of this series."""
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


AnyMetric = Counter | Gauge | Histogram


def declared(group: object) -> Iterator[AnyMetric]:
    """The metrics that are attributes of an object, in their order."""
    return (cast(AnyMetric, metric) for metric in vars(group).values() if isinstance(metric, MetricWrapperBase))


def children(metric: AnyMetric) -> Mapping[Labels, AnyMetric]:
    """The series of a metric by the values of their labels."""
    return cast(Mapping[Labels, AnyMetric], metric._metrics.copy() if metric._labelnames else {(): metric})


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
