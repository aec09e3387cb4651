"""Requests that another model answers: which, why, and how the answer, the log and the metrics tell of it."""

import asyncio
import json
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest

from service.auth.keys import Key, digest
from tests.conftest import Start
from tests.fake_engine import Fault
from tests.support.exchanges import CHAT
from tests.support.gateways import Answer, RunningGateway
from tests.support.redis import redis_server
from tests.support.waiting import until

FLEET = """
models:
  - {model: pebble-chat, aliases: [support], fallback: [pebble-instruct], max_in_flight: 1, max_queued: 0}
  - {model: pebble-instruct, fallback: [pebble-code]}
  - {model: pebble-code, chat_template: ./code.jinja}
"""
ON_DEMAND = """
models:
  - {model: pebble-chat, aliases: [support], fallback: [pebble-instruct], min_replicas: 0, timeouts: {activation: 0.2}}
  - {model: pebble-instruct}
"""
SHARED = """
models:
  - {model: pebble-chat, aliases: [support], weight: 75}
  - {model: pebble-instruct, aliases: [support], weight: 25}
"""
TUNED = """
models:
  - model: pebble-chat
    fallback: [pebble-instruct]
    adapters:
      - {id: tone, path: ./tone, aliases: [support], fallback: [tone-v1, pebble-instruct]}
      - {id: tone-v1, path: ./tone-v1, aliases: [plain]}
  - {model: pebble-instruct}
"""
HANGING = Fault(gap=3600)
BY_ALIAS = {**CHAT.body(), "model": "support"}


async def ask(gateway: RunningGateway, body: object, *headers: str) -> Answer:
    line = await gateway.connect()
    await line.post(CHAT.path, json.dumps(body).encode(), "connection: close", *headers)
    return await line.answer()


def told(gateway: RunningGateway) -> tuple[str, str, str]:
    """What the last line of the log says: the model, and whom it replaced, why."""
    line = gateway.lines[-1]
    return line["model"], line["fallback_of"], line["fallback"]


@pytest.mark.parametrize("stream", [False, True])
async def test_another_model_answers_where_none_of_the_replicas_can(stream: bool, start: Start) -> None:
    gateway = await start(FLEET)
    gateway.show(0, "failed", reason="it broke")
    answer = await ask(gateway, {**BY_ALIAS, "stream": stream})
    assert (answer.status, answer.whole) == (200, True)
    assert answer.headers["x-roundhouse-model"] == "pebble-instruct"
    why = "fallback: unavailable of pebble-chat, alias of pebble-chat"
    assert answer.headers["x-roundhouse-route-reason"] == why
    assert b'"model":"pebble-instruct"' in answer.body.replace(b": ", b":")
    await gateway.settle()
    assert told(gateway) == ("pebble-instruct", "pebble-chat", "unavailable")
    labels = {"model": "pebble-chat", "fallback": "pebble-instruct", "reason": "unavailable"}
    assert gateway.sample("roundhouse_fallbacks_total", **labels) == 1
    assert gateway.sample("roundhouse_routing_decisions_total", model="pebble-instruct", rule="fallback") == 1


async def test_an_id_is_replaced_only_if_the_client_allows_it_and_a_name_not_if_it_denies(start: Start) -> None:
    gateway = await start(FLEET)
    gateway.show(0, "failed", reason="it broke")
    by_id = await ask(gateway, CHAT.body())
    assert (by_id.status, by_id.json["error"]["code"]) == (503, "model_unavailable")
    assert (await ask(gateway, BY_ALIAS, "x-roundhouse-fallback: deny")).status == 503
    assert (await ask(gateway, BY_ALIAS, "x-roundhouse-fallback: perhaps")).json["error"]["code"] == "invalid_header"
    allowed = await ask(gateway, CHAT.body(), "x-roundhouse-fallback: allow")
    assert allowed.headers["x-roundhouse-route-reason"] == "fallback: unavailable of pebble-chat, id"


async def test_a_full_queue_is_left_for_the_fallback_and_then_for_its_own(start: Start) -> None:
    gateway = await start(FLEET)
    gateway.engines[0].script(HANGING)
    first = await gateway.connect()
    await first.post(CHAT.path, json.dumps(BY_ALIAS).encode())
    await until(lambda: len(gateway.seen) == 1)
    assert (await ask(gateway, BY_ALIAS)).headers["x-roundhouse-model"] == "pebble-instruct"
    gateway.show(1, "failed", reason="it broke")
    answer = await ask(gateway, BY_ALIAS)
    assert answer.headers["x-roundhouse-model"] == "pebble-code"
    assert answer.headers["x-roundhouse-route-reason"].startswith("fallback: queue_full of pebble-chat")
    gateway.show(2, "failed", reason="it broke")
    refused = await ask(gateway, BY_ALIAS)
    assert (refused.status, refused.json["error"]["code"]) == (503, "overloaded"), "the error of the model asked for"
    assert "retry-after" in refused.headers
    first.leave()


