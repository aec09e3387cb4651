"""The endpoints beside generation: models, routes, metrics; and paths that do not exist."""

from importlib import metadata
from typing import Any
from urllib.parse import quote, unquote

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.protocol.generation import PATHS
from tests.conftest import Start
from tests.fake_engine import Fault
from tests.support.exchanges import CHAT, COMPLETION, EXCHANGES
from tests.support.gateways import HOUSE, ONE, TWO

TUNED = """
models:
  - model: pebble-chat
    aliases: [small]
    min_replicas: 2
    adapters: [{id: tuned, path: ./adapter}]
aliases: {talk: tuned}
"""


async def test_models_are_listed_in_fleet_order(start: Start) -> None:
    gateway = await start(HOUSE)
    listed = (await gateway.http.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [row["id"] for row in listed["data"]] == [
        "pebble-chat", "pebble-instruct", "pebble-code", "pebble-base", "embedder", "gpt-4o-mini",
    ]  # fmt: skip
    assert listed["data"][5] == {**listed["data"][0], "id": "gpt-4o-mini", "aliases": [], "alias_of": "pebble-chat"}
    assert listed["data"][0]["aliases"] == ["gpt-4o-mini"]
    assert listed["data"][2] == {
        "id": "pebble-code",
        "object": "model",
        "created": 0,
        "owned_by": "pebble",
        "root": "pebble-code",
        "parent": None,
        "family": "pebble",
        "variant": "code",
        "specialty": None,
        "context_length": 1024,
        "max_model_len": 1024,
        "capabilities": ["completion", "infill"],
        "aliases": [],
        "weight": None,
        "fallback": [],
        "state": "ready",
        "reason": None,
        "replicas": [{"id": "pebble-code-0", "state": "ready", "reason": None, "restarts": 0}],
    }
    assert listed["data"][4]["capabilities"] == ["embedding"]


@pytest.mark.parametrize(
    ("name", "alias_of"),
    [("pebble-chat", None), ("small", "pebble-chat"), ("tuned", None), ("talk", "tuned")],
)
async def test_model_by_id_alias_or_adapter(name: str, alias_of: str | None, start: Start) -> None:
    gateway = await start(TUNED)
    response = await gateway.http.get(f"/v1/models/{name}")
    assert response.status_code == 200
    rows = {row["id"]: row for row in (await gateway.http.get("/v1/models")).json()["data"]}
    assert list(rows) == ["pebble-chat", "tuned", "small", "talk"]
    assert (rows["pebble-chat"]["aliases"], rows["tuned"]["aliases"]) == (["small"], ["talk"])
    assert response.json() == rows[name]
    assert response.json().get("alias_of") == alias_of
    assert response.json().get("parent") == ("pebble-chat" if name in ("tuned", "talk") else None)


ANTHROPIC = {"anthropic-version": "2023-06-01"}


async def test_models_in_anthropics_shape(start: Start) -> None:
    gateway = await start(TUNED)
    listed = (await gateway.http.get("/v1/models?limit=1000", headers=ANTHROPIC)).json()
    assert [row["display_name"] for row in listed["data"]] == [
        "pebble-chat", "tuned", "small (pebble-chat)", "talk (tuned)",
    ]  # fmt: skip
    small = {
        "type": "model", "id": "small", "display_name": "small (pebble-chat)", "created_at": "1970-01-01T00:00:00Z",
    }  # fmt: skip
    assert listed["data"][2] == small
    assert {**listed, "data": []} == {"data": [], "has_more": False, "first_id": "pebble-chat", "last_id": "talk"}
    assert (await gateway.http.get("/v1/models/small", headers=ANTHROPIC)).json() == small
    missing = await gateway.http.get("/v1/models/nope", headers=ANTHROPIC)
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")


NAMES = ["qwen3:8b", "claude-opus-4-8[1m]", "x@1", "模型", "größe-й", "organisation/name:tag"]


@pytest.mark.parametrize("name", NAMES)
async def test_names_of_any_script(name: str, start: Start) -> None:
    """As an alias, and as an id where it has no slash: in paths, bodies, headers, metrics and log lines."""
    fleet = f"models: [{{model: pebble-chat}}]\naliases: {{'{name}': pebble-chat}}"
    if "/" not in name:
        fleet = f"models: [{{model: pebble-chat, id: '{name}'}}]\naliases: {{'a-{name}': '{name}'}}"
    served = name if "/" not in name else "pebble-chat"
    gateway = await start(fleet)
    for path in (name, quote(name), quote(name, safe="")):
        found = await gateway.http.get(f"/v1/models/{path}")
        assert (found.status_code, found.json()["id"]) == (200, name)
    for requested in (name, f"a-{name}") if "/" not in name else (name,):
        response = await gateway.post(CHAT.path, {**CHAT.body(), "model": requested})
        assert response.status_code == 200
        assert unquote(response.headers["x-roundhouse-model"]) == served
        assert unquote(response.headers["x-roundhouse-replica"]) == f"{served}-0"
        assert response.json()["model"] == served
    await gateway.settle()
    assert gateway.lines[-1]["model"] == served
    assert gateway.sample("roundhouse_requests_total", model=served) == len(gateway.lines) - 3


@pytest.mark.parametrize("name", ["", "nope", "auto", "x" * 5000, "pebble-chat/0", "%2e%2e"])
async def test_unknown_model_gets_404(name: str, start: Start) -> None:
    gateway = await start(ONE)
    response = await gateway.http.get(f"/v1/models/{name}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert len(response.text) < 500
    await gateway.settle()
    assert gateway.lines[0]["endpoint"] == "/v1/models/{id}"


async def test_model_shows_the_state_of_its_replicas(start: Start) -> None:
    gateway = await start(TWO)
    gateway.show(0, "starting", "loading weights")
    row = (await gateway.http.get("/v1/models/pebble-chat")).json()
    assert (row["state"], row["reason"]) == ("ready", None)
    assert row["replicas"][0] == {
        "id": "pebble-chat-0", "state": "starting", "reason": "loading weights", "restarts": 0,
    }  # fmt: skip
    gateway.show(1, "failed", "starts again in 4 s", "no memory")
    row = (await gateway.http.get("/v1/models/pebble-chat")).json()
    assert (row["state"], row["reason"]) == ("starting", "loading weights")
    assert row["replicas"][1]["reason"] == "no memory"
    for upstream in gateway.gateway.upstreams:
        for replica in upstream.replicas:
            replica.state = None
    row = (await gateway.http.get("/v1/models/pebble-chat")).json()
    assert (row["state"], row["replicas"][0]["state"]) == ("waiting", "waiting")


async def route(start: Start, **fields: Any) -> tuple[int, dict[str, Any]]:
    gateway = await start(HOUSE)
    response = await gateway.post("/v1/route", fields)
    assert not gateway.seen
    return response.status_code, response.json()


async def test_route_shows_the_target(start: Start) -> None:
    assert await route(start, model="gpt-4o-mini") == (
        200,
        {
            "requested": "gpt-4o-mini",
            "endpoint": "/v1/chat/completions",
            "model": "pebble-chat",
            "variant": "chat",
            "family": "pebble",
            "route_reason": "alias of pebble-chat",
            "fallbacks": [],
            "ignored_fields": [],
            "state": "ready",
            "reason": None,
        },
    )


@pytest.mark.parametrize(
    ("fields", "model"),
    [
        ({"model": "auto"}, "pebble-instruct"),
        ({"model": "auto", "messages": [{"role": "user", "content": "def f(): ```x```"}]}, "pebble-instruct"),
        ({"model": "auto", "endpoint": "/v1/completions"}, "pebble-base"),
        ({"model": "auto", "endpoint": "/v1/completions", "suffix": "x"}, "pebble-code"),
        ({"model": "auto", "endpoint": "/v1/embeddings"}, "embedder"),
        ({"model": "chat", "endpoint": "/v1/messages"}, "pebble-chat"),
        ({"model": "pebble", "endpoint": "/v1/responses"}, "pebble-chat"),
        ({"model": "auto", "endpoint": "/tokenize"}, "pebble-base"),
        ({"model": "auto", "endpoint": "/tokenize", "messages": [{"role": "user", "content": "x"}]}, "pebble-instruct"),
        ({"model": "auto", "endpoint": "/detokenize"}, "pebble-base"),
    ],
)
async def test_route_follows_the_requests_content(fields: dict[str, Any], model: str, start: Start) -> None:
    status, answer = await route(start, **fields)
    assert (status, answer["model"]) == (200, model)


@pytest.mark.parametrize(("case", "stream"), EXCHANGES)
async def test_route_agrees_with_the_request_itself(case: Any, stream: bool, start: Start) -> None:
    gateway = await start(HOUSE)
    body = case.body(stream) | {"model": "auto"}
    predicted = (await gateway.post("/v1/route", body | {"endpoint": case.path})).json()
    response = await gateway.post(case.path, body)
    assert response.headers["x-roundhouse-model"] == predicted["model"]
    assert response.headers["x-roundhouse-route-reason"] == predicted["route_reason"]


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({}, 400, "missing_required_parameter", "model"),
        ({"model": "nope"}, 404, "model_not_found", "model"),
        ({"model": "pebble-base"}, 400, "unsupported_for_model", "model"),
        ({"model": "auto", "endpoint": "/v1/nope"}, 400, "invalid_value", "endpoint"),
        ({"model": "auto", "endpoint": ["/v1/completions"]}, 400, "invalid_value", "endpoint"),
        ({"model": "auto", "endpoint": {}}, 400, "invalid_value", "endpoint"),
        ({"model": "auto", "request_id": "x"}, 400, "unsupported_parameter", "request_id"),
        ({"model": "auto", "temperature": 9}, 400, "invalid_value", "temperature"),
    ],
)
async def test_route_of_an_invalid_request_gets_its_error(
    fields: dict[str, Any], status: int, code: str, param: str, start: Start
) -> None:
    actual, answer = await route(start, **fields)
    assert (actual, answer["error"]["code"], answer["error"]["param"]) == (status, code, param)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b"null", b'"x"', b"\xff", b"[" * 100_000])
