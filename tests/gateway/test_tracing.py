"""Traces of a running gateway, as a real collector gets them over OTLP."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.observability import tracer
from service.observability.trace_settings import TraceSettings, read
from tests.conftest import Start
from tests.fake_engine import Fault
from tests.support.collector import Collector, Span, collecting
from tests.support.exchanges import CHAT
from tests.support.gateways import ONE, RunningGateway, running
from tests.support.waiting import PATIENCE, until

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "canary7f3a9c41"
SERVER, CLIENT, INTERNAL = 2, 3, 1
IN_TURN = "models: [{model: pebble-chat, min_replicas: 2, policy: round_robin}]"
FULL = "models: [{model: pebble-chat, max_in_flight: 1}]"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as one:
        yield one


def traces(url: str, **others: str) -> TraceSettings:
    """Traces that are sent at once, with a key for the collector."""
    found = read(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "20",
            "OTEL_EXPORTER_OTLP_TIMEOUT": str(PATIENCE),
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20t0ken", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test", **others,
        }
    )  # fmt: skip
    assert found
    return found


async def the_spans(collector: Collector, gateway: RunningGateway, *names: str) -> list[Span]:
    """The spans of these names, when all have come, one of each in turn."""
    await gateway.settle()
    await until(lambda: sorted(one.name for one in collector.spans) == sorted(names), f"spans {names}")
    found = collector.spans
    return [found.pop(next(at for at, one in enumerate(found) if one.name == name)) for name in names]


async def test_a_streamed_request_is_a_trace_that_engines_continue(start: Start, collector: Collector) -> None:
    gateway = await start(ONE, traces=traces(collector.url))
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=x"}
    said = [{"role": "user", "content": SECRET}]
    response = await gateway.http.post(CHAT.path, json=CHAT.body(stream=True, messages=said), headers=headers)
    assert response.status_code == 200
    names = f"POST {CHAT.path}", "admit", "chat pebble-chat", "stream"
    request, admit, upstream, stream = await the_spans(collector, gateway, *names)
    assert {one.trace_id for one in collector.spans} == {TRACE}
    assert (request.parent, admit.parent, upstream.parent, stream.parent) == (SPAN, *[request.id] * 3)
    assert (request.kind, admit.kind, upstream.kind, stream.kind) == (SERVER, INTERNAL, CLIENT, INTERNAL)
    assert request.start == admit.start <= admit.end <= upstream.start <= stream.start <= stream.end == request.end
    (seen,), (line,) = gateway.seen, gateway.lines
    assert seen.headers["traceparent"] == f"00-{TRACE}-{upstream.id}-01"
    assert seen.headers["tracestate"] == upstream.state == "vendor=x"
    assert line["trace_id"] == TRACE
    assert request.attributes.items() >= {
        "http.request.method": "POST", "http.route": CHAT.path, "http.response.status_code": 200,
        "gen_ai.request.model": "pebble-chat", "roundhouse.request_id": line["request_id"],
        "roundhouse.tenant": line["tenant"], "roundhouse.outcome": "complete",
    }.items()  # fmt: skip
    assert upstream.attributes.items() >= {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "vllm", "gen_ai.request.model": "pebble-chat",
        "gen_ai.response.model": "pebble-chat", "gen_ai.request.stream": True, "roundhouse.replica": "pebble-chat-0",
        "gen_ai.usage.input_tokens": line["prompt_tokens"], "gen_ai.usage.output_tokens": line["completion_tokens"],
        "gen_ai.response.finish_reasons": [line["finish_reason"]],
    }.items()  # fmt: skip
    assert 0 < upstream.attributes["gen_ai.response.time_to_first_chunk"] <= line["duration_s"]
    resource = {"service.name": "roundhouse", "deployment.environment": "test"}
    assert request.resource.items() >= resource.items() and request.resource["service.instance.id"]
    assert collector.headers[0]["authorization"] == "Bearer t0ken"
    assert not any(one.error for one in collector.spans)
    assert SECRET.encode() not in b"".join(collector.bodies)


async def test_a_retry_is_an_exchange_of_its_own_linked_to_the_first(start: Start, collector: Collector) -> None:
    gateway = await start(IN_TURN, traces=traces(collector.url))
    gateway.engines[0].script(Fault(cut=0))
    for _ in range(2):  # one of them comes to that engine first
        assert (await gateway.post(CHAT.path, CHAT.body())).status_code == 200
    await gateway.settle()
    await until(lambda: len(collector.named("chat pebble-chat")) == 3, "one exchange, and two of the other request")
    (second,) = [one for one in collector.spans if one.links]
    (first,) = [one for one in collector.spans if one.id == second.links[0]]
    assert (first.error, first.attributes["error.type"]) == (True, "upstream_error")
    assert (first.attributes["roundhouse.replica"], second.attributes["roundhouse.replica"]) == (
        "pebble-chat-0",
        "pebble-chat-1",
    )
    assert (second.error, second.trace_id, second.parent) == (False, first.trace_id, first.parent)
    told = {seen.headers["traceparent"][36:52] for seen in gateway.seen}
    assert told == {one.id for one in collector.named("chat pebble-chat")}
    assert not any(one.error for one in collector.named(f"POST {CHAT.path}"))


async def test_errors_are_the_status_of_the_span_where_they_are_ours(start: Start, collector: Collector) -> None:
    gateway = await start(ONE, traces=traces(collector.url))
    await gateway.post(CHAT.path, CHAT.body(model="no-such"))
    gateway.engines[0].always = Fault(cut=0)
    await gateway.post(CHAT.path, CHAT.body())
    await gateway.http.get("/metrics")
    await gateway.settle()
    await until(lambda: len(collector.named(f"POST {CHAT.path}")) == 2, "both requests")
    refused, failed = collector.named(f"POST {CHAT.path}")
    assert (refused.error, refused.attributes["error.type"]) == (False, "model_not_found")
    assert refused.attributes["gen_ai.request.model"] == "no-such"
    assert (failed.error, failed.attributes["error.type"]) == (True, "upstream_error")
    assert len({one.trace_id for one in collector.spans}) == 2
    assert not [one for one in collector.spans if "/metrics" in one.name], "nobody looks at traces of scrapes"


async def test_what_waited_has_a_span_in_the_queue(start: Start, collector: Collector) -> None:
    gateway = await start(FULL, traces=traces(collector.url))
    gateway.engines[0].hold()
    asked = [asyncio.create_task(gateway.post(CHAT.path, CHAT.body())) for _ in range(2)]
    await until(lambda: gateway.queued() == 1)
    gateway.engines[0].go_on()
    await asyncio.gather(*asked)
    await gateway.settle()
    await until(lambda: len(collector.named("chat pebble-chat")) == 2, "both requests")
    (queue,) = collector.named("queue")
    admit = next(one for one in collector.named("admit") if one.parent == queue.parent)
    assert admit.end == queue.start < queue.end


async def test_a_guards_judgement_is_in_the_trace_of_its_request(start: Start, collector: Collector) -> None:
    fleet = """
