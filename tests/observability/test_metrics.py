"""Every declared metric is emitted, and no other; clients cannot create time series."""

import shutil
import subprocess
from pathlib import Path

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.cli import metric_reference
from service.observability.metrics import Metrics
from service.observability.record import Record
from service.observability.request_metrics import GAP_BUCKETS, UNKNOWN
from service.observability.series import Histogram, declared
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
    metrics.observe(ended(model="left", variant="chat", outcome="cancelled", output_times=[10.5, 10.6],
                          fallback="queue_full", fallback_of="m"))  # fmt: skip
    fleet = metrics.fleet
    fleet.set_replicas([("m", "ready", 2), ("m", "failed", 0)])
    of_model = fleet.in_flight, fleet.sequences_in_flight, fleet.queued, fleet.demand, fleet.ejected
    for gauge in (*of_model, fleet.concurrency_limit):
        gauge.labels("m").set(3)
    for gauge in (fleet.engine_restarts, fleet.engine_running, fleet.engine_waiting, fleet.kv_cache):
        gauge.labels("m", "m-0").set(1)
    fleet.start_seconds.labels("m", "m-0", "loading weights").set(2.5)
    fleet.budget_used.labels("crawler", "tokens_per_day").set(0.5)
    for gauge in (fleet.share_memory, fleet.share_taken):
        gauge.labels("card").set(2)
    fleet.share_changes.labels("m", "loaded").set(2)
    fleet.share_wait.labels("m").set(2.5)
    fleet.ejections.labels("m").inc()
    fleet.arrived.labels("m").inc()
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
    metrics.log_lines_left_out.labels("probe").inc()
    metrics.spans_dropped.labels("queue").inc()
    metrics.checks.labels("schema", "passed").inc()
    metrics.check_seconds.labels("schema").observe(0.1)
    metrics.check_process_deaths.labels("crash").inc()
    metrics.file_lines_dropped.labels("audit").inc()
    metrics.observe_guardrail("safety", "input", "passed", 0.1)
    metrics.count_guard_tokens("guard", streamed())
    metrics.text()
    return metrics


def declared_names(metrics: Metrics) -> list[str]:
    """The names of all metrics that are attributes."""
    groups = metrics, metrics.requests, metrics.fleet, metrics.requests.genai
    return [family.name for group in groups for metric in declared(group) for family in metric.describe()]


def series(metrics: Metrics) -> dict[str, float]:
    """Every sample's value by its name and label values, without the `_created` ones."""
    metrics.text()
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


@given(st.lists(st.sampled_from(GAP_BUCKETS) | st.floats(0, 5) | st.just(float("inf")), max_size=50))
def test_observe_all_equals_single_observations(gaps: list[float]) -> None:
    registry = CollectorRegistry()
    all_at_once = Histogram("a", "a", registry=registry, buckets=GAP_BUCKETS)
    one_by_one = prometheus_client.Histogram("b", "b", registry=registry, buckets=GAP_BUCKETS)
    bisected = Histogram("c", "c", registry=registry, buckets=GAP_BUCKETS)
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


def test_the_page_is_as_prometheus_client_writes_it() -> None:
    metrics = observed_metrics()
    odd = 'a "quoted"\n\\ name'
    metrics.observe(ended(model=odd, variant="chat", status=200))
    metrics.requests.tokens.labels("m", "chat", CHAT, "prompt").inc(1e9)
    page = metrics.text().decode()
    theirs = [line for line in generate_latest(metrics.registry).decode().splitlines() if "_created" not in line]
    assert sorted(page.splitlines()) == sorted(theirs)
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    assert any(sample.labels.get("model") == odd for sample in samples)
    assert page == metrics.text().decode(), "to read it changes nothing"


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed; on Debian: prometheus")
def test_promtool_accepts_the_page() -> None:
    done = subprocess.run(["promtool", "check", "metrics"], input=observed_metrics().text(), capture_output=True)
    assert b"error" not in done.stderr, done.stderr


def test_unknown_model_names_add_no_series() -> None:
    metrics = Metrics()
    metrics.observe(ended(code="model_not_found", outcome="refused"))
    before = set(series(metrics))
    for name in (f"made-up-{number}" for number in range(2000)):
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
from service.observability.metrics import Metrics
from service.observability.record import Record
metrics = Metrics(Path(sys.argv[1]))
fleet = metrics.fleet
for gauge in (fleet.demand, fleet.in_flight):
    gauge.labels("m").set(7)
fleet.replicas.labels("m", "ready").set(1)
metrics.requests.retries.labels("m").inc()
for _ in range(3):
    metrics.observe(Record("id", "/v1/rerank", 1.0, model="m", variant="chat", ended=3.0, status=200))
metrics.publish()
print(os.getpid(), flush=True)
sys.stdin.readline()
metrics.forget_dead_workers([os.getpid()])
print(metrics.text().decode())
metrics.requests.retries.labels("later").inc()
from prometheus_client import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
ours, theirs = metrics.text().decode(), generate_latest(MultiProcessCollector(None, sys.argv[1])).decode()
print("differs from the library's:", sorted(set(ours.splitlines()) ^ set(theirs.splitlines())))
"""


def test_gauges_of_a_killed_worker_disappear_and_its_counts_stay(tmp_path: Path) -> None:
    killed, text = text_after_one_was_killed(WORKER, tmp_path)
    assert 'roundhouse_demand{model="m"} 7.0' in text
    assert 'roundhouse_requests_in_flight{model="m"} 7.0' in text
    assert 'roundhouse_retries_total{model="m"} 2.0' in text
    assert (
        'roundhouse_requests_total{endpoint="/v1/rerank",model="m",outcome="complete",status="200",variant="chat"} 6.0'
        in text
    )
    assert 'roundhouse_request_duration_seconds_sum{endpoint="/v1/rerank",model="m",variant="chat"} 12.0' in text
    assert "differs from the library's: []" in text
    assert not list(tmp_path.glob(f"gauge_*_{killed}.db"))
