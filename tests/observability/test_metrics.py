"""Every metric that is declared is emitted, and no other; and no client can make up series."""

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.metrics import MetricWrapperBase

from service.observability.metrics import GAPS, UNKNOWN, Gaps, Metrics
from service.observability.record import Record

CHAT = "/v1/chat/completions"


def ended(**known: object) -> Record:
    """A record of a request that took two seconds."""
    record = Record("id", CHAT, started=10.0, ended=12.0)
    for name, value in known.items():
        setattr(record, name, value)
    return record


def streamed() -> Record:
    record = ended(model="m", variant="chat", streamed=True, prompt_tokens=12, completion_tokens=3, attempts=2)
    for now in (10.5, 10.6, 10.9):
        record.outputs.append(now)
    return record


def observed() -> Metrics:
    """The metrics after one request of each kind."""
    metrics = Metrics()
    metrics.observe(streamed())
    metrics.observe(ended(code="model_not_found", outcome="refused", requested="no-such-model"))
    metrics.show_replicas([("m", "ready", 2), ("m", "failed", 0)])
    for gauge in (metrics.in_flight, metrics.queued, metrics.demand):
        gauge.labels("m").set(3)
    return metrics


def declared(metrics: Metrics) -> list[str]:
    """The name of every metric that is an attribute."""
    ours = [one for one in vars(metrics).values() if isinstance(one, MetricWrapperBase)]
    return [family.name for one in ours for family in one.describe()]


def series(metrics: Metrics) -> dict[str, float]:
    """Every sample by its name and label values, without the times of creation."""
    return {
        " ".join((sample.name, *sample.labels.values())): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_what_is_declared_is_emitted_and_nothing_else() -> None:
    metrics = observed()
    emitted = {family.name for family in metrics.registry.collect() if family.samples}
    assert emitted == set(declared(metrics))
    assert len(emitted) == 14


@pytest.mark.parametrize("name", declared(Metrics()))
def test_each_name_is_ours_and_each_has_its_help(name: str) -> None:
    assert name.startswith("roundhouse_")
    text = observed().text().decode()
    (line,) = [line for line in text.splitlines() if line.startswith((f"# HELP {name} ", f"# HELP {name}_total "))]
    assert line.endswith(".")


def test_the_registry_of_the_process_stays_empty() -> None:
    observed()
    assert not [family for family in prometheus_client.REGISTRY.collect() if family.name.startswith("roundhouse")]


def test_a_streamed_request() -> None:
    found = series(observed())
    labels = f"m chat {CHAT}"
    assert found[f"roundhouse_requests_total {labels} complete"] == 1
    assert found[f"roundhouse_tokens_total {labels} prompt"] == 12
    assert found[f"roundhouse_tokens_total {labels} completion"] == 3
    assert found[f"roundhouse_time_to_first_token_seconds_sum {labels}"] == pytest.approx(0.5)
    assert found[f"roundhouse_inter_token_latency_seconds_count {labels}"] == 2
    assert found[f"roundhouse_inter_token_latency_seconds_sum {labels}"] == pytest.approx(0.4)
    assert found[f"roundhouse_request_duration_seconds_sum {labels}"] == pytest.approx(2.0)
    assert found["roundhouse_retries_total m"] == 1
    assert found["roundhouse_requests_in_flight m"] == 3
    assert found["roundhouse_replicas m ready"] == 2


def test_a_refused_request() -> None:
    found = series(observed())
    labels = f"{UNKNOWN} {UNKNOWN} {CHAT}"
    assert found[f"roundhouse_requests_total {labels} refused"] == 1
    assert found[f"roundhouse_errors_total {labels} model_not_found"] == 1
    assert f"roundhouse_tokens_total {labels} prompt" not in found


def test_a_whole_answer_has_no_first_token() -> None:
    metrics = Metrics()
    metrics.observe(ended(model="m", variant="chat", outputs=[10.5, 10.6]))
    assert not [name for name in series(metrics) if "token" in name]


@given(st.lists(st.sampled_from(GAPS) | st.floats(0, 5), max_size=50))
def test_gaps_are_counted_as_one_by_one(gaps: list[float]) -> None:
    registry = CollectorRegistry()
    together = Gaps("a", "a", registry=registry, buckets=GAPS)
    alone = Histogram("b", "b", registry=registry, buckets=GAPS)
    together.observe_all(gaps)
    for gap in gaps:
        alone.observe(gap)
    counts = [
        [sample[1:3] for sample in next(iter(one.collect())).samples if sample.name[1:] in ("_bucket", "_count")]
        for one in (together, alone)
    ]
    assert counts[0] == counts[1]
    assert together._sum.get() == pytest.approx(sum(gaps))


@given(st.lists(st.text(min_size=1), max_size=20))
def test_unknown_names_make_no_series(names: list[str]) -> None:
    metrics = Metrics()
    metrics.observe(ended(code="model_not_found", outcome="refused"))
    before = set(series(metrics))
    for name in names:
        metrics.observe(
            ended(requested=name, client_request_id=name, code="model_not_found", outcome="refused", route_reason=name)
        )
    assert set(series(metrics)) == before
