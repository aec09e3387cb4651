"""The metrics of OpenTelemetry's semantic conventions for generative AI, so that dashboards made for them work here.

Names, labels and buckets are those of the conventions, as Prometheus writes them.
"""

from prometheus_client import CollectorRegistry

from service.observability.series import Histogram
from service.observability.tallies import Kind, Tally

PROVIDER = "vllm"
LABELS = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_response_model")
DURATION_BUCKETS = tuple(0.01 * 2**power for power in range(14))
TTFT_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
TPOT_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKEN_BUCKETS = tuple(float(4**power) for power in range(14))
# `gen_ai.operation.name` by path; the conventions have no name for the other endpoints.
OPERATIONS = {
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
}


class GenAiMetrics:
    """The four histograms of the conventions. The model requested is that which the request was resolved to."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.duration = Histogram(
            "gen_ai_server_request_duration", "Duration of a request to a model, in seconds.", (*LABELS, "error_type"),
            registry=registry, buckets=DURATION_BUCKETS,
        )  # fmt: skip
        self.ttft = Histogram(
            "gen_ai_server_time_to_first_token", "Time to the first token of a streamed response, in seconds.", LABELS,
            registry=registry, buckets=TTFT_BUCKETS,
        )  # fmt: skip
        self.tpot = Histogram(
            "gen_ai_server_time_per_output_token", "Time per token after the first, in seconds.", LABELS,
            registry=registry, buckets=TPOT_BUCKETS,
        )  # fmt: skip
        self.tokens = Histogram(
            "gen_ai_client_token_usage", "Tokens of a request, input and output.", (*LABELS, "gen_ai_token_type"),
            registry=registry, buckets=TOKEN_BUCKETS,
        )  # fmt: skip

    def settle(self, kind: Kind, tally: Tally) -> None:
        """Observes finished requests of one kind that an engine got."""
        operation = OPERATIONS.get(kind.endpoint)
        if operation is None:
            return
        labels = operation, PROVIDER, kind.model, kind.model
        for metric, of, values in (
            (self.duration, (*labels, kind.code or ""), tally.durations),
            (self.ttft, labels, tally.ttfts),
            (self.tpot, labels, tally.tpots),
            (self.tokens, (*labels, "input"), tally.prompts),
            (self.tokens, (*labels, "output"), tally.completions),
        ):
            if values:
                metric.labels(*of).observe_all(values)