@pytest.mark.parametrize("stream", [False, True])
async def test_who_waits_for_an_activation_in_vain_gets_the_fallback(stream: bool, start: Start) -> None:
    gateway = await start(ON_DEMAND)
    gateway.show(0, "scaled_to_zero")
    heartbeat = "x-roundhouse-sse-heartbeat-interval: 0.1"
    answer = await ask(gateway, {**BY_ALIAS, "stream": stream}, heartbeat)
    while stream and "x-roundhouse-model" in answer.headers:  # the machine stood still until the time was over
        answer = await ask(gateway, {**BY_ALIAS, "stream": True}, heartbeat)
    assert (answer.status, answer.whole) == (200, True)
    if stream:  # its headers were sent with the first heartbeat
        text = answer.body.decode()
        assert ": pebble-instruct answers, because of fallback: activation_timeout of pebble-chat" in text
        assert text.count("[DONE]") == 1
    else:
        assert answer.headers["x-roundhouse-model"] == "pebble-instruct"
    await gateway.settle()
    assert told(gateway) == ("pebble-instruct", "pebble-chat", "activation_timeout")


async def test_an_engine_that_dies_before_its_answer_is_replaced_and_one_within_it_is_not(start: Start) -> None:
    gateway = await start(FLEET)
    gateway.expected_broken = 1
    gateway.engines[0].script(Fault(events=2))
    within = await ask(gateway, {**BY_ALIAS, "stream": True})
    assert within.status == 200 and b'"error"' in within.body
    assert [seen.json["model"] for seen in gateway.seen] == ["pebble-chat"], "nothing is sent twice"
    gateway.engines[0].die("kill")
    before = await ask(gateway, {**BY_ALIAS, "stream": True})
    assert (before.status, before.headers["x-roundhouse-model"]) == (200, "pebble-instruct")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", [Fault(cut=0), Fault(status=500), Fault(raw=b"SSH-2.0\r\n")])
async def test_an_engine_that_fails_at_one_request_is_replaced_for_it(fault: Fault, stream: bool, start: Start) -> None:
    gateway = await start(FLEET)
    gateway.engines[0].script(fault)
    answers = [await ask(gateway, {**BY_ALIAS, "stream": stream}) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 200]
    models = [answer.headers["x-roundhouse-model"] for answer in answers]
    assert models == ["pebble-instruct", "pebble-chat"], "it is not ejected"
    await gateway.settle()
    assert gateway.sample("roundhouse_fallbacks_total", reason="unavailable") == 1


async def test_a_fallback_that_refuses_the_request_gives_the_first_error(start: Start) -> None:
    gateway = await start(ON_DEMAND)
    gateway.show(0, "failed", reason="it broke")
    gateway.engines[1].context = 1
    answer = await ask(gateway, BY_ALIAS)
    assert (answer.status, answer.json["error"]["code"]) == (503, "model_unavailable")


async def test_the_log_has_the_shape_of_a_request(start: Start) -> None:
    gateway = await start(SHARED)
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    await gateway.post(CHAT.path, {**BY_ALIAS, "temperature": 0.5, "tools": [tool]})
    await gateway.post(CHAT.path, BY_ALIAS)
    await gateway.settle()
    assert [(line["tools"], line["temperature"]) for line in gateway.lines] == [(True, 0.5), (False, None)]


async def test_a_caller_never_gets_a_model_that_its_key_is_not_for(start: Start) -> None:
    keys = {digest(b"narrow"): Key("narrow", models=frozenset({"support", "pebble-code"}))}
    gateway = await start(FLEET, keys=keys)
    gateway.show(0, "failed", reason="it broke")
    answer = await ask(gateway, BY_ALIAS, "authorization: Bearer narrow")
    assert answer.headers["x-roundhouse-model"] == "pebble-code"


async def test_route_tells_weights_and_fallbacks(start: Start) -> None:
    gateway = await start(FLEET)
    shown = (await gateway.post("/v1/route", {"model": "support"})).json()
    assert (shown["model"], shown["fallbacks"]) == ("pebble-chat", ["pebble-instruct", "pebble-code"])
    assert (await gateway.post("/v1/route", {"model": "pebble-chat"})).json()["fallbacks"] == []


