"""The paths beside generation: what is served, where a request would go, the metrics; and what does not exist."""

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.protocol.generation import GENERATION
from tests.conftest import Start
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


async def test_models_in_the_fleets_order(start: Start) -> None:
    gateway = await start(HOUSE)
    listed = (await gateway.http.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [row["id"] for row in listed["data"]] == [
        "pebble-chat", "pebble-instruct", "pebble-code", "pebble-base", "embedder",
    ]  # fmt: skip
    assert listed["data"][2] == {
        "id": "pebble-code",
        "object": "model",
        "created": 0,
        "owned_by": "pebble",
        "family": "pebble",
        "variant": "code",
        "specialty": None,
        "context_length": 1024,
        "capabilities": ["completion", "infill"],
        "aliases": [],
        "state": "ready",
        "reason": None,
        "replicas": [{"id": "pebble-code-0", "state": "ready", "reason": None, "restarts": 0}],
    }
    assert listed["data"][4]["capabilities"] == ["embedding"]


@pytest.mark.parametrize(("name", "id_"), [("pebble-chat", "pebble-chat"), ("small", "pebble-chat"), ("tuned", "tuned"),
                                           ("talk", "tuned")])  # fmt: skip
async def test_one_model(name: str, id_: str, start: Start) -> None:
    gateway = await start(TUNED)
    response = await gateway.http.get(f"/v1/models/{name}")
    assert response.status_code == 200
    rows = {row["id"]: row for row in (await gateway.http.get("/v1/models")).json()["data"]}
    assert rows.keys() == {"pebble-chat", "tuned"}
    assert response.json() == rows[id_]
    assert response.json().get("parent") == ("pebble-chat" if id_ == "tuned" else None)


@pytest.mark.parametrize("name", ["", "nope", "auto", "x" * 5000, "pebble-chat/0", "%2e%2e"])
async def test_no_such_model(name: str, start: Start) -> None:
    gateway = await start(ONE)
    response = await gateway.http.get(f"/v1/models/{name}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert len(response.text) < 500
    await gateway.settle()
    assert gateway.lines[0]["endpoint"] == "/v1/models/{id}"


async def test_how_a_model_is_getting_on(start: Start) -> None:
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


async def test_where_a_request_would_go(start: Start) -> None:
    assert await route(start, model="gpt-4o-mini") == (
        200,
        {
            "requested": "gpt-4o-mini",
            "endpoint": "/v1/chat/completions",
            "model": "pebble-chat",
            "variant": "chat",
            "family": "pebble",
            "route_reason": "alias of pebble-chat",
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
    ],
)
async def test_the_request_decides(fields: dict[str, Any], model: str, start: Start) -> None:
    status, answer = await route(start, **fields)
    assert (status, answer["model"]) == (200, model)


@pytest.mark.parametrize(("case", "stream"), EXCHANGES)
async def test_a_route_is_where_the_request_then_goes(case: Any, stream: bool, start: Start) -> None:
    gateway = await start(HOUSE)
    body = case.body(stream) | {"model": "auto"}
    said = (await gateway.post("/v1/route", body | {"endpoint": case.path})).json()
    response = await gateway.post(case.path, body)
    assert response.headers["x-roundhouse-model"] == said["model"]
    assert response.headers["x-roundhouse-route-reason"] == said["route_reason"]


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({}, 400, "missing_required_parameter", "model"),
        ({"model": "nope"}, 404, "model_not_found", "model"),
        ({"model": "pebble-base"}, 400, "unsupported_for_model", "model"),
        ({"model": "auto", "endpoint": "/v1/nope"}, 400, "invalid_value", "endpoint"),
        ({"model": "auto", "endpoint": ["/v1/completions"]}, 400, "invalid_value", "endpoint"),
        ({"model": "auto", "endpoint": {}}, 400, "invalid_value", "endpoint"),
        ({"model": "auto", "prompt": "x"}, 400, "unknown_parameter", "prompt"),
        ({"model": "auto", "temperature": 9}, 400, "invalid_value", "temperature"),
    ],
)
async def test_no_route(fields: dict[str, Any], status: int, code: str, param: str, start: Start) -> None:
    got, answer = await route(start, **fields)
    assert (got, answer["error"]["code"], answer["error"]["param"]) == (status, code, param)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b"null", b'"x"', b"\xff", b"[" * 100_000])
async def test_a_question_that_is_no_object(body: bytes, start: Start) -> None:
    gateway = await start(ONE)
    response = await gateway.http.post("/v1/route", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")


async def test_a_route_says_when_its_model_is_not_ready(start: Start) -> None:
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
    assert all(name.startswith("roundhouse_") for name in families)
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
    gateway.gateway.metrics.show_replicas(gateway.gateway.upstreams.counts())
    states = {state: gateway.sample("roundhouse_replicas", state=state) for state in ("ready", "failed", "starting")}
    assert states == {"ready": 1, "failed": 1, "starting": 0}


PATHS = [
    *("/", "/v1", "/v1/chat", "/v1/chat/completions/", "/v1/files", "//v1/models", "/V1/models"),
    *("/docs", "/openapi.json", "/health", "/tokenize", "/invocations", "/inference/v1/abort_requests"),
]


@pytest.mark.parametrize("path", PATHS)
async def test_what_is_not_in_the_table_does_not_exist(path: str, start: Start) -> None:
    gateway = await start(ONE)
    for method in ("GET", "POST", "DELETE"):
        response = await gateway.http.request(method, f"http://127.0.0.1:{gateway.port}{path}")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_url")
    await gateway.settle()
    assert {line["endpoint"] for line in gateway.lines} == {"other"}


ALLOWED = [
    *((one.path, "POST") for one in GENERATION),
    ("/v1/route", "POST"),
    *((path, "GET") for path in ("/v1/models", "/v1/models/pebble-chat", "/metrics")),
]
METHODS = ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD")


@pytest.mark.parametrize(("path", "allowed"), ALLOWED)
async def test_wrong_methods(path: str, allowed: str, start: Start) -> None:
    gateway = await start(ONE)
    for method in METHODS:
        if method != allowed:
            response = await gateway.http.request(method, path)
            assert (response.status_code, response.headers["allow"]) == (405, allowed)
            if method != "HEAD":
                assert "error" in response.json()
