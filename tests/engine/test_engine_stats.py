"""Parsing of an engine's Prometheus metrics."""

from collections import Counter

import pytest

from service.engine.engine_stats import EngineStats, parse
from tests.fake_engine import bodies

PAGE = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="pebble chat"} 3.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="pebble chat"} 2.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="pebble chat",reason="capacity"} 50.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="pebble chat",reason="deferred"} 1.0
vllm:kv_cache_usage_perc{engine="0",model_name="pebble chat"} 0.25
vllm:prompt_tokens_total{engine="0",model_name="pebble chat"} 1.2e+07
vllm:prompt_tokens_created{engine="0",model_name="pebble chat"} 1.7e+09
vllm:prompt_tokens_by_source_total{engine="0",model_name="pebble chat",source="local"} 9.0
vllm:generation_tokens_total{engine="0",model_name="pebble chat"} 7.0
vllm:iteration_tokens_total_count{engine="0",model_name="pebble chat"} 8.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="pebble chat"} 30.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="pebble chat"} 12.0
vllm:request_success_created{engine="0",finished_reason="length",model_name="pebble chat"} 1.7e+09
"""


def test_a_page_of_vllms_metrics() -> None:
    expected = EngineStats(at=5.5, running=3, waiting=2, kv_usage=0.25, tokens=12_000_007, deferred=1, finished=42)
    assert parse(PAGE, 5.5) == expected
    assert parse(PAGE.rstrip(b"\n"), 5.5) == parse(PAGE, 5.5)


def test_several_engine_cores_are_summed() -> None:
    second = PAGE.replace(b'engine="0"', b'engine="1"').replace(b"} 0.25", b"} 0.75")
    expected = EngineStats(at=0, running=6, waiting=4, kv_usage=0.5, tokens=24_000_014, deferred=2, finished=84)
    assert parse(PAGE + second, 0) == expected


def test_an_encoder_has_no_kv_cache_and_no_generated_tokens() -> None:
    lines = [line for line in PAGE.splitlines() if b"kv_cache" not in line and b"generation" not in line]
    found = parse(b"\n".join(lines), 0)
    assert found
    assert (found.running, found.waiting, found.kv_usage, found.tokens) == (3, 2, 0.0, 1.2e7)


def test_an_older_engine_does_not_say_why_requests_wait_nor_how_many_have_finished() -> None:
    lines = [line for line in PAGE.splitlines() if b"by_reason" not in line and b"request_success" not in line]
    assert parse(b"\n".join(lines), 0) == EngineStats(at=0, running=3, waiting=2, kv_usage=0.25, tokens=12_000_007)


def test_metrics_without_labels() -> None:
    assert parse(b"vllm:num_requests_running 4.0\n", 0) == EngineStats(0, 4, 0, 0.0, 0.0)


def test_the_fake_engines_metrics() -> None:
    found = parse(bodies.metrics("m", 4, 1, Counter(prompt=10, said=5)), 1.0)
    assert found
    assert (found.running, found.waiting, found.tokens) == (4, 1, 15)


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"<html>vllm:num_requests_running 1.0</html>",
        b"# HELP vllm:num_requests_running Number\n",
        b"vllm:num_requests_waiting 1.0\n",
        b"vllm:num_requests_running",
        b"vllm:num_requests_running \n",
        b"vllm:num_requests_running{ x\n",
        b"vllm:num_requests_running NaN\n",
        b"vllm:num_requests_running +Inf\n",
        b"vllm:num_requests_running \xff\n",
        b'vllm:num_requests_running{engine="0"}\n',
        b"vllm:num_requests_running{",
        b"vllm:num_requests_running -5.0\nvllm:num_requests_waiting 5.0\n",
        b'vllm:num_requests_running{e="0"} 1e308\nvllm:num_requests_running{e="1"} 1e308\n',
    ],
)
def test_a_page_without_usable_metrics_is_none(page: bytes) -> None:
    assert parse(page, 0) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [("} 3.0", "} 4.0"), ("} 2.0", "} 1.0"), ("} 0.25", "} 0.26"), ("} 7.0", "} 8.0"), ("} 1.2e+07", "} 1.3e+07")],
)
def test_a_change_of_any_metric_is_progress(old: str, new: str) -> None:
    before, later = parse(PAGE, 1), parse(PAGE, 2)
    changed = parse(PAGE.replace(old.encode(), new.encode()), 2)
    assert before and later and changed
    assert before.progress == later.progress
    assert before.progress != changed.progress
