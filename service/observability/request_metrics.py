"""The metrics of finished requests, all derived from their records."""

from prometheus_client import CollectorRegistry, Counter

from service.observability.genai_metrics import GenAiMetrics
from service.observability.histogram import FastHistogram, known_series
from service.observability.record import Record

# The label value for every model name that is not served: names from clients must not create time series.
UNKNOWN = "unknown"
OF_MODEL = ("model", "variant")
LABELS = (*OF_MODEL, "endpoint")
DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
TTFT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0)
GAP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)


class RequestMetrics:
    """What `observe` derives from the record of each finished request; `genai` adds OpenTelemetry's names."""

    def __init__(self, registry: CollectorRegistry, genai: bool = True) -> None:
        self._series = known_series()
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
            "Requests by how their model was found: id, adapter, alias, family, variant, task or auto.",
            ("model", "rule"), registry=registry,
        )  # fmt: skip
        self.queue_wait = FastHistogram(
            "roundhouse_queue_wait_seconds", "From arrival to a slot at a replica.", ("model",), registry=registry,
            buckets=DURATION_BUCKETS,
        )  # fmt: skip
        self.ttft = FastHistogram(
            "roundhouse_time_to_first_token_seconds", "From arrival to the first output event of a streamed response.",
            OF_MODEL, registry=registry, buckets=TTFT_BUCKETS,
        )  # fmt: skip
        self.itl = FastHistogram(
            "roundhouse_inter_token_latency_seconds", "Gaps between the output events of a streamed response.",
            OF_MODEL, registry=registry, buckets=GAP_BUCKETS,
        )  # fmt: skip
        self.tpot = FastHistogram(
            "roundhouse_time_per_output_token_seconds",
            "From the first to the last output of a streamed response, divided by its tokens after the first.",
            OF_MODEL, registry=registry, buckets=GAP_BUCKETS,
        )  # fmt: skip
        self.duration = FastHistogram(
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

    def observe(self, record: Record) -> None:
        """Observes one finished request."""
        series, labels = self._series, (record.model or UNKNOWN, record.variant or UNKNOWN, record.endpoint)
        series(self.requests, *labels, str(record.status), record.outcome).inc()
        series(self.duration, *labels).observe(record.duration)
        if record.code:
            series(self.errors, *labels, record.code).inc()
        for name in record.ignored_fields:
            series(self.ignored_fields, record.endpoint, name).inc()
        if record.tenant:
            series(self.tenant_requests, record.tenant, record.outcome).inc()
        if record.model:
            self._observe_answer(record, labels)

    def _observe_answer(self, record: Record, labels: tuple[str, str, str]) -> None:
        """What only a request has whose model was found."""
        series, model, tenant = self._series, record.model, record.tenant
        series(self.routing_decisions, model, record.rule).inc()
        if record.admitted is not None:
            series(self.queue_wait, model).observe(record.admitted - record.started)
        if record.streamed and (ttft := record.ttft) is not None:
            series(self.ttft, *labels[:2]).observe(ttft)
            series(self.itl, *labels[:2]).observe_all(record.gaps)
            if (tpot := record.tpot) is not None:
                series(self.tpot, *labels[:2]).observe(tpot)
        for kind, count in (("prompt", record.prompt_tokens), ("completion", record.completion_tokens)):
            if count:
                series(self.tokens, *labels, kind).inc(count)
                if tenant:
                    series(self.tenant_tokens, tenant, kind).inc(count)
        if record.cached_tokens:
            series(self.cached_tokens, model).inc(record.cached_tokens)
        if record.lost_tokens:
            series(self.wasted_tokens, model, "retried").inc(record.lost_tokens)
        if record.outcome in ("failed", "cancelled") and (wasted := record.generated_tokens):
            series(self.wasted_tokens, model, record.outcome).inc(wasted)
        if record.gpu_seconds and tenant:
            series(self.tenant_gpu_seconds, tenant).inc(record.gpu_seconds)
            series(self.tenant_cost, tenant).inc(record.cost)
        if record.attempts > 1:
            series(self.retries, model).inc(record.attempts - 1)
        if self.genai and record.attempts:
            self.genai.observe(record)
