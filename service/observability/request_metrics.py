"""The metrics of finished requests, all derived from their records."""

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry

from service.observability.genai_metrics import GenAiMetrics
from service.observability.record import Record, rule
from service.observability.series import Counter, Histogram, Labels
from service.observability.tallies import Kind, Tallies, Tally, TenantTally

# The label value for every model name that is not served: names from clients must not create time series.
UNKNOWN = "unknown"
OF_MODEL = ("model", "variant")
LABELS = (*OF_MODEL, "endpoint")
DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
TTFT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0)
GAP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)


class RequestMetrics:
    """What is derived from the records of finished requests; `genai` adds OpenTelemetry's names."""

    def __init__(self, registry: CollectorRegistry, genai: bool = True) -> None:
        self.requests = Counter(
            "roundhouse_requests", "Finished requests by HTTP status and outcome.", (*LABELS, "status", "outcome"),
            registry=registry,
        )  # fmt: skip
        self.errors = Counter(
            "roundhouse_errors", "Requests that ended in an error, by error code.", (*LABELS, "code"), registry=registry
        )
        self.ignored_fields = Counter(
            "roundhouse_ignored_fields", "Fields of request bodies that were dropped because nothing here uses them.",
            ("endpoint", "field"), registry=registry,
        )  # fmt: skip
        self.routing_decisions = Counter(
            "roundhouse_routing_decisions",
            "Requests by how their model was found: id, adapter, alias, family, variant, task, auto or fallback.",
            ("model", "rule"), registry=registry,
        )  # fmt: skip
        self.fallbacks = Counter(
            "roundhouse_fallbacks",
            "Requests that another model got than the one they were resolved to, which was unavailable, had its queue "
            "full or too slow, or did not start in time.",
            ("model", "fallback", "reason"), registry=registry,
        )  # fmt: skip
        self.queue_wait = Histogram(
            "roundhouse_queue_wait_seconds", "From arrival to a slot at a replica.", ("model",), registry=registry,
            buckets=DURATION_BUCKETS,
        )  # fmt: skip
        self.ttft = Histogram(
            "roundhouse_time_to_first_token_seconds", "From arrival to the first output event of a streamed response.",
            OF_MODEL, registry=registry, buckets=TTFT_BUCKETS,
        )  # fmt: skip
        self.itl = Histogram(
            "roundhouse_inter_token_latency_seconds", "Gaps between the output events of a streamed response.",
            OF_MODEL, registry=registry, buckets=GAP_BUCKETS,
        )  # fmt: skip
        self.tpot = Histogram(
            "roundhouse_time_per_output_token_seconds",
            "From the first to the last output of a streamed response, divided by its tokens after the first.",
            OF_MODEL, registry=registry, buckets=GAP_BUCKETS,
        )  # fmt: skip
        self.duration = Histogram(
            "roundhouse_request_duration_seconds", "From arrival to the end of the response.", LABELS,
            registry=registry, buckets=DURATION_BUCKETS,
        )  # fmt: skip
        self.tokens = Counter(
            "roundhouse_tokens", "Tokens by kind: prompt (in) and completion (out).", (*LABELS, "kind"),
            registry=registry,
        )  # fmt: skip
        self.cached_tokens = Counter(
            "roundhouse_cached_prompt_tokens", "Prompt tokens that an engine's prefix cache had already.", ("model",),
            registry=registry,
        )  # fmt: skip
        self.wasted_tokens = Counter(
            "roundhouse_wasted_tokens",
            "Tokens, at least, of responses that failed, that were begun again, or whose clients left.",
            ("model", "outcome"), registry=registry,
        )  # fmt: skip
        self.retries = Counter(
            "roundhouse_retries", "Second attempts on another replica.", ("model",), registry=registry
        )
        self.tenant_requests = Counter(
            "roundhouse_tenant_requests", "Finished requests of each tenant, by outcome.", ("tenant", "outcome"),
            registry=registry,
        )  # fmt: skip
        self.tenant_tokens = Counter(
            "roundhouse_tenant_tokens", "Tokens of each tenant, by kind.", ("tenant", "kind"), registry=registry
        )
        self.tenant_gpu_seconds = Counter(
            "roundhouse_tenant_gpu_seconds", "Busy GPU time by tenant: requests that run at once share it equally.",
            ("tenant",), registry=registry,
        )  # fmt: skip
        self.tenant_cost = Counter(
            "roundhouse_tenant_cost", "Busy GPU time by tenant at the fleet file's price.", ("tenant",),
            registry=registry,
        )  # fmt: skip
        self.genai = GenAiMetrics(registry) if genai else None
        self._tallies = Tallies()

    def observe(self, record: Record) -> None:
        """Observes one finished request; it is in the metrics after `settle`, if not before."""
        for name in record.ignored_fields:
            self.ignored_fields.labels(record.endpoint, name).inc()
        if record.fallback and record.model:
            self.fallbacks.labels(record.fallback_of, record.model, record.fallback).inc()
        if many := self._tallies.add(record):
            self._settle_kind(*many)

    def settle(self) -> None:
        """Puts all that was observed into the metrics, before somebody reads them."""
        for kind, tally in self._tallies.take_kinds():
            self._settle_kind(kind, tally)
        for (tenant, outcome), of_tenant in self._tallies.take_tenants():
            self._settle_tenant(tenant, outcome, of_tenant)

    def _settle_kind(self, kind: Kind, tally: Tally) -> None:
        model, variant, count = kind.model or UNKNOWN, kind.variant or UNKNOWN, len(tally.durations)
        labels = model, variant, kind.endpoint
        self.requests.labels(*labels, str(kind.status), kind.outcome).inc(count)
        self.duration.labels(*labels).observe_all(tally.durations)
        if kind.code:
            self.errors.labels(*labels, kind.code).inc(count)
        if not kind.model:
            return
        self.routing_decisions.labels(model, rule(kind.found_by)).inc(count)
        observed: Iterable[tuple[Histogram, Labels, Sequence[float]]] = (
            (self.queue_wait, (model,), tally.waits),
            (self.ttft, (model, variant), tally.ttfts),
            (self.itl, (model, variant), tally.gaps),
            (self.tpot, (model, variant), tally.tpots),
        )
        for metric, of, values in observed:
            if values:
                metric.labels(*of).observe_all(values)
        counted: Iterable[tuple[Counter, Labels, int]] = (
            (self.tokens, (*labels, "prompt"), sum(tally.prompts)),
            (self.tokens, (*labels, "completion"), sum(tally.completions)),
            (self.cached_tokens, (model,), tally.cached),
            (self.wasted_tokens, (model, "retried"), tally.lost),
            (self.wasted_tokens, (model, kind.outcome), tally.wasted),
            (self.retries, (model,), count * max(0, kind.attempts - 1)),
        )
        for counter, of, amount in counted:
            if amount:
                counter.labels(*of).inc(amount)
        if self.genai and kind.attempts:
            self.genai.settle(kind, tally)

    def _settle_tenant(self, tenant: str, outcome: str, tally: TenantTally) -> None:
        self.tenant_requests.labels(tenant, outcome).inc(tally.requests)
        if tally.prompt_tokens:
            self.tenant_tokens.labels(tenant, "prompt").inc(tally.prompt_tokens)
        if tally.completion_tokens:
            self.tenant_tokens.labels(tenant, "completion").inc(tally.completion_tokens)
        if tally.gpu_seconds:
            self.tenant_gpu_seconds.labels(tenant).inc(tally.gpu_seconds)
            self.tenant_cost.labels(tenant).inc(tally.cost)