models: [{model: pebble-chat}, {model: llama-guard-3-8b}]
guardrails: {safety: {model: llama-guard-3-8b}}
default_guardrails: {input: [safety]}
"""
    gateway = await start(fleet, traces=traces(collector.url))
    assert (await gateway.post(CHAT.path, CHAT.body())).status_code == 200
    names = f"POST {CHAT.path}", "admit", "chat llama-guard-3-8b", "chat pebble-chat"
    request, _, guard, upstream = await the_spans(collector, gateway, *names)
    assert guard.parent == upstream.parent == request.id
    assert not guard.links and not upstream.links


async def test_what_is_not_sampled_is_not_exported_and_engines_are_told(start: Start, collector: Collector) -> None:
    gateway = await start(ONE, traces=traces(collector.url))
    off, on = ({"traceparent": f"00-{number}{TRACE[1:]}-{SPAN}-0{number}"} for number in (0, 1))
    for headers in (off, on):
        assert (await gateway.http.post(CHAT.path, json=CHAT.body(), headers=headers)).status_code == 200
    await the_spans(collector, gateway, f"POST {CHAT.path}", "admit", "chat pebble-chat")
    assert {one.trace_id for one in collector.spans} == {on["traceparent"][3:35]}
    assert [seen.headers["traceparent"][-2:] for seen in gateway.seen] == ["00", "01"]


@pytest.mark.parametrize(("trouble", "status"), [("down", 0), ("refuses", 400), ("is busy", 503), ("slow", 200)])
async def test_a_collector_in_trouble_delays_nothing_and_what_is_lost_is_counted(
    trouble: str, status: int, start: Start, collector: Collector
) -> None:
    url = "http://127.0.0.1:9" if trouble == "down" else collector.url
    if trouble == "slow":
        collector.going.clear()
    collector.status = status
    small = {"OTEL_BSP_MAX_QUEUE_SIZE": "12", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "3"}
    gateway = await start(ONE, traces=traces(url, OTEL_EXPORTER_OTLP_TIMEOUT="0.3", **small))
    lost = "roundhouse_spans_dropped_total"

    def is_full() -> bool:
        """Whether no more waits than may: as long as requests come faster than exports are given up."""
        return gateway.sample(lost, reason="queue") > 0

    while gateway.started < 20 or (trouble == "slow" and not is_full()):
        assert (await gateway.post(CHAT.path, CHAT.body())).status_code == 200
    await until(lambda: gateway.sample(lost) == gateway.started * 3, "a count of all that was lost")


async def test_a_collector_that_was_busy_gets_what_it_refused(start: Start, collector: Collector) -> None:
    collector.status = 503
    gateway = await start(ONE, traces=traces(collector.url))
    assert (await gateway.post(CHAT.path, CHAT.body())).status_code == 200
    await until(lambda: collector.refused > 0, "its refusal")
    collector.status = 200
    await the_spans(collector, gateway, f"POST {CHAT.path}", "admit", "chat pebble-chat")
    assert gateway.sample("roundhouse_spans_dropped_total") == 0


async def test_without_traces_engines_get_none(start: Start) -> None:
    gateway = await start(ONE)
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    assert (await gateway.http.post(CHAT.path, json=CHAT.body(), headers=headers)).status_code == 200
    await gateway.settle()
    assert "traceparent" not in gateway.seen[0].headers and gateway.lines[0]["trace_id"] is None


async def test_what_waits_is_sent_at_the_end(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracer, "CLOSE_TIMEOUT", PATIENCE)
    slow = traces(collector.url, OTEL_BSP_SCHEDULE_DELAY="600000")
    async with running(tmp_path, ONE, traces=slow) as gateway:
        assert (await gateway.post(CHAT.path, CHAT.body())).status_code == 200
        assert not collector.bodies
    assert len(collector.spans) == 3


async def test_a_span_tells_in_whose_place_a_model_answered(start: Start, collector: Collector) -> None:
    fleet = "models: [{model: pebble-chat, aliases: [x], fallback: [pebble-instruct]}, {model: pebble-instruct}]"
    gateway = await start(fleet, traces=traces(collector.url))
    gateway.show(0, "failed", reason="it broke")
    assert (await gateway.post(CHAT.path, {**CHAT.body(), "model": "x"})).status_code == 200
    await until(lambda: bool(collector.named(f"POST {CHAT.path}")), "the span of the request")
    (span,) = collector.named(f"POST {CHAT.path}")
    found = {key: value for key, value in span.attributes.items() if key.startswith("roundhouse.fallback")}
    assert found == {"roundhouse.fallback": "unavailable", "roundhouse.fallback_of": "pebble-chat"}
