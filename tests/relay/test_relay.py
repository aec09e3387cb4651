"""The life of a request that succeeds, and of one that is not admitted."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from service.engine.state import Condition
from service.protocol.streams import StreamWatcher
from tests.conftest import Start
from tests.fake_engine import Fault
from tests.support.exchanges import (
    CHAT,
    COMPLETION,
    EMBEDDING,
    EXCHANGES,
    MESSAGE,
    RESPONSE,
    STREAMING,
    SUFFIX,
    TALKING,
    Case,
    events_of,
    is_refusal,
    label,
    sent,
    visible,
)
from tests.support.gateways import HOUSE, ONE, TWO
from tests.support.waiting import until


@pytest.mark.parametrize(("case", "stream"), EXCHANGES, ids=label)
async def test_the_response_body_is_forwarded_byte_for_byte(case: Case, stream: bool, start: Start) -> None:
    gateway = await start(HOUSE)
    response = await gateway.post(case.path, case.body(stream))
    (seen,) = gateway.seen
    assert (response.status_code, seen.path) == (200, case.path)
    expected = b"".join(visible(events_of(sent(seen)))) if stream else sent(seen)
    assert response.content == expected != b""
    kind = "text/event-stream; charset=utf-8" if stream else "application/json"
    assert response.headers["content-type"] == kind
    assert response.headers["x-roundhouse-model"] == case.model
    assert response.headers["x-roundhouse-replica"] == f"{case.model}-0"
    assert response.headers["x-roundhouse-route-reason"] == "id"
    assert "server" not in response.headers
    assert response.headers["x-request-id"] == seen.headers["x-request-id"]


@pytest.mark.parametrize("case", [CHAT, COMPLETION, MESSAGE], ids=lambda case: case.path[4:].replace("/", " "))
async def test_chunks_of_text_are_passed_on_without_being_parsed(
    case: Case, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[bytes] = []
    feed = StreamWatcher.feed

    def kept(watcher: StreamWatcher, data: bytes, now: float) -> bytes:
        fed.append(data)
        return feed(watcher, data, now)

    monkeypatch.setattr(StreamWatcher, "feed", kept)
    gateway = await start(HOUSE)
    for engine in gateway.engines:
        engine.gap = 0.02
    response = await gateway.post(case.path, case.body(True))
    (seen,) = gateway.seen
    assert response.content == b"".join(visible(events_of(sent(seen))))
    assert 0 < b"".join(fed).count(b"data: {") < sent(seen).count(b"data: {")


@pytest.mark.parametrize(("case", "stream"), EXCHANGES, ids=label)
async def test_the_log_line_of_a_request(case: Case, stream: bool, start: Start) -> None:
    gateway = await start(HOUSE)
    response = await gateway.post(case.path, case.body(stream))
    await gateway.settle()
    (line,) = gateway.lines
    assert line["request_id"] == response.headers["x-request-id"]
    assert (line["endpoint"], line["model"], line["replica"]) == (case.path, case.model, f"{case.model}-0")
    assert (line["outcome"], line["status"], line["attempts"], line["streamed"]) == ("complete", 200, 1, stream)
    counted = case.path != "/v1/messages/count_tokens"
    assert (line["prompt_tokens"] > 0) == counted
    assert (line["completion_tokens"] > 0) == (counted and case is not EMBEDDING)
    assert (line["finish_reason"] is not None) == (counted and case is not EMBEDDING)
    assert (line["ttft_s"] is not None) == stream
    assert gateway.sample("roundhouse_time_to_first_token_seconds_count") == stream
    # Neither prompt nor output is ever logged.
    assert not any(word in gateway.output[0] for word in ("three", "return"))


@pytest.mark.parametrize("case", [CHAT, COMPLETION], ids=label)
async def test_requested_usage_is_forwarded(case: Case, start: Start) -> None:
    gateway = await start(HOUSE)
    requested = case.body(stream=True, stream_options={"include_usage": True})
    response = await gateway.post(case.path, requested)
    (seen,) = gateway.seen
    assert seen.json == requested
    assert response.content == sent(seen)
    assert response.content.count(b'"usage":{') == 1


UNUSUAL_JSON = (
    '{ "messages":[{"role": "user", "content": "caf\\u00e9 é \\ud83d\\ude00"}],\n'
    ' "temperature": 0.50,"seed":12345678901234567 ,  "model":"%s"}\n'
)


async def test_the_request_body_is_forwarded_byte_for_byte(start: Start) -> None:
    gateway = await start(ONE)
    body = (UNUSUAL_JSON % "pebble-chat").encode()
    response = await gateway.http.post(CHAT.path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 200
    assert gateway.seen[0].body == body.rstrip()  # the salt stands in the place of the line break


RESOLVED = [
    ("gpt-4o-mini", CHAT, "pebble-chat", "alias of pebble-chat"),
    ("pebble", CHAT, "pebble-chat", "family pebble, chat fits chat"),
    ("pebble-1m", COMPLETION, "pebble-base", "family pebble-1m, base fits completion"),
    ("instruct", CHAT, "pebble-instruct", "variant instruct"),
    ("task:support", MESSAGE, "pebble-chat", "task support"),
    ("auto", CHAT, "pebble-instruct", "auto: a single instruction"),
    ("auto", SUFFIX, "pebble-code", "auto: a suffix"),
    ("auto", EMBEDDING, "embedder", "auto: embeddings"),
]


@pytest.mark.parametrize(("name", "case", "model", "route"), RESOLVED)
async def test_names_that_are_resolved_to_a_model(name: str, case: Case, model: str, route: str, start: Start) -> None:
    gateway = await start(HOUSE)
    response = await gateway.post(case.path, case.body() | {"model": name})
    assert response.status_code == 200
    assert response.headers["x-roundhouse-model"] == model
    assert response.headers["x-roundhouse-route-reason"] == route
    assert gateway.seen[0].json["model"] == model
    await gateway.settle()
    assert (gateway.lines[0]["requested"], gateway.lines[0]["model"]) == (name, model)


async def test_only_the_model_name_is_rewritten(start: Start) -> None:
    gateway = await start(HOUSE)
    body = (UNUSUAL_JSON % "gpt-4o-mini").encode()
    await gateway.http.post(CHAT.path, content=body, headers={"content-type": "application/json"})
    (seen,) = gateway.seen
    assert seen.body == body.rstrip()[:-1] + b',"model":"pebble-chat"}'


async def test_client_headers_are_not_forwarded(start: Start) -> None:
    gateway = await start(ONE)
    headers = {"authorization": "Bearer secret", "cookie": "secret", "x-request-id": "mine", "x-priority": "1"}
    response = await gateway.http.post(CHAT.path, json=CHAT.body(), headers=headers)
    (seen,) = gateway.seen
    assert seen.headers.keys() == {"host", "x-request-id", "content-type", "content-length"}
    assert seen.headers["x-request-id"] == response.headers["x-request-id"] != "mine"


async def test_suffix_is_rendered_into_the_prompt(start: Start) -> None:
    gateway = await start(HOUSE)
    for stream in (False, True):
        response = await gateway.post(SUFFIX.path, SUFFIX.body(stream))
        assert response.status_code == 200
    for seen in gateway.seen:
        assert seen.json["prompt"] == "<PRE> def f(): <SUF>return 1 <MID>"
        assert seen.json["suffix"] is None


STOPS = """
models:
  - model: acme/filler
    id: filler
    variant: code
    infill: {prompt: "<P>{prefix}<S>{suffix}<M>", stop: ["<E>"], stop_token_ids: [7, 8]}
