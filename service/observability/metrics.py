"""Every metric of the gateway, declared once, and the one place where a record is observed."""

import functools
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from service.observability.record import Record

# Unknown names come from clients: they share one label value, or every typing error would be a series of its own.
UNKNOWN = "unknown"
LABELS = ("model", "variant", "endpoint")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)


class Gaps(Histogram):
    """A histogram that takes all gaps of a stream at once: one by one they would cost more than their events."""

    def observe_all(self, gaps: Iterable[float]) -> None:
        """Counts them, in seconds."""
        ordered = sorted(gaps)
        below = 0
        for bound, bucket in zip(self._upper_bounds, self._buckets, strict=True):
            within = bisect_right(ordered, bound)
            if within > below:
                bucket.inc(within - below)
                below = within
        self._sum.inc(sum(ordered))


class Metrics:
    """The gateway's metrics in a registry of their own; `shared` is the folder where those of several workers meet."""

    def __init__(self, shared: Path | None = None) -> None:
        self._shared = shared
        self.registry = registry = CollectorRegistry()
        # Remembers what `labels` found, one for each series: looking them up costs half of it all.
        self._of = functools.cache(_child)
        self.requests = Counter(
            "roundhouse_requests", "Requests ended, by outcome.", (*LABELS, "outcome"), registry=registry
        )
        self.errors = Counter(
            "roundhouse_errors", "Requests that ended in an error, by its code.", (*LABELS, "code"), registry=registry
        )
        self.in_flight = Gauge(
            "roundhouse_in_flight", "Requests being answered now.", ("model",), registry=registry,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self.queued = Gauge(
            "roundhouse_queued", "Requests waiting for a place at an engine.", ("model",), registry=registry,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self.demand = Gauge(
            "roundhouse_demand", "Requests of a model, running and waiting: what an autoscaler should follow.",
            ("model",), registry=registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self.reload_failed = Gauge(
            "roundhouse_reload_failed", "Whether the fleet file as it is now was refused (1) or is in use (0).",
            registry=registry, multiprocess_mode="livemax",
        )  # fmt: skip
        self.idempotency_cache_bytes = Gauge(
            "roundhouse_idempotency_cache_bytes", "Memory of answers that an Idempotency-Key stands for.",
            registry=registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self.loop_delay = Histogram(
            "roundhouse_event_loop_delay_seconds", "How late the gateway is for what it does four times a second.",
            registry=registry, buckets=GAPS,
        )  # fmt: skip
        self.ttft = Histogram(
            "roundhouse_time_to_first_token_seconds", "From arrival to the first output of a stream.", LABELS,
            registry=registry, buckets=SECONDS,
        )  # fmt: skip
        self.itl = Gaps(
            "roundhouse_inter_token_latency_seconds", "Gaps between output events of a stream.", LABELS,
            registry=registry, buckets=GAPS,
        )  # fmt: skip
        self.duration = Histogram(
            "roundhouse_request_duration_seconds", "From arrival to the end of the answer.", LABELS,
            registry=registry, buckets=SECONDS,
        )  # fmt: skip
        self.tokens = Counter(
            "roundhouse_tokens", "Tokens by kind: prompt (in) and completion (out).", (*LABELS, "kind"),
            registry=registry,
        )  # fmt: skip
        self.retries = Counter(
            "roundhouse_retries", "Second attempts on another replica.", ("model",), registry=registry
        )
        self.replicas = Gauge(
            "roundhouse_replicas", "Replicas by state.", ("model", "state"), registry=registry,
            multiprocess_mode="livemax",
        )  # fmt: skip

    def observe(self, record: Record) -> None:
        """Counts one ended request."""
        of, labels = self._of, (record.model or UNKNOWN, record.variant or UNKNOWN, record.endpoint)
        of(self.requests, *labels, record.outcome).inc()
        if record.code:
            of(self.errors, *labels, record.code).inc()
        of(self.duration, *labels).observe(record.duration)
        if record.streamed and record.ttft is not None:
            of(self.ttft, *labels).observe(record.ttft)
            of(self.itl, *labels).observe_all(record.gaps)
        if record.prompt_tokens:
            of(self.tokens, *labels, "prompt").inc(record.prompt_tokens)
        if record.completion_tokens:
            of(self.tokens, *labels, "completion").inc(record.completion_tokens)
        if record.attempts > 1:
            of(self.retries, record.model).inc(record.attempts - 1)

    def show_replicas(self, counts: Iterable[tuple[str, str, int]]) -> None:
        """Sets the replicas gauge from (model, state, count) rows."""
        for model, state, count in counts:
            self.replicas.labels(model, state).set(count)

    def text(self) -> bytes:
        """All of it in Prometheus's text format, every worker's where there are several."""
        registry = self.registry
        if self._shared:
            registry = CollectorRegistry()
            MultiProcessCollector(registry, str(self._shared))  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def _child(metric: Any, *labels: str) -> Any:
    return metric.labels(*labels)
