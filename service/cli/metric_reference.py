"""docs/metrics.md, written from the declared metrics: python -m service.cli.metric_reference > docs/metrics.md"""

from collections.abc import Iterator

from prometheus_client import Gauge, Histogram

from service.observability.fleet_metrics import FleetMetrics
from service.observability.genai_metrics import GenAiMetrics
from service.observability.metrics import Metrics
from service.observability.request_metrics import RequestMetrics
from service.observability.series import declared

INTRODUCTION = """\
# Metrics

<!-- Written by `python -m service.cli.metric_reference > docs/metrics.md` from service/observability/. -->

`GET /metrics` has these for Prometheus, over all gateway processes of the machine. A histogram stands for the three
series `…_bucket`, `…_sum` and `…_count`. [security.md](security.md#metrics) says how Prometheus gets a key,
[runbook.md](runbook.md) which of them to look at for which trouble.

- **Labels** have values from closed sets only: ids of served models and of replicas, variants, paths of the gateway's
  own table, statuses, error codes, tenants of the fleet file and of the keys file. What a client makes up counts as
  `unknown` or `other`.
- **Before the first request** every model of the fleet has its series of demand, at 0, also one that is scaled to zero.
- **Engines' own metrics** (`vllm:…`) are not repeated under their names, so that a sum over all targets counts nothing
  twice. The gateway passes on each engine's page, for which see [scraping](#scraping).
- **Several gateways**: counters, and gauges of requests, are of the requests of one machine, so sum them. Gauges of
  replicas are the same everywhere: take the maximum, as also of budgets. Workers of one gateway share what they counted
  four times a second, so that one that is killed takes up to a quarter of a second of it along.

## Scraping

One target, the gateway, has all that an operator needs. The engines' own metrics can be scraped through it, with the
same key, at `/metrics/engines/{replica}`; `/metrics/targets` lists those paths for Prometheus' HTTP service discovery.
[monitoring.md](monitoring.md) has the configuration, the dashboards and the alerts.
"""
TITLES = {
    RequestMetrics: "Requests",
    FleetMetrics: "The fleet",
    Metrics: "The gateway",
    GenAiMetrics: "OpenTelemetry's names",
}
GENAI = """\
The same requests once more, under the names, labels and buckets of OpenTelemetry's conventions for generative AI.
`ROUNDHOUSE_GENAI_METRICS=false` leaves them out.
"""


def page() -> str:
    """The whole page."""
    metrics = Metrics()
    genai = metrics.requests.genai
    assert genai
    return INTRODUCTION + "".join(
        f"\n## {TITLES[type(group)]}\n\n{GENAI + chr(10) if group is genai else ''}{''.join(table(group))}"
        for group in (metrics.requests, metrics.fleet, metrics, genai)
    )


def table(group: object) -> Iterator[str]:
    """The rows of a table of these metrics."""
    yield "| metric | labels | what it says |\n|---|---|---|\n"
    for metric in declared(group):
        (family,) = metric.describe()
        kind = "histogram" if isinstance(metric, Histogram) else "gauge" if isinstance(metric, Gauge) else "counter"
        name = family.name + ("_total" if kind == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in metric._labelnames)
        buckets = f" Buckets: {bounds(metric)}." if isinstance(metric, Histogram) else ""
        yield f"| `{name}` ({kind}) | {labels} | {family.documentation}{buckets} |\n"


def bounds(metric: Histogram) -> str:
    """The upper bounds of a histogram's buckets: `0.005 … 60 (18)`."""
    finite = [bound for bound in metric._upper_bounds if bound != float("inf")]
    return f"{finite[0]:g} to {finite[-1]:g}, {len(finite)} of them"


if __name__ == "__main__":
    print(page(), end="")
