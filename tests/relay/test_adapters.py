"""Requests to adapters: they go where the adapter is loaded, and one that is not takes nothing else down."""

import json
from collections import Counter
from typing import Any

from service.engine import adapter_lists
from tests.conftest import Start
from tests.support.waiting import until

TWO = """
models:
  - model: pebble-chat
    min_replicas: 2
    policy: round_robin
    adapters:
      - {id: tone, path: ./tone, aliases: [voice], variant: instruct}
      - {id: desk, path: ./desk}
"""


def to(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}]}


async def test_a_request_goes_where_its_adapter_is_loaded(start: Start) -> None:
    gateway = await start(TWO)
    gateway.show(0, "ready", adapters={"tone": "no room", "desk": None})
    for name in ("tone", "voice", "instruct"):
        for _ in range(2):
            response = await gateway.post("/v1/chat/completions", to(name))
            assert (response.status_code, response.headers["x-roundhouse-model"]) == (200, "tone")
            assert response.headers["x-roundhouse-replica"] == "pebble-chat-1"
            assert response.json()["model"] == "tone"
    assert {(await gateway.post("/v1/chat/completions", to("desk"))).status_code for _ in range(2)} == {200}
    assert {seen.json["model"] for seen in gateway.engines[0].requests} == {"desk"}
    lines = [(line["model"], line["variant"]) for line in gateway.lines]
    assert set(lines) == {("tone", "instruct"), ("desk", "chat")}
    assert gateway.sample("roundhouse_requests_total", model="tone", variant="instruct") == 6


async def test_one_that_failed_everywhere_says_why_and_the_rest_is_served(start: Start) -> None:
    gateway = await start(TWO)
    for order in (0, 1):
        gateway.show(order, "ready", adapters={"tone": "the engine refused it: it is broken", "desk": None})
    response = await gateway.post("/v1/chat/completions", to("tone"))
    assert response.status_code == 503
    error = response.json()["error"]
    assert error["message"] == "'tone' is not ready: failed; GET /v1/models/tone says why."
    row = (await gateway.http.get("/v1/models/tone")).json()
    assert (row["state"], row["reason"], row["parent"]) == (
        "failed",
        "the engine refused it: it is broken",
        "pebble-chat",
    )
    assert [one["state"] for one in row["replicas"]] == ["failed", "failed"]
    for name in ("desk", "pebble-chat"):
        assert (await gateway.post("/v1/chat/completions", to(name))).status_code == 200
        assert (await gateway.http.get(f"/v1/models/{name}")).json()["state"] == "ready"


async def test_one_that_is_about_to_be_loaded(start: Start) -> None:
    gateway = await start(TWO)
    for order in (0, 1):
        gateway.show(order, "ready", adapters={"desk": None})
    response = await gateway.post("/v1/chat/completions", to("tone"))
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json()["error"]["code"] == "model_loading"
    assert not [seen for engine in gateway.engines for seen in engine.requests]


async def test_an_engine_that_has_lost_an_adapter_is_not_ejected(start: Start) -> None:
    gateway = await start(TWO)
    del gateway.engines[0].adapters["tone"]
    for _ in range(6):
        response = await gateway.post("/v1/chat/completions", to("tone"))
        assert (response.status_code, response.headers["x-roundhouse-replica"]) == (200, "pebble-chat-1")
    del gateway.engines[1].adapters["tone"]
    assert (await gateway.post("/v1/chat/completions", to("tone"))).status_code == 503
    assert all(replica.breaker.closed for replica in gateway.replicas)
    assert (await gateway.post("/v1/chat/completions", to("pebble-chat"))).status_code == 200


async def test_no_client_reaches_what_loads_adapters(start: Start) -> None:
    gateway = await start(TWO)
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters"):
        body = {"lora_name": "x", "lora_path": "/etc", "name": "x", "src": "/etc"}
        assert (await gateway.post(path, body)).status_code == 404
    assert (await gateway.http.delete("/adapters/tone")).status_code == 404
    assert not [seen for engine in gateway.engines for seen in engine.requests]


async def test_a_gateway_tells_supervisors_which_adapters_it_wants(start: Start) -> None:
    gateway = await start(TWO)
    await until(lambda: adapter_lists.wanted(gateway.run_dir, "pebble-chat") is not None, "the gateway's list")
    wanted = adapter_lists.wanted(gateway.run_dir, "pebble-chat") or {}
    assert sorted(wanted) == ["desk", "tone"]
    assert json.loads((gateway.run_dir.parent / "tone/adapter_config.json").read_text())["r"] == 8


async def test_two_adapters_share_an_alias_by_their_weights(start: Start) -> None:
    shared = TWO.replace("aliases: [voice]", "aliases: [voice], weight: 60")
    gateway = await start(shared.replace("path: ./desk", "path: ./desk, aliases: [voice], weight: 40"))
    models = Counter[str]()
    for number in range(40):
        body = to("voice") | {"messages": [{"role": "user", "content": f"This is the conversation {number}."}]}
        answers = [await gateway.post("/v1/chat/completions", body) for _ in range(2)]
        (chosen,) = {answer.headers["x-roundhouse-model"] for answer in answers}
        assert answers[0].headers["x-roundhouse-route-reason"].startswith(f"alias of {chosen}, weight ")
        models[chosen] += 1
    assert models.keys() == {"tone", "desk"} and models["desk"] >= 8
    rows = {row["id"]: row for row in (await gateway.http.get("/v1/models")).json()["data"]}
    assert rows["voice"]["weights"] == {"tone": 60, "desk": 40}
    assert [rows[id]["weight"] for id in ("tone", "desk", "pebble-chat")] == [60, 40, None]