"""


@pytest.mark.parametrize(
    ("own", "stop"), [({}, ["<E>"]), ({"stop": "x"}, ["x", "<E>"]), ({"stop": ["x", "y"]}, ["x", "y", "<E>"])]
)
async def test_infill_stops_are_added_to_those_of_the_client(
    own: dict[str, Any], stop: list[str], start: Start
) -> None:
    gateway = await start(STOPS)
    fields = {"model": "filler", "prompt": "a", **own}
    assert (await gateway.post(SUFFIX.path, fields | {"suffix": "b"})).status_code == 200
    assert (await gateway.post(SUFFIX.path, fields)).status_code == 200
    filled, plain = (seen.json for seen in gateway.seen)
    assert (filled["prompt"], filled["stop"], filled["stop_token_ids"]) == ("<P>a<S>b<M>", stop, [7, 8])
    assert plain == fields


CHAT_STOPS = [
    ("falcon-7b-instruct", CHAT, {"stop": ["\nUser"]}),
    ("falcon-7b-instruct", RESPONSE, {"stop": ["\nUser"]}),
    ("falcon-7b-instruct", MESSAGE, {"stop_sequences": ["\nUser"]}),
    ("orca-2-7b", CHAT, {"stop_token_ids": [32002]}),
    ("orca-2-7b", RESPONSE, {"stop_token_ids": [32002]}),
    ("code-llama-70b-instruct", CHAT, {"stop_token_ids": [32015]}),
    ("phi-3-mini-4k-instruct", CHAT, {"stop_token_ids": [32007, 32001]}),
    ("phi-4-mini-instruct", CHAT, {"stop": ["<|end|>"], "stop_token_ids": [200020]}),
]


@pytest.mark.parametrize("stream", [False, True], ids=label)
@pytest.mark.parametrize(("model", "case", "fields"), CHAT_STOPS, ids=label)
async def test_chat_stops_of_the_catalogue_are_sent_to_the_engine(
    model: str, case: Case, fields: dict[str, Any], stream: bool, start: Start
) -> None:
    gateway = await start(f"models: [{{model: {model}}}]")
    body = case.body(stream) | {"model": model}
    assert (await gateway.post(case.path, body)).status_code == 200
    seen = gateway.seen[0].json
    added = {key: value for key, value in seen.items() if key not in body and key != "stream_options"}
    assert {key: value for key, value in added.items() if key not in ("chat_template_kwargs", "store")} == fields


STOPPED = b'{"choices":[{"finish_reason":"stop","stop_reason":%s}],"usage":{"completion_tokens":1}}'
STOPPED_STREAM = (
    b'data: {"choices":[{"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
    b'data: {"choices":[{"delta":{},"finish_reason":"stop","stop_reason":%s}]}\n\ndata: [DONE]\n\n'
)


@pytest.mark.parametrize("stream", [False, True], ids=label)
async def test_stop_reason_of_an_added_stop_is_hidden(stream: bool, start: Start) -> None:
    gateway = await start("models: [{model: falcon-7b-instruct}]")
    template = STOPPED_STREAM if stream else STOPPED
    gateway.engines[0].script(Fault(status=200, body=template % b'"\\nUser"'))
    response = await gateway.post(CHAT.path, CHAT.body(stream) | {"model": "falcon-7b-instruct"})
    assert (response.status_code, response.content) == (200, template % b"null")


@pytest.mark.parametrize("stream", [False, True], ids=label)
async def test_infill_order_suffix_first(stream: bool, start: Start) -> None:
    gateway = await start(STOPS.replace("stop:", 'suffix_first: "<S>{suffix}<P>{prefix}", stop:'))
    fields = {"model": "filler", "prompt": "a", "suffix": "b", "n": 2, "infill_order": "suffix_first", "stream": stream}
    assert (await gateway.post(SUFFIX.path, fields)).status_code == 200
    assert gateway.seen[0].json["prompt"] == "<S>b<P>a"


async def test_unsupported_infill_order_gets_400(start: Start) -> None:
    gateway = await start(STOPS)
    fields = {"model": "filler", "prompt": "a", "suffix": "b", "infill_order": "suffix_first"}
    response = await gateway.post(SUFFIX.path, fields)
    assert is_refusal(SUFFIX, response, 400, "unsupported_infill_order")
    error = response.json()["error"]
    assert error["param"] == "infill_order" and "'prefix_first'" in error["message"]
    assert not gateway.seen


async def test_model_without_infill_gets_400_that_suggests_another(start: Start) -> None:
    gateway = await start(HOUSE)
    response = await gateway.post(SUFFIX.path, SUFFIX.body() | {"model": "pebble-base"})
    assert is_refusal(SUFFIX, response, 400, "unsupported_for_model")
    assert "'pebble-code'" in response.json()["error"]["message"]


async def test_requests_are_spread_over_replicas(start: Start) -> None:
    gateway = await start(TWO)
    replicas = [(await gateway.post(CHAT.path, CHAT.body())).headers["x-roundhouse-replica"] for _ in range(4)]
    assert sorted(replicas) == ["pebble-chat-0"] * 2 + ["pebble-chat-1"] * 2


async def test_the_less_loaded_replica_is_picked(start: Start) -> None:
    gateway = await start(TWO.replace("round_robin", "least_load"))
    for engine in gateway.engines:
        engine.always = Fault(gap=60)
    busy = await gateway.connect()
    await busy.post(CHAT.path, json.dumps(CHAT.body()).encode())
    await until(lambda: len(gateway.seen) == 1)
    for engine in gateway.engines:
        engine.always = Fault()
    for _ in range(4):
        assert (await gateway.post(CHAT.path, CHAT.body())).status_code == 200
    assert sorted(len(engine.requests) for engine in gateway.engines) == [1, 4]
    busy.leave()


@pytest.mark.parametrize("case", STREAMING, ids=label)
async def test_connections_to_engines_are_reused(case: Case, start: Start) -> None:
    gateway = await start(HOUSE)
    for stream in (True, False, True):
        assert (await gateway.post(case.path, case.body(stream))).status_code == 200
    await asyncio.sleep(0)
    assert not any(seen.closed.is_set() for seen in gateway.seen)


NOT_READY: list[tuple[Condition, str]] = [
    ("waiting", "model_loading"),
    ("starting", "model_loading"),
    ("failed", "model_unavailable"),
    ("stopping", "model_unavailable"),
    ("stopped", "model_unavailable"),
]


@pytest.mark.parametrize("case", TALKING, ids=label)
@pytest.mark.parametrize(("condition", "code"), NOT_READY)
async def test_model_that_is_not_ready_gets_503(condition: Condition, code: str, case: Case, start: Start) -> None:
    gateway = await start(ONE)
    gateway.show(0, condition, "loading weights", "/secret/path" if condition == "failed" else None)
    response = await gateway.post(case.path, case.body(stream=True))
    assert is_refusal(case, response, 503, code)
    assert int(response.headers["retry-after"]) >= 1
    assert "pebble-chat" in response.text
    assert "/secret" not in response.text
    gateway.show(0, "ready")
    assert (await gateway.post(case.path, case.body())).status_code == 200
    assert [(line["outcome"], line["attempts"]) for line in gateway.lines] == [("refused", 0), ("complete", 1)]


async def test_model_without_any_engine_state_gets_503(start: Start, tmp_path: Path) -> None:
    gateway = await start(ONE)
    for upstream in gateway.gateway.upstreams:
        upstream.replicas[0].state = None
    response = await gateway.post(CHAT.path, CHAT.body())
    assert is_refusal(CHAT, response, 503, "model_loading")


async def test_requests_go_to_the_replica_that_is_ready(start: Start) -> None:
    gateway = await start(TWO)
    for order in (0, 1):
        gateway.show(order, "starting")
        for _ in range(3):
            response = await gateway.post(CHAT.path, CHAT.body())
            assert response.headers["x-roundhouse-replica"] == f"pebble-chat-{1 - order}"
        gateway.show(order, "ready")


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("case", TALKING, ids=label)
async def test_request_beyond_max_in_flight_gets_503(case: Case, replicas: int, start: Start) -> None:
    limits = "max_in_flight: 2, max_queued: 0, policy: least_load"
    gateway = await start(f"models: [{{model: pebble-chat, min_replicas: {replicas}, {limits}}}]")
    for engine in gateway.engines:
        engine.always = Fault(gap=60)
    lines = [await gateway.connect() for _ in range(2 * replicas)]
    for line in lines:
        await line.post(case.path, json.dumps(case.body(stream=True)).encode())
    await until(lambda: len(gateway.seen) == 2 * replicas)
    assert gateway.sample("roundhouse_requests_in_flight", model="pebble-chat") == 2 * replicas
    response = await gateway.post(case.path, case.body())
    assert is_refusal(case, response, 503, "overloaded")
    assert int(response.headers["retry-after"]) >= 1
    assert len(gateway.seen) == 2 * replicas
    for engine in gateway.engines:
        engine.always = Fault()
    lines.pop().leave()
    await until(lambda: gateway.sample("roundhouse_requests_in_flight") == 2 * replicas - 1)
    assert (await gateway.post(case.path, case.body())).status_code == 200
    for line in lines:
        line.leave()


async def test_a_full_model_does_not_affect_another(start: Start) -> None:
    gateway = await start("models: [{model: pebble-chat, max_in_flight: 1, max_queued: 0}, {model: pebble-instruct}]")
    gateway.engines[0].script(Fault(gap=60))
    line = await gateway.connect()
    await line.post(CHAT.path, json.dumps(CHAT.body()).encode())
    await until(lambda: len(gateway.seen) == 1)
    assert (await gateway.post(CHAT.path, CHAT.body())).status_code == 503
    assert (await gateway.post(CHAT.path, CHAT.body() | {"model": "pebble-instruct"})).status_code == 200
    line.leave()
