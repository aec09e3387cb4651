"""Every metric of the gateway: those of requests, of the fleet's state, and of the gateway itself."""

import contextlib
import re
from collections.abc import Collection
from functools import cached_property
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import mark_process_dead

from service.config.release import release
from service.observability.fleet_metrics import FleetMetrics
from service.observability.record import Record
from service.observability.request_metrics import DURATION_BUCKETS, GAP_BUCKETS, RequestMetrics
from service.observability.series import AnyMetric, Counter, Gauge, Histogram, declared, page
from service.observability.shared_page import SharedPage

CHECK_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The gateway's metrics, in a registry of their own.

    `shared` is prometheus_client's multiprocess folder; None where there is only one worker. `models` are the ids of
    the served models, None while they are not known, and `replicas` those of their replicas. `genai` adds the metrics
    that OpenTelemetry names.
    """

    def __init__(self, shared: Path | None = None, genai: bool = True) -> None:
        self._shared = SharedPage(shared) if shared else None
        self.models: Collection[str] | None = None
        self.replicas: Collection[str] = ()
        self.registry = registry = CollectorRegistry()
        self.requests = RequestMetrics(registry, genai)
        self.observe = self.requests.observe  # a finished request, which is on the next page
        self.fleet = FleetMetrics(registry, shared is not None)
        self.invalid_requests = Counter(
            "roundhouse_invalid_requests", "What clients sent that is not a valid HTTP request, by error code.",
            ("code",), registry=registry,
        )  # fmt: skip
        self.build = Gauge(
            "roundhouse_build_info", "1, with the version as a label.", ("version",), registry=registry,
            multiprocess_mode="livemax",
        )  # fmt: skip
        self.build.labels(release()).set(1)
        self.reloads = Counter(
            "roundhouse_config_reloads", "Reads of a changed file by what became of it: applied or refused.",
            ("file", "outcome"), registry=registry,
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
        self.sign_on_refusals = Counter(
            "roundhouse_sign_on_refusals", "Tokens of users that were not accepted, by reason.", ("reason",),
            registry=registry,
        )  # fmt: skip
        self.last_sign_on_fetch_successful = Gauge(
            "roundhouse_sign_on_last_fetch_successful",
            "Whether the last fetch of the identity provider's signing keys succeeded (1) or failed (0).",
            registry=registry, multiprocess_mode="livemin",
        )  # fmt: skip
        self.last_sign_on_fetch_successful.set(1)
        self.idempotency_cache_bytes = Gauge(
            "roundhouse_idempotency_cache_bytes", "Approximate size of the responses kept for an Idempotency-Key.",
            registry=registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self.event_loop_lag = Histogram(
            "roundhouse_event_loop_lag_seconds", "Delay of a timer that is due four times a second.",
            registry=registry, buckets=GAP_BUCKETS,
        )  # fmt: skip
        self.evidence_bundles = Counter(
            "roundhouse_evidence_bundles", "Failures of engines that were started here, of which evidence is kept.",
            ("model", "cause"), registry=registry,
        )  # fmt: skip
        self.evidence_lost = Counter(
            "roundhouse_evidence_lost", "Failures of engines that were started here, of which none could be kept.",
            ("model", "cause"), registry=registry,
        )  # fmt: skip
        self.background_task_failures = Counter(
            "roundhouse_background_task_failures", "Failures of tasks that must always run; each was started again.",
            ("task",), registry=registry,
        )  # fmt: skip
        self.response_store_failures = Counter(
            "roundhouse_response_store_failures", "Reads and writes of the stored responses that failed.",
            registry=registry,
        )  # fmt: skip
        self.checks = Counter(
            "roundhouse_checks", "Checks of what engines compile or decode, by kind and result.", ("kind", "result"),
            registry=registry,
        )  # fmt: skip
        self.check_seconds = Histogram(
            "roundhouse_check_seconds", "How long a check took that was not remembered.", ("kind",), registry=registry,
            buckets=CHECK_BUCKETS,
        )  # fmt: skip
        self.usage_write_failures = Counter(
            "roundhouse_usage_write_failures",
            "Batches of the usage ledger that could not be written; each is tried again.", registry=registry,
        )  # fmt: skip
        self.usage_lines_dropped = Counter(
            "roundhouse_usage_lines_dropped", "Requests without a line in the usage ledger, as too many waited for it.",
            registry=registry,
        )  # fmt: skip
        self.check_process_deaths = Counter(
            "roundhouse_check_process_deaths", "Processes that died of what they checked, by how.", ("how",),
            registry=registry,
        )  # fmt: skip
        self.guardrail_checks = Counter(
            "roundhouse_guardrail_checks", "Texts that a guardrail judged, by stage and result.",
            ("guardrail", "stage", "result"), registry=registry,
        )  # fmt: skip
        self.guardrail_duration = Histogram(
            "roundhouse_guardrail_duration_seconds", "How long a guardrail takes for one text.", ("guardrail",),
            registry=registry, buckets=DURATION_BUCKETS,
        )  # fmt: skip
        self.budget_store_failures = Counter(
            "roundhouse_budget_store_failures",
            "Questions to the Redis of the budgets, and corrections there, that had no answer.", registry=registry,
        )  # fmt: skip
        self.guard_tokens = Counter(
            "roundhouse_guard_tokens", "Tokens that guards read and wrote for guardrails and moderations.",
            ("model", "kind"), registry=registry,
        )  # fmt: skip
        self.log_lines_dropped = Counter(
            "roundhouse_log_lines_dropped", "Log lines lost because their reader was too slow or gone.",
            registry=registry,
        )  # fmt: skip
        self.log_lines_left_out = Counter(
            "roundhouse_log_lines_left_out",
            "Requests without a log line, by reason: level, probe or sample, as the settings want it.", ("reason",),
            registry=registry,
        )  # fmt: skip
        self.spans_dropped = Counter(
            "roundhouse_spans_dropped",
            "Spans of traces that were lost: too many waited (queue), or the collector did not take them (export).",
            ("reason",), registry=registry,
        )  # fmt: skip
        self.file_lines_dropped = Counter(
            "roundhouse_file_lines_dropped", "Lines lost of a log that is a file, such as the audit log.",
            ("log",), registry=registry,
        )  # fmt: skip

    def observe_guardrail(self, guardrail: str, stage: str, result: str, seconds: float) -> None:
        """Observes one text that a guardrail was asked about, for so many seconds."""
        self.guardrail_checks.labels(guardrail, stage, result).inc()
        self.guardrail_duration.labels(guardrail).observe(seconds)

    def count_guard_tokens(self, model: str, record: Record) -> None:
        """Counts the tokens of a guard, which are no tenant's."""
        self.guard_tokens.labels(model, "prompt").inc(record.prompt_tokens)
        self.guard_tokens.labels(model, "completion").inc(record.completion_tokens)

    def forget_dead_workers(self, alive: Collection[int]) -> None:
        """Removes the gauges that other workers than those with the pids `alive` have left in the shared folder."""
        if self._shared is None:
            return
        folder = self._shared.folder
        files = folder.glob("gauge_live*_*.db")
        pids = {int(match[1]) for file in files if (match := re.search(r"_(\d+)\.db$", file.name))}
        for pid in pids.difference(alive):
            with contextlib.suppress(FileNotFoundError):  # another worker has just done it
                mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]

    def publish(self) -> None:
        """Gives the other workers what requests have added here; where there are none it need not be called."""
        if self._shared:
            self.requests.settle()

    def text(self) -> bytes:
        """The metrics in Prometheus' text format, aggregated over all workers."""
        present: dict[str, Collection[str]] = {}
        if self.models is not None:
            present = {"model": {"", *self.models}, "replica": {"", *self.replicas}}
        self.requests.settle()
        if self._shared is None:
            return page(self._declared, present).encode()
        return self._shared.text(present).encode()

    @cached_property
    def _declared(self) -> tuple[AnyMetric, ...]:
        groups = self.requests, self.requests.genai, self.fleet, self
        return tuple(metric for group in groups if group for metric in declared(group))