async def test_a_conversation_stays_on_the_model_that_route_tells(start: Start) -> None:
    gateway = await start(SHARED)
    models = Counter[str]()
    for number in range(40):
        opening = [{"role": "user", "content": f"A conversation of its own, and this is number {number}."}]
        later = [*opening, {"role": "assistant", "content": "So?"}, {"role": "user", "content": "Go on."}]
        bodies = [{**BY_ALIAS, "messages": messages} for messages in (opening, later)]
        answers = [await gateway.post(CHAT.path, body) for body in bodies]
        chosen = {answer.headers["x-roundhouse-model"] for answer in answers}
        chosen.add((await gateway.post("/v1/route", bodies[0])).json()["model"])
        assert len(chosen) == 1
        models.update(chosen)
    assert 4 <= models["pebble-instruct"] <= 18, "about a quarter"
    assert answers[0].headers["x-roundhouse-route-reason"].startswith(f"alias of {chosen.pop()}, weight ")
    rows = {row["id"]: row for row in (await gateway.http.get("/v1/models")).json()["data"]}
    assert rows["support"]["weights"] == {"pebble-chat": 75, "pebble-instruct": 25}
    assert [rows[id]["weight"] for id in ("pebble-chat", "pebble-instruct")] == [75, 25]


async def test_what_has_no_conversation_goes_where_all_of_its_tenant_does(start: Start) -> None:
    gateway = await start(SHARED + "tenants: {a: {}, b: {}, c: {}, d: {}, e: {}, f: {}, g: {}, h: {}}")
    models = set()
    for tenant in "abcdefgh":
        ask = [gateway.http.post("/tokenize", json={"model": "support", "prompt": text},
                                 headers={"x-roundhouse-tenant": tenant}) for text in "xyz"]  # fmt: skip
        chosen = {answer.headers["x-roundhouse-model"] for answer in await asyncio.gather(*ask)}
        assert len(chosen) == 1
        models |= chosen
    assert models == {"pebble-chat", "pebble-instruct"}


async def test_an_adapter_that_cannot_answer_has_fallbacks_of_its_own(start: Start) -> None:
    gateway = await start(TUNED)
    broken = "the engine refused it: it is broken"
    gateway.show(0, "ready", adapters={"tone": broken, "tone-v1": None})
    answer = await ask(gateway, BY_ALIAS)
    assert (answer.status, answer.headers["x-roundhouse-model"]) == (200, "tone-v1")
    assert answer.headers["x-roundhouse-route-reason"] == "fallback: unavailable of tone, alias of tone"
    assert gateway.seen[-1].json["model"] == "tone-v1"
    await gateway.settle()
    assert told(gateway) == ("tone-v1", "tone", "unavailable")
    assert (await ask(gateway, {**BY_ALIAS, "model": "tone"})).status == 503, "by its id it is not replaced"
    gateway.show(0, "ready", adapters={"tone": broken, "tone-v1": broken})
    assert (await ask(gateway, BY_ALIAS)).headers["x-roundhouse-model"] == "pebble-instruct"
    assert (await ask(gateway, {**BY_ALIAS, "model": "plain"})).status == 503, "it has none of its base's"
    row = (await gateway.http.get("/v1/models/tone-v1")).json()
    assert (row["state"], row["fallback"], row["weight"]) == ("failed", [], None)
    shown = (await gateway.post("/v1/route", {"model": "support"})).json()
    assert (shown["state"], shown["fallbacks"]) == ("failed", ["tone-v1", "pebble-instruct"])


async def test_an_adapter_that_its_engine_has_just_lost_is_replaced(start: Start) -> None:
    gateway = await start(TUNED)
    del gateway.engines[0].adapters["tone"]
    answer = await ask(gateway, BY_ALIAS)
    assert (answer.status, answer.headers["x-roundhouse-model"]) == (200, "tone-v1")


LIMITS = "tenants: {t: {requests_per_minute: 2, requests_per_day: 2, tokens_per_day: 1000000, max_in_flight: 1}}"


@pytest.mark.usefixtures("within_a_day")
@pytest.mark.parametrize("shared", [False, True])
async def test_a_request_that_another_model_answers_counts_once(shared: bool, start: Start, tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") if shared else nullcontext() as redis:
        gateway = await start(FLEET + LIMITS, **({"redis_url": redis.url} if redis else {}))
        gateway.expected_broken = 1
        gateway.engines[0].die("kill")
        answers = [await ask(gateway, BY_ALIAS, "x-roundhouse-tenant: t") for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert {answer.headers["x-roundhouse-model"] for answer in answers[:2]} == {"pebble-instruct"}
        assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
        tokens = sum(answer.json["usage"]["total_tokens"] for answer in answers[:2])
        spent = 1_000_000 - int(answers[2].headers["x-ratelimit-remaining-tokens"])
        assert 0 < spent <= tokens, "what the engine that has died did is not charged"
