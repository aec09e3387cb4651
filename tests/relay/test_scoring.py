"""Reranking, scoring and turning text into tokens, through the gateway."""

import json
from typing import Any

import pytest

from service.protocol.generation import PATHS
from tests.conftest import Start
from tests.fake_engine import Fault
from tests.relay.test_accounting import bucket
from tests.support.gateways import RunningGateway
from tests.support.waiting import until

RANKER = "{model: acme/tiny-reranker, id: ranker%s}"
FLEET = f"""
models:
  - model: pebble-chat
  - {RANKER % ""}
tenants:
  small: {{tokens_per_minute: 600000}}
"""
DOCUMENTS = ["green pears", "red apples", "an apple is red", {"text": "apples", "title": "kept here"}]
RERANK = {"model": "ranker", "query": "red apples", "documents": DOCUMENTS}
SCORE = {"model": "ranker", "text_1": "red apples", "text_2": ["red", "blue"]}
TOKENIZE = {"model": "ranker", "prompt": "one two"}
DETOKENIZE = {"model": "ranker", "tokens": [3, 4]}
BODIES: dict[str, dict[str, Any]] = {
    "/rerank": RERANK,
    "/score": SCORE,
    "/tokenize": TOKENIZE,
    "/detokenize": DETOKENIZE,
}
EVERY = [(path, BODIES[endpoint.path]) for path, endpoint in PATHS.items() if endpoint.path in BODIES]


async def post(gateway: RunningGateway, path: str, body: dict[str, Any], **headers: str) -> Any:
    response = await gateway.http.post(path, json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize(("path", "body"), EVERY)
async def test_every_path_reaches_the_engine_by_its_own_name(path: str, body: dict[str, Any], start: Start) -> None:
    gateway = await start(FLEET)
    response = await gateway.post(path, body)
    assert response.status_code == 200, response.text
    assert response.headers["x-roundhouse-model"] == "ranker"
    assert [seen.path for seen in gateway.seen] == [PATHS[path].path]
    await gateway.settle()
    (line,) = gateway.lines
    assert (line["endpoint"], line["model"], line["outcome"]) == (path, "ranker", "complete")
    assert (line["prompt_tokens"] > 0) == ("to" not in path)  # /tokenize and /detokenize run nothing
    assert gateway.sample("roundhouse_requests_total", endpoint=path) == 1


@pytest.mark.parametrize("fields", [{}, {"top_n": None}, {"top_n": 2}, {"return_documents": True}])
async def test_a_ranking(fields: dict[str, Any], start: Start) -> None:
    gateway = await start(FLEET)
    answer = await post(gateway, "/v1/rerank", RERANK | fields)
    results = answer["results"]
    assert [result["index"] for result in results] == [1, 3, 2, 0][: fields.get("top_n") or 4]
    assert [result["relevance_score"] for result in results] == [1, 1, 0.25, 0][: len(results)]
    assert results[1]["document"]["text"] == "apples"
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] > 0
    sent = gateway.seen[0].json
    assert sent["documents"] == ["green pears", "red apples", "an apple is red", "apples"]
    assert "top_n" not in sent or sent["top_n"] == 2


async def test_a_ranking_of_places_alone(start: Start) -> None:
    gateway = await start(FLEET)
    answer = await post(gateway, "/v2/rerank", RERANK | {"return_documents": False, "top_n": 1})
    assert answer["results"] == [{"index": 1, "relevance_score": 1.0}]
    assert gateway.lines[0]["prompt_tokens"] == answer["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("sides", "scores"),
    [
        ({"text_1": "red apples", "text_2": "red pears"}, [0.5]),
        ({"queries": "red", "documents": ["red", "blue", "red pears"]}, [1, 0, 0.5]),
        ({"data_1": ["red", "blue"], "data_2": ["blue", "blue"]}, [0, 1]),
    ],
)
async def test_scores(sides: dict[str, Any], scores: list[float], start: Start) -> None:
    answer = await post(await start(FLEET), "/score", {"model": "ranker", **sides})
    assert [row["score"] for row in answer["data"]] == scores


