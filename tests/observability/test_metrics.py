"""Every declared metric is emitted, and no other; clients cannot create time series."""

from pathlib import Path

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.metrics import MetricWrapperBase

from service.cli import metric_reference
from service.observability.histogram import FastHistogram
from service.observability.metrics import Metrics
from service.observability.record import Record
from service.observability.request_metrics import GAP_BUCKETS, UNKNOWN
from tests.support.each import each
from tests.support.fleets import ROOT
from tests.support.workers import text_after_one_was_killed

CHAT = "/v1/chat/completions"


def ended(**fields: object) -> Record:
    """A record of a request that took two seconds."""
    record = Record("id", CHAT, started=10.0, ended=12.0)
    for name, value in fields.items():
        setattr(record, name, value)
    return record


def streamed() -> Record:
    record = ended(
        model="m",
        variant="chat",
        streamed=True,
        ignored_fields=("verbosity",),
        prompt_tokens=12,
        completion_tokens=3,
        cached_tokens=8,
        lost_tokens=5,
        gpu_seconds=3.0,
        cost=0.5,
        admitted=10.25,
        route_reason="alias of m",
        tenant="crawler",
        status=200,
        attempts=2,
    )
    for now in (10.5, 10.6, 10.9):
        record.output_times.append(now)
    return record


def observed_metrics() -> Metrics:
    """Metrics after a streamed and a refused request."""
    metrics = Metrics()
    metrics.observe(streamed())
    metrics.observe(ended(code="model_not_found", outcome="refused", requested="no-such-model"))
    metrics.observe(ended(model="left", variant="chat", outcome="cancelled", output_times=[10.5, 10.6]))
    fleet = metrics.fleet
    fleet.set_replicas([("m", "ready", 2), ("m", "failed", 0)])
    of_model = fleet.in_flight, fleet.sequences_in_flight, fleet.queued, fleet.demand, fleet.ejected
    for gauge in (*of_model, fleet.concurrency_limit):
        gauge.labels("m").set(3)
    for gauge in (fleet.engine_restarts, fleet.engine_running, fleet.engine_waiting, fleet.kv_cache):
        gauge.labels("m", "m-0").set(1)
    fleet.start_seconds.labels("m", "m-0", "loading weights").set(2.5)
    fleet.ejections.labels("m").inc()
    for counter in (fleet.gpu_seconds, fleet.cost):
        counter.labels("m", "idle").inc(2)
    metrics.invalid_requests.labels("invalid_http").inc()
    metrics.sign_on_refusals.labels("expired").inc()
    metrics.reloads.labels("fleet", "applied").inc()
    metrics.background_task_failures.labels("upstreams").inc()
    metrics.evidence_bundles.labels("m", "hang").inc()
    metrics.evidence_lost.labels("m", "crash").inc()
    metrics.response_store_failures.inc()
    metrics.log_lines_dropped.inc()
    metrics.checks.labels("schema", "passed").inc()
    metrics.check_seconds.labels("schema").observe(0.1)
    metrics.check_process_deaths.labels("crash").inc()
    metrics.file_lines_dropped.labels("audit").inc()
    metrics.observe_guardrail("safety", "input", "passed", 0.1)
    metrics.count_guard_tokens("guard", streamed())
    return metrics


def declared_names(metrics: Metrics) -> list[str]:
    """The names of all metrics that are attributes."""
    groups = metrics, metrics.requests, metrics.fleet, metrics.requests.genai
    found = [metric for group in groups for metric in vars(group).values() if isinstance(metric, MetricWrapperBase)]
    return [family.name for metric in found for family in metric.describe()]


