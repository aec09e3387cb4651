"""Every metric of the gateway, declared once and set from the records of finished requests."""

import contextlib
import functools
import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from service.observability.record import Record

# The label value for every model name that is not served: names from clients must not create time series.
UNKNOWN = "unknown"
LABELS = ("model", "variant", "endpoint")
DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
GAP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)


class GapHistogram(Histogram):
    """A histogram that observes all gaps of a stream at once, which costs less than one call per event."""

    def observe_all(self, gaps: Iterable[float]) -> None:
        """Observes each gap, in seconds."""
        sorted_gaps = sorted(gaps)
        counted = 0
        for bound, bucket in zip(self._upper_bounds, self._buckets, strict=True):
            up_to_bound = bisect_right(sorted_gaps, bound)
            if up_to_bound > counted:
                bucket.inc(up_to_bound - counted)
                counted = up_to_bound
        self._sum.inc(sum(sorted_gaps))


class GaugesOf:
    """What `source` collects, without the gauges of models that are not served: a reload may have removed them.

    prometheus_client cannot remove a series from the files that several workers share.
    """

    def __init__(self, source: Collector, models: Collection[str]) -> None:
        self._source, self._models = source, models

    def collect(self) -> Iterator[Metric]:
        """Every metric, as prometheus_client asks for them."""
        for family in self._source.collect():
            if family.type == "gauge":
                family.samples = [one for one in family.samples if one.labels.get("model", "") in ("", *self._models)]
            yield family


class Metrics:
    """The gateway's metrics, in a registry of their own.

    `shared` is prometheus_client's multiprocess folder; None where there is only one worker. `models` are the ids of
    the served models; None while they are not known.
    """

    def __init__(self, shared: Path | None = None) -> None:
        self._shared = shared
        self.models: Collection[str] | None = None
        self.registry = registry = CollectorRegistry()
        # Caches the result of `labels`, whose lookup takes half of the time of `observe`.
        self._series = functools.cache(_labelled)
        self.requests = Counter(
            "roundhouse_requests", "Finished requests by outcome.", (*LABELS, "outcome"), registry=registry
        )
        self.errors = Counter(
            "roundhouse_errors", "Requests that ended in an error, by error code.", (*LABELS, "code"), registry=registry
        )
        self.ignored_fields = Counter(
            "roundhouse_ignored_fields", "Fields of request bodies that were dropped because nothing here uses them.",
            ("endpoint", "field"), registry=registry,
        )  # fmt: skip
        self.sequences_in_flight = Gauge(
            "roundhouse_sequences_in_flight",
            "Sequences that the requests in flight are for the engines: their prompts times choices, or their inputs.",
            ("model",), registry=registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self.invalid_requests = Counter(
            "roundhouse_invalid_requests", "What clients sent that is not a valid HTTP request, by error code.",
            ("code",), registry=registry,
        )  # fmt: skip
        self.in_flight = Gauge(
            "roundhouse_requests_in_flight", "Requests that hold a slot at a replica.", ("model",), registry=registry,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self.queued = Gauge(
            "roundhouse_requests_queued", "Requests waiting for a slot at a replica.", ("model",), registry=registry,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self.demand = Gauge(
            "roundhouse_demand", "Requests of a model, in flight and queued: the value for an autoscaler.",
            ("model",), registry=registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self.last_reload_successful = Gauge(
            "roundhouse_config_last_reload_successful",
            "Whether the last read of the fleet file was applied (1) or refused (0).",
            registry=registry, multiprocess_mode="livemin",
        )  # fmt: skip
        self.last_reload_successful.set(1)
        self.last_keys_reload_successful = Gauge(
            "roundhouse_keys_last_reload_successful",
            "Whether the last read of the keys file was applied (1) or refused (0).",
            registry=registry, multiprocess_mode="livemin",
        )  # fmt: skip
        self.last_keys_reload_successful.set(1)
        self.idempotency_cache_bytes = Gauge(
            "roundhouse_idempotency_cache_bytes", "Approximate size of the responses kept for an Idempotency-Key.",
            registry=registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self.event_loop_lag = Histogram(
            "roundhouse_event_loop_lag_seconds", "Delay of a timer that is due four times a second.",
            registry=registry, buckets=GAP_BUCKETS,
        )  # fmt: skip
        self.ttft = Histogram(
            "roundhouse_time_to_first_token_seconds", "From arrival to the first output event of a streamed response.",
            LABELS, registry=registry, buckets=DURATION_BUCKETS,
        )  # fmt: skip
        self.itl = GapHistogram(
            "roundhouse_inter_token_latency_seconds", "Gaps between the output events of a streamed response.", LABELS,
            registry=registry, buckets=GAP_BUCKETS,
        )  # fmt: skip
        self.duration = Histogram(
            "roundhouse_request_duration_seconds", "From arrival to the end of the response.", LABELS,
            registry=registry, buckets=DURATION_BUCKETS,
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
        self.background_task_failures = Counter(
            "roundhouse_background_task_failures", "Failures of tasks that must always run; each was started again.",
            ("task",), registry=registry,
        )  # fmt: skip
        self.response_store_failures = Counter(
            "roundhouse_response_store_failures", "Reads and writes of the stored responses that failed.",
            registry=registry,
        )  # fmt: skip
        self.log_lines_dropped = Counter(
            "roundhouse_log_lines_dropped", "Log lines lost because their reader was too slow or gone.",
            registry=registry,
        )  # fmt: skip

    def observe(self, record: Record) -> None:
        """Observes one finished request."""
        series, labels = self._series, (record.model or UNKNOWN, record.variant or UNKNOWN, record.endpoint)
        series(self.requests, *labels, record.outcome).inc()
        if record.code:
            series(self.errors, *labels, record.code).inc()
        series(self.duration, *labels).observe(record.duration)
        if record.streamed and record.ttft is not None:
            series(self.ttft, *labels).observe(record.ttft)
            series(self.itl, *labels).observe_all(record.gaps)
        if record.prompt_tokens:
            series(self.tokens, *labels, "prompt").inc(record.prompt_tokens)
        if record.completion_tokens:
            series(self.tokens, *labels, "completion").inc(record.completion_tokens)
        for name in record.ignored_fields:
            series(self.ignored_fields, record.endpoint, name).inc()
        if record.attempts > 1:
            series(self.retries, record.model).inc(record.attempts - 1)

    def set_replicas(self, counts: Iterable[tuple[str, str, int]]) -> None:
        """Sets the replica gauge from rows of (model, state, count)."""
        for model, state, count in counts:
            self.replicas.labels(model, state).set(count)

    def forget_dead_workers(self, alive: Collection[int]) -> None:
        """Removes the gauges that other workers than those with the pids `alive` have left in the shared folder."""
        files = self._shared.glob("gauge_live*_*.db") if self._shared else ()
        pids = {int(match[1]) for file in files if (match := re.search(r"_(\d+)\.db$", file.name))}
        for pid in pids.difference(alive):
            with contextlib.suppress(FileNotFoundError):  # another worker has just done it
                mark_process_dead(pid, str(self._shared))  # type: ignore[no-untyped-call]

    def text(self) -> bytes:
        """The metrics in Prometheus' text format, aggregated over all workers."""
        source: Collector = self.registry
        if self._shared:
            source = MultiProcessCollector(None, str(self._shared))  # type: ignore[no-untyped-call]
        return generate_latest(source if self.models is None else GaugesOf(source, self.models))


def _labelled(metric: Any, *labels: str) -> Any:
    return metric.labels(*labels)