@pytest.mark.parametrize(
    ("path", "body", "code", "param"),
    [
        ("/v1/rerank", RERANK | {"documents": []}, "invalid_value", "documents"),
        ("/v1/rerank", RERANK | {"documents": ["a"] * 2049}, "invalid_value", "documents"),
        ("/v1/rerank", RERANK | {"query": "q" * 2**20, "documents": ["a"] * 16}, "invalid_request", None),
        ("/v1/rerank", RERANK | {"rank_fields": ["title"]}, "unsupported_parameter", "rank_fields"),
        ("/v1/rerank", RERANK | {"model": "pebble-chat"}, "unsupported_for_model", "model"),
        ("/v1/score", SCORE | {"text_1": ["a", "b", "c"]}, "invalid_value", "text_1"),
        ("/v1/score", SCORE | {"queries": "a"}, "invalid_request", None),
        ("/v1/chat/completions", {"model": "ranker", "messages": [{"role": "user", "content": "x"}]},
         "unsupported_for_model", "model"),
        ("/tokenize", {"model": "ranker", "messages": [{"role": "user", "content": "x"}]}, "unsupported_for_model",
         "model"),
        ("/tokenize", {"model": "ranker"}, "invalid_request", None),
        ("/detokenize", DETOKENIZE | {"tokens": ["a"]}, "invalid_value", "tokens[0]"),
        ("/detokenize", DETOKENIZE | {"tokens": [0] * (2**20 + 1)}, "invalid_value", "tokens"),
    ],
)  # fmt: skip
async def test_what_is_wrong_reaches_no_engine(
    path: str, body: dict[str, Any], code: str, param: str | None, start: Start
) -> None:
    gateway = await start(FLEET)
    response = await gateway.post(path, body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, code, param)
    assert not gateway.seen


async def test_a_pair_that_is_too_long_is_told_as_such(start: Start) -> None:
    gateway = await start(FLEET)
    body = RERANK | {"documents": ["fits", "word " * 1200]}
    error = (await gateway.post("/v1/rerank", body)).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "documents")
    assert error["message"].startswith("A query with one of its documents has at least 1025 tokens and the context of")


async def test_each_document_is_a_sequence(start: Start) -> None:
    gateway = await start(f"models: [{RANKER % ', engine: {max_num_queued_reqs: 7}'}]")
    error = (await gateway.post("/v1/rerank", RERANK | {"documents": ["a"] * 8})).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_value", "documents")
    assert "8 sequences" in error["message"]
    gateway.engines[0].always = Fault(gap=60.0)
    line = await gateway.connect()
    await line.post("/v1/rerank", json.dumps(RERANK).encode())
    await until(lambda: len(gateway.seen) == 1, "the request at the engine")
    assert gateway.sample("roundhouse_sequences_in_flight") == gateway.replicas[0].in_flight == 4
    line.leave()


async def test_the_query_is_charged_once_for_each_document(start: Start) -> None:
    gateway = await start(FLEET)
    gateway.engines[1].always = Fault(gap=60.0)
    line = await gateway.connect()
    body = RERANK | {"query": "q" * 4000, "documents": ["a"] * 100}
    await line.post("/v1/rerank", json.dumps(body).encode(), "x-roundhouse-tenant: small")
    await until(lambda: len(gateway.seen) == 1, "the request at the engine")
    budget = bucket(gateway, "small")
    assert budget.size - budget.level == pytest.approx(100 * (4000 + 1) / 4)
    line.leave()


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
async def test_tokens_cost_a_request_and_no_tokens(path: str, start: Start) -> None:
    gateway = await start(FLEET)
    await post(gateway, path, BODIES[path], **{"x-roundhouse-tenant": "small"})
    assert bucket(gateway, "small").level == bucket(gateway, "small").size
    assert gateway.lines[0]["tenant"] == "small"


async def test_tokens_of_a_conversation_go_to_a_model_that_can_chat(start: Start) -> None:
    gateway = await start(FLEET)
    messages = [{"role": "user", "content": "one two"}]
    answer = await post(gateway, "/tokenize", {"model": "auto", "messages": messages, "return_token_strs": True})
    assert answer == {"count": 3, "max_model_len": 1024, "tokens": [0, 1, 2], "token_strs": ["t0", "t1", "t2"]}
    assert gateway.seen[0].json["model"] == "pebble-chat"
    assert await post(gateway, "/detokenize", DETOKENIZE) == {"prompt": "t3 t4"}