async def test_route_body_must_be_a_json_object(body: bytes, start: Start) -> None:
    gateway = await start(ONE)
    response = await gateway.http.post("/v1/route", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")


async def test_route_shows_a_model_that_is_not_ready(start: Start) -> None:
    gateway = await start(ONE)
    gateway.show(0, "failed", reason="no memory")
    answer = (await gateway.post("/v1/route", {"model": "auto"})).json()
    assert (answer["state"], answer["reason"]) == ("failed", "no memory")


async def test_metrics_are_prometheus_text(start: Start) -> None:
    gateway = await start(HOUSE)
    await gateway.post(CHAT.path, CHAT.body(stream=True))
    await gateway.post(COMPLETION.path, COMPLETION.body())
    await gateway.post(CHAT.path, CHAT.body() | {"model": "nope"})
    response = await gateway.http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    assert all(name.startswith(("roundhouse_", "gen_ai_")) for name in families)
    counted = {
        (sample.labels["model"], sample.labels["endpoint"], sample.labels["outcome"]): sample.value
        for sample in families["roundhouse_requests"].samples
        if sample.name.endswith("_total")
    }
    assert counted == {
        ("pebble-chat", "/v1/chat/completions", "complete"): 1,
        ("pebble-base", "/v1/completions", "complete"): 1,
        ("unknown", "/v1/chat/completions", "refused"): 1,
    }
    in_flight = {sample.labels["model"]: sample.value for sample in families["roundhouse_requests_in_flight"].samples}
    assert in_flight == dict.fromkeys(
        ("pebble-chat", "pebble-instruct", "pebble-code", "pebble-base", "embedder"), 0.0
    )  # fmt: skip


async def test_metrics_show_the_replicas(start: Start) -> None:
    gateway = await start(TWO)
    gateway.show(0, "failed")
    gateway.gateway.update_gauges()
    states = {state: gateway.sample("roundhouse_replicas", state=state) for state in ("ready", "failed", "starting")}
    assert states == {"ready": 1, "failed": 1, "starting": 0}


async def test_the_page_of_an_engine_is_found_and_passed_on_as_it_is(start: Start) -> None:
    gateway = await start(TWO)
    gateway.show(1, "failed")
    (target,) = (await gateway.http.get("/metrics/targets", headers={"host": "llm.example.org:3000"})).json()
    assert target["targets"] == ["llm.example.org:3000"]
    assert target["labels"]["roundhouse_replica"] == "pebble-chat-0"
    page = (await gateway.http.get(target["labels"]["__metrics_path__"])).text
    assert "vllm:num_requests_running" in page
    assert "vllm:" not in (await gateway.http.get("/metrics")).text
    assert (await gateway.http.get("/metrics/engines/nope")).status_code == 404
    gateway.engines[1].die("kill")
    answer = await gateway.http.get("/metrics/engines/pebble-chat-1")
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")


NO_PATHS = [
    *("/v1", "/v1/chat", "/v1/chat/completions/", "/v1/files", "//v1/models", "/V1/models"),
    *("/docs", "/v1/tokenize", "/tokenizer_info", "/invocations", "/inference/v1/abort_requests"),
]


async def test_a_path_for_audio_says_why_it_does_not_exist(start: Start) -> None:
    gateway = await start(ONE)
    response = await gateway.post("/v1/audio/transcriptions", {})
    assert response.status_code == 404
    assert "audio is not taken here, send a transcript as text" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", NO_PATHS)
async def test_unknown_paths_get_404(path: str, start: Start) -> None:
    gateway = await start(ONE)
    for method in ("GET", "POST", "DELETE"):
        response = await gateway.http.request(method, f"http://127.0.0.1:{gateway.port}{path}")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_url")
    await gateway.settle()
    assert {line["endpoint"] for line in gateway.lines} == {"other"}


ALLOWED = [
    *((path, "POST") for path in PATHS),
    ("/v1/route", "POST"),
    *((path, "GET") for path in ("/", "/v1/models", "/v1/models/pebble-chat", "/metrics", "/version", "/openapi.json")),
    ("/v1/moderations", "POST"),
    *((path, "GET") for path in ("/console", "/console/app.js", "/console/api/state", "/console/api/load")),
    ("/v1/responses/resp_1/cancel", "POST"),
]
METHODS = ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD")


@pytest.mark.parametrize(("path", "allowed"), ALLOWED)
async def test_wrong_methods_get_405(path: str, allowed: str, start: Start) -> None:
    gateway = await start(ONE)
    methods = ("GET", "HEAD") if allowed == "GET" else (allowed,)
    for method in METHODS:
        if method not in methods:
            response = await gateway.http.request(method, path)
            assert (response.status_code, response.headers["allow"]) == (405, ", ".join(methods))
            if method != "HEAD":
                assert "error" in response.json()


@pytest.mark.parametrize("path", [path for path, allowed in ALLOWED if allowed == "GET"])
async def test_head_gets_the_headers_of_get_and_no_body(path: str, start: Start) -> None:
    gateway = await start(ONE)
    line = await gateway.connect()
    await line.send(f"HEAD {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n".encode())
    head, _, body = (await line.rest()).partition(b"\r\n\r\n")
    response = await gateway.http.get(path)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert f"content-type: {response.headers['content-type']}".encode() in head
    assert b"content-length: " in head and not body


async def test_the_version_is_asked_of_each_start_of_an_engine_once(start: Start) -> None:
    gateway = await start(TWO)
    gateway.show(1, "failed")
    page = (await gateway.http.get("/version")).json()
    assert page == {"version": metadata.version("roundhouse"), "engines": {"pebble-chat": "0.32.0"}}
    gateway.show(1, "ready")
    gateway.engines[0].version, gateway.engines[1].version = "0.33.0", "0.34.0"
    for _ in range(2):
        assert (await gateway.http.get("/version")).json()["engines"] == {"pebble-chat": "0.32.0, 0.34.0"}
    asked = [[seen.path for seen in engine.requests].count("/version") for engine in gateway.engines]
    assert asked == [1, 1]


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"version": 3}', b"\xff", b"x" * 100])
async def test_an_engine_that_does_not_say_its_version_is_left_out(body: bytes, start: Start) -> None:
    gateway = await start(ONE)
    gateway.engines[0].script(Fault(status=200, body=body), path="/version")
    assert (await gateway.http.get("/version")).json()["engines"] == {}
    assert (await gateway.http.get("/version")).json()["engines"] == {"pebble-chat": "0.32.0"}


@pytest.mark.parametrize("path", ["/health", "/ping"])
async def test_health_is_that_of_the_gateway(path: str, start: Start) -> None:
    gateway = await start(ONE)
    for method in ("GET", "HEAD"):
        answer = await gateway.http.request(method, path)
        assert (answer.status_code, answer.content) == (200, b"")
    gateway.gateway.start_draining()
    answer = await gateway.http.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
    assert answer.headers["retry-after"] == "1"
