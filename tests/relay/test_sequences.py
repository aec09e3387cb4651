"""Requests that are many sequences for an engine: admitted by what they are, and within what the engine takes."""

import asyncio
import json
from typing import Any

import pytest

from service.engine.argv import defaults
from service.fleet.request_bounds import RequestBounds
from tests.conftest import Start
from tests.fake_engine import Fault
from tests.support.exchanges import COMPLETION, EMBEDDING, Case
from tests.support.gateways import RunningGateway
from tests.support.waiting import until

EMBEDDER = "{model: acme/tiny-embedding, id: embedder%s}"


def one(extra: str = "") -> str:
    return f"models: [{EMBEDDER % extra}]"


def bound(gateway: RunningGateway) -> int:
    """What the engine of the only model is started with."""
    (upstream,) = gateway.gateway.upstreams
    number = defaults(upstream.served, 1)["max_num_queued_reqs"]
    assert isinstance(number, int)
    return number


def inputs(count: int) -> dict[str, Any]:
    return EMBEDDING.body(input=["a"] * count)


@pytest.mark.parametrize("count", [1024, 1025, RequestBounds().inputs])
async def test_an_idle_engine_embeds_as_many_texts_as_a_request_may_have(count: int, start: Start) -> None:
    gateway = await start(one())
    gateway.engines[0].queue = bound(gateway)
    response = await gateway.post(EMBEDDING.path, inputs(count))
    assert response.status_code == 200
    assert len(response.json()["data"]) == count


async def test_the_gateway_queues_what_the_engine_would_refuse(start: Start) -> None:
    gateway = await start(one(", max_in_flight: 4"))
    engine = gateway.engines[0]
    engine.queue, engine.gap = bound(gateway), 0.01
    sizes = [RequestBounds().inputs, 1, 600, 1, RequestBounds().inputs, 1, 600, 1, 1, 3] * 2
    responses = await asyncio.gather(*(gateway.post(EMBEDDING.path, inputs(size)) for size in sizes))
    assert [response.status_code for response in responses] == [200] * len(sizes)
    assert engine.totals["max_num_queued_reqs"] == 0
    assert {line["attempts"] for line in gateway.lines} == {1}


async def test_one_request_of_many_sequences_fills_its_replica(start: Start) -> None:
    gateway = await start("models: [{model: pebble-base, max_in_flight: 4}]")
    gateway.engines[0].always = Fault(gap=60.0)
    many, small = await gateway.connect(), await gateway.connect()
    await many.post(COMPLETION.path, json.dumps(COMPLETION.body(prompt=["one"] * 3, n=2)).encode())
    await until(lambda: len(gateway.seen) == 1, "the request at the engine")
    await small.post(COMPLETION.path, json.dumps(COMPLETION.body()).encode())
    await until(lambda: gateway.queued() == 1, "the small one in the queue")
    assert gateway.replicas[0].in_flight == 6
    assert gateway.sample("roundhouse_requests_in_flight") == 1
    assert gateway.sample("roundhouse_sequences_in_flight") == 6
    gateway.engines[0].always = Fault()
    many.leave()
    await small.read_until(b'"finish_reason"')
    small.leave()


@pytest.mark.parametrize(
    ("case", "model", "fields", "param", "sequences"),
    [
        (EMBEDDING, EMBEDDER, {"input": ["a"] * 8}, "input", 8),
        (COMPLETION, "{model: pebble-base%s}", {"prompt": ["a"] * 4, "n": 2}, "prompt", 8),
        (COMPLETION, "{model: pebble-base%s}", {"n": 4}, None, 4),
    ],
)
async def test_what_an_engine_could_never_take_is_a_400_that_names_the_field(
    case: Case, model: str, fields: dict[str, Any], param: str | None, sequences: int, start: Start
) -> None:
    limited = ", engine: {max_num_queued_reqs: 7}" if param else ", engine: {max_num_queued_reqs: 3}"
    gateway = await start(f"models: [{model % limited}]")
    response = await gateway.post(case.path, case.body(**fields))
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "invalid_value", param or "n")
    assert f"{sequences} sequences" in error["message"]
    assert "retry-after" not in response.headers
    assert not gateway.seen


async def test_a_full_engine_elsewhere_says_that_fewer_sequences_may_fit(start: Start) -> None:
    gateway = await start(one())
    gateway.engines[0].queue = 7
    response = await gateway.post(EMBEDDING.path, inputs(8))
    assert response.status_code == 503
    assert "It is 8 sequences for it: fewer at a time may fit earlier." in response.json()["error"]["message"]
    assert (await gateway.post(EMBEDDING.path, inputs(7))).status_code == 200


async def test_the_bounds_of_a_fleet_are_held_before_an_engine_is_asked(start: Start) -> None:
    gateway = await start("models: [{model: pebble-base}]\nrequest_bounds: {prompts: 2, stop: 10}")
    refused = await gateway.post(COMPLETION.path, COMPLETION.body(prompt=["a"] * 3))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt")
    routed = await gateway.post("/v1/route", COMPLETION.body(prompt=["a"] * 3) | {"endpoint": COMPLETION.path})
    assert routed.status_code == 400
    assert not gateway.seen
    taken = await gateway.post(COMPLETION.path, COMPLETION.body(prompt=["a"] * 2, stop=["a"] * 10))
    assert taken.status_code == 200


async def test_lists_of_tokens_are_answered_by_either_of_two_replicas(start: Start) -> None:
    gateway = await start("models: [{model: pebble-base, min_replicas: 2, policy: prefix_affinity}]")
    response = await gateway.post(COMPLETION.path, COMPLETION.body(prompt=[[1, 2], [3]]))
    assert response.status_code == 200
    assert gateway.seen[0].json["prompt"] == [[1, 2], [3]]
