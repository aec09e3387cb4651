"""What the metrics cost: the processor's time for each finished request, and the page of a large fleet.

`python -m bench.metrics` prints microseconds of `observe` for a streamed response of 100 outputs, without and with the
names of OpenTelemetry, and milliseconds of `GET /metrics` with 40 models and 200 tenants. The times are processor time,
the least of several rounds.
"""

import time
from collections.abc import Callable

from service.observability.metrics import Metrics
from service.observability.record import Record

ROUNDS, REQUESTS, OUTPUTS = 7, 500, 100
MODELS, TENANTS = 40, 200
ENDPOINTS = "/v1/chat/completions", "/v1/messages"


def record(model: str, tenant: str, endpoint: str, outputs: int = OUTPUTS) -> Record:
    """A streamed response that was observed to its end."""
    made = Record("id", endpoint, 0.0, tenant=tenant, model=model, variant="chat", streamed=True, attempts=1)
    made.admitted, made.ended, made.status, made.route_reason = 0.01, 3.0, 200, "id"
    made.prompt_tokens, made.completion_tokens, made.cached_tokens = 500, outputs, 400
    made.output_times = [0.1 + 0.02 * number for number in range(outputs)]
    made.gpu_seconds = 1.0
    return made


def least(run: Callable[[], object]) -> float:
    """The least processor time of a run, in seconds."""
    times = []
    for _ in range(ROUNDS):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return min(times)


def per_request(genai: bool) -> float:
    """Microseconds for each request."""
    metrics, made = Metrics(genai=genai), record("m", "t", ENDPOINTS[0])

    def run() -> None:
        for _ in range(REQUESTS):
            metrics.observe(made)

    return least(run) / REQUESTS * 1e6


def large() -> Metrics:
    """The metrics of a fleet whose tenants use every model."""
    metrics = Metrics()
    metrics.models = [f"model-{number}" for number in range(MODELS)]
    for number in range(MODELS):
        for tenant in range(TENANTS):
            metrics.observe(record(f"model-{number}", f"tenant-{tenant}", ENDPOINTS[tenant % 2], 3))
    return metrics


def main() -> None:
    """Prints the table."""
    metrics = large()
    page = metrics.text()
    print(f"observe, without gen_ai_ names   {per_request(False):8.1f} us a request")
    print(f"observe, with them               {per_request(True):8.1f} us a request")
    print(f"GET /metrics                     {least(metrics.text) * 1e3:8.1f} ms, {len(page) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
