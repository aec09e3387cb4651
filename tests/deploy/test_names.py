"""Every query in deploy/ names metrics, labels and values that exist."""

import re
from collections import Counter
from collections.abc import Iterator

import pytest
from prometheus_client import Histogram
from prometheus_client.metrics import MetricWrapperBase

from service.engine.state import CONDITIONS
from service.observability import series
from service.observability.metrics import Metrics
from tests.deploy.queries import QUERIES, Query, rules
from tests.fake_engine import bodies
from tests.support.each import each

# Labels that Prometheus adds when it scrapes: to everything, of which the namespace on a cluster only, and to engines
# that it found through the gateway.
TARGET = {"job", "instance", "namespace"}
OF_ENGINES = TARGET | {"roundhouse_model", "roundhouse_replica"}
VALUES: dict[str, set[str]] = {
    "state": set(CONDITIONS),
    "outcome": {"complete", "refused", "failed", "cancelled"},
    "kind": {"prompt", "completion"},
    "use": {"busy", "idle"},
}
WRONG = {
    "a metric": "rate(roundhouse_request_total[5m])",
    "a metric of an engine": "vllm:gpu_cache_usage_perc",
    "a recorded metric": "model:roundhouse_errors:ratio_rate7m",
    "a label to select by": 'roundhouse_demand{model_name="m"}',
    "a label of an engine": 'vllm:num_requests_running{model="m"}',
    "a label to group by": "sum by (tenant) (roundhouse_demand)",
    "a value": 'roundhouse_replicas{state="dead"}',
    "a bucket": 'roundhouse_time_to_first_token_seconds_bucket{le="2.1"}',
}


def samples(metric: MetricWrapperBase) -> Iterator[tuple[str, set[str]]]:
    """The samples of a declared metric with their labels."""
    (family,) = metric.describe()
    labels = TARGET | set(metric._labelnames)
    if isinstance(metric, Histogram):
        yield from ((f"{family.name}{suffix}", labels) for suffix in ("_sum", "_count"))
        yield f"{family.name}_bucket", labels | {"le"}
    else:
        yield family.name + ("_total" if family.type == "counter" else ""), labels


def known() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Every name that a query may use, with its labels; and the bounds of each histogram's buckets."""
    metrics = Metrics()
    groups = metrics, metrics.requests, metrics.fleet, metrics.requests.genai
    declared = [one for group in groups for one in series.declared(group)]
    names = {name: labels for metric in declared for name, labels in samples(metric)}
    bounds = {
        f"{family.name}_bucket": {str(bound).replace("inf", "+Inf") for bound in metric._upper_bounds}
        for metric in declared
        if isinstance(metric, Histogram)
        for family in metric.describe()
    }
    page = bodies.metrics("m", 0, 0, Counter()).decode()
    for name, labels in re.findall(r"^(vllm:\w+)\{(.*)\} ", page, re.M):
        names[name] = OF_ENGINES | set(re.findall(r'(\w+)="', labels))
    for _, rule in rules():
        if "record" in rule:
            names[rule["record"]] = {rule["record"].partition(":")[0]}
    return names | {"up": TARGET}, bounds


NAMES, BOUNDS = known()


def mistakes(query: Query) -> Iterator[str]:
    """What the query names that there is not."""
    labels: set[str] = set()
    for name, matchers in query.selectors():
        if name not in NAMES:
            yield f"the metric {name}"
            return
        labels |= NAMES[name]
        for label, operator, value in matchers:
            values: set[str] | None = BOUNDS.get(name) if label == "le" else VALUES.get(label)
            if label not in NAMES[name]:
                yield f"the label {label} of {name}"
            elif values and operator in ("=", "!=") and value not in values:
                yield f'{name}{{{label}="{value}"}}'
    yield from (f"the label {label}" for label in query.grouping() - labels)


@each("query", QUERIES, ids=lambda query: query.place)
def test_names_exist(query: Query) -> None:
    assert list(query.selectors())
    assert not list(mistakes(query))


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_a_name_that_does_not_exist_is_found(text: str) -> None:
    assert list(mistakes(Query("", text)))
