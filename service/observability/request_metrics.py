"""The metrics of finished requests, all derived from their records."""

from functools import cache

from prometheus_client import CollectorRegistry

from service.observability.genai_metrics import GenAiMetrics
from service.observability.record import Record, rule
from service.observability.series import Counter, Histogram, Series

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
        self._of_endpoint, self._of_tenant = cache(self._find_of_endpoint), cache(self._find_of_tenant)
        self._routed = cache(self._find_routed)

    def observe(self, record: Record) -> None:
        """Observes one finished request."""
        model, tenant, outcome = record.model or UNKNOWN, record.tenant, record.outcome
        series = self._of_endpoint(model, record.variant or UNKNOWN, record.endpoint, record.status, outcome)
        series["requests"].pending += 1
        duration = record.duration
        series["duration"].observe(duration)
        if record.code:
            self.errors.labels(model, record.variant or UNKNOWN, record.endpoint, record.code).inc()
        for name in record.ignored_fields:
            self.ignored_fields.labels(record.endpoint, name).inc()
        of_tenant = self._of_tenant(tenant, outcome) if tenant else None
        if of_tenant is not None:
            of_tenant["requests"].pending += 1
        if record.model:
            self._observe_answer(record, series, of_tenant, duration)

    def _observe_answer(self, record: Record, series: Series, of_tenant: Series | None, duration: float) -> None:
        """What only a request has whose model was found."""
        self._routed(record.model, record.route_reason).pending += 1
        if record.fallback:
            self.fallbacks.labels(record.fallback_of, record.model, record.fallback).inc()
        if record.admitted is not None:
            series["queue_wait"].observe(record.admitted - record.started)
        ttft = record.ttft if record.streamed else None
        tpot = record.tpot if record.streamed else None
        if ttft is not None:
            series["ttft"].observe(ttft)
            series["itl"].observe_all(record.gaps)
            if tpot is not None:
                series["tpot"].observe(tpot)
        if record.prompt_tokens:
            series["prompt_tokens"].pending += record.prompt_tokens
        if record.completion_tokens:
            series["completion_tokens"].pending += record.completion_tokens
        if record.cached_tokens:
            series["cached_tokens"].pending += record.cached_tokens
        if record.lost_tokens:
            self.wasted_tokens.labels(record.model, "retried").inc(record.lost_tokens)
        if record.outcome in ("failed", "cancelled") and (wasted := record.generated_tokens):
            self.wasted_tokens.labels(record.model, record.outcome).inc(wasted)
        if record.attempts > 1:
            self.retries.labels(record.model).inc(record.attempts - 1)
        if of_tenant is not None:
            self._observe_tenant(record, of_tenant)
        if self.genai and record.attempts:
            self.genai.observe(record, duration, ttft, tpot)

    def _observe_tenant(self, record: Record, series: Series) -> None:
        if record.prompt_tokens:
            series["prompt_tokens"].pending += record.prompt_tokens
        if record.completion_tokens:
            series["completion_tokens"].pending += record.completion_tokens
        if record.gpu_seconds:
            series["gpu_seconds"].pending += record.gpu_seconds
            series["cost"].pending += record.cost

    def _find_routed(self, model: str, reason: str) -> Counter:
        return self.routing_decisions.labels(model, rule(reason))

    def _find_of_endpoint(self, model: str, variant: str, endpoint: str, status: int, outcome: str) -> Series:
        of_model, labels = (model, variant), (model, variant, endpoint)
        return Series(
            requests=(self.requests, (*labels, str(status), outcome)), duration=(self.duration, labels),
            queue_wait=(self.queue_wait, (model,)), ttft=(self.ttft, of_model), itl=(self.itl, of_model),
            tpot=(self.tpot, of_model), prompt_tokens=(self.tokens, (*labels, "prompt")),
            completion_tokens=(self.tokens, (*labels, "completion")), cached_tokens=(self.cached_tokens, (model,)),
        )  # fmt: skip

    def _find_of_tenant(self, tenant: str, outcome: str) -> Series:
        return Series(
            requests=(self.tenant_requests, (tenant, outcome)),
            prompt_tokens=(self.tenant_tokens, (tenant, "prompt")),
            completion_tokens=(self.tenant_tokens, (tenant, "completion")),
            gpu_seconds=(self.tenant_gpu_seconds, (tenant,)),
            cost=(self.tenant_cost, (tenant,)),
        )