def series(metrics: Metrics) -> dict[str, float]:
    """Every sample's value by its name and label values, without the `_created` ones."""
    return {
        " ".join((sample.name, *sample.labels.values())): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_declared_metrics_are_emitted_and_no_others() -> None:
    metrics = observed_metrics()
    emitted = {family.name for family in metrics.registry.collect() if family.samples}
    assert emitted == set(declared_names(metrics))


@each("name", declared_names(Metrics()))
def test_names_have_the_prefix_and_a_help_text(name: str) -> None:
    assert name.startswith(("roundhouse_", "gen_ai_"))
    text = observed_metrics().text().decode()
    (line,) = [line for line in text.splitlines() if line.startswith((f"# HELP {name} ", f"# HELP {name}_total "))]
    assert line.endswith(".")


def test_the_page_of_metrics_is_current() -> None:
    assert (ROOT / "docs/metrics.md").read_text(encoding="utf-8") == metric_reference.page()


def test_the_names_of_opentelemetry_can_be_left_out() -> None:
    metrics = Metrics(genai=False)
    metrics.observe(streamed())
    assert b"gen_ai" not in metrics.text()
    assert b"gen_ai_client_token_usage" in observed_metrics().text()


def test_global_registry_stays_empty() -> None:
    observed_metrics()
    assert not [family for family in prometheus_client.REGISTRY.collect() if family.name.startswith("roundhouse")]


def test_streamed_request() -> None:
    samples = series(observed_metrics())
    labels = f"m chat {CHAT}"
    assert samples[f"roundhouse_requests_total {labels} 200 complete"] == 1
    assert samples[f"roundhouse_tokens_total {labels} prompt"] == 12
    assert samples[f"roundhouse_tokens_total {labels} completion"] == 3
    assert samples["roundhouse_time_to_first_token_seconds_sum m chat"] == pytest.approx(0.5)
    assert samples["roundhouse_inter_token_latency_seconds_count m chat"] == 2
    assert samples["roundhouse_inter_token_latency_seconds_sum m chat"] == pytest.approx(0.4)
    assert samples[f"roundhouse_request_duration_seconds_sum {labels}"] == pytest.approx(2.0)
    assert samples["roundhouse_retries_total m"] == 1
    assert samples["roundhouse_time_per_output_token_seconds_sum m chat"] == pytest.approx(0.2)
    assert samples["roundhouse_queue_wait_seconds_sum m"] == pytest.approx(0.25)
    assert samples["roundhouse_routing_decisions_total m alias"] == 1
    assert samples["roundhouse_cached_prompt_tokens_total m"] == 8
    assert samples["roundhouse_wasted_tokens_total m retried"] == 5
    assert samples["roundhouse_wasted_tokens_total left cancelled"] == 2
    assert samples["roundhouse_tenant_requests_total crawler complete"] == 1
    assert samples["roundhouse_tenant_tokens_total crawler completion"] == 3
    assert samples["roundhouse_tenant_gpu_seconds_total crawler"] == 3
    assert samples["roundhouse_tenant_cost_total crawler"] == 0.5
    genai = "chat vllm m m"
    assert samples[f"gen_ai_server_request_duration_sum {genai} "] == pytest.approx(2.0)
    assert samples[f"gen_ai_server_time_to_first_token_sum {genai}"] == pytest.approx(0.5)
    assert samples[f"gen_ai_server_time_per_output_token_sum {genai}"] == pytest.approx(0.2)
    assert samples[f"gen_ai_client_token_usage_sum {genai} input"] == 12
    assert samples["roundhouse_requests_in_flight m"] == 3
    assert samples["roundhouse_replicas m ready"] == 2


def test_refused_request() -> None:
    samples = series(observed_metrics())
    labels = f"{UNKNOWN} {UNKNOWN} {CHAT}"
    assert samples[f"roundhouse_requests_total {labels} 0 refused"] == 1
    assert samples[f"roundhouse_errors_total {labels} model_not_found"] == 1
    assert f"roundhouse_tokens_total {labels} prompt" not in samples


def test_unstreamed_response_has_no_token_latencies() -> None:
    metrics = Metrics()
    metrics.observe(ended(model="m", variant="chat", output_times=[10.5, 10.6]))
    assert not [name for name in series(metrics) if "_token_" in name]


@given(st.lists(st.sampled_from(GAP_BUCKETS) | st.floats(0, 5), max_size=50))
def test_observe_all_equals_single_observations(gaps: list[float]) -> None:
    registry = CollectorRegistry()
    all_at_once = FastHistogram("a", "a", registry=registry, buckets=GAP_BUCKETS)
    one_by_one = Histogram("b", "b", registry=registry, buckets=GAP_BUCKETS)
    bisected = FastHistogram("c", "c", registry=registry, buckets=GAP_BUCKETS)
    all_at_once.observe_all(gaps)
    for gap in gaps:
        one_by_one.observe(gap)
        bisected.observe(gap)
    counts = [
        [sample[1:3] for sample in next(iter(histogram.collect())).samples if sample.name[1:] in ("_bucket", "_count")]
        for histogram in (all_at_once, one_by_one, bisected)
    ]
    assert counts[0] == counts[1] == counts[2]
    assert all_at_once._sum.get() == pytest.approx(sum(gaps))


@given(st.lists(st.text(min_size=1), max_size=20))
def test_unknown_model_names_add_no_series(names: list[str]) -> None:
    metrics = Metrics()
    metrics.observe(ended(code="model_not_found", outcome="refused"))
    before = set(series(metrics))
    for name in names:
        metrics.observe(
            ended(requested=name, client_request_id=name, code="model_not_found", outcome="refused", route_reason=name)
        )
    assert set(series(metrics)) == before


def test_gauges_of_models_that_are_no_longer_served_are_left_out() -> None:
    metrics = observed_metrics()
    metrics.models, metrics.replicas = {"other"}, {"other-0"}
    metrics.fleet.demand.labels("other").set(1)
    text = metrics.text().decode()
    assert 'roundhouse_demand{model="other"} 1.0' in text
    assert "roundhouse_requests_total{endpoint" in text, "what was counted stays"
    for name in ("demand", "requests_in_flight", "requests_queued", "replicas"):
        assert f'roundhouse_{name}{{model="m"' not in text
    assert 'replica="m-0"' not in text
    assert "roundhouse_config_last_reload_successful 1.0" in text


WORKER = """
import os, sys
os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]
from pathlib import Path
from prometheus_client import values
values.ValueClass = values.MultiProcessValue()
from service.observability.histogram import FastHistogram
from service.observability.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]))
fleet = metrics.fleet
for gauge in (fleet.demand, fleet.in_flight):
    gauge.labels("m").set(7)
fleet.replicas.labels("m", "ready").set(1)
metrics.requests.retries.labels("m").inc()
print(os.getpid(), flush=True)
sys.stdin.readline()
metrics.forget_dead_workers([os.getpid()])
print(metrics.text().decode())
"""


def test_gauges_of_a_killed_worker_disappear_and_its_counts_stay(tmp_path: Path) -> None:
    killed, text = text_after_one_was_killed(WORKER, tmp_path)
    assert 'roundhouse_demand{model="m"} 7.0' in text
    assert 'roundhouse_requests_in_flight{model="m"} 7.0' in text
    assert 'roundhouse_retries_total{model="m"} 2.0' in text
    assert not list(tmp_path.glob(f"gauge_*_{killed}.db"))
