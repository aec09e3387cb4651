"""What a tenant is charged for requests that end early, and for requests that are many."""

import asyncio
import json
import re
from typing import Any

import pytest

from service.admission.budgets import TokenBucket
from tests.conftest import Start
from tests.fake_engine import Fault
from tests.support.exchanges import (
    CHAT,
    COMPLETION,
    EMBEDDING,
    EXCHANGES,
    MESSAGE,
    OUTPUT,
    RESPONSE,
    STREAMING,
    Case,
    events_of,
    label,
)
from tests.support.gateways import RunningGateway
from tests.support.waiting import until

MODELS = """
models:
  - {model: pebble-chat}
  - {model: pebble-base}
  - {model: pebble-code}
  - {model: acme/tiny-embedding, id: embedder}
"""
LIMIT = 600  # tokens per minute
FLEET = MODELS + "tenants: {t: {tokens_per_minute: 600}, rich: {tokens_per_minute: 10000000}}"
TENANT = {"x-roundhouse-tenant": "t"}
COUNT = re.compile(rb'"usage":\{"prompt_tokens":(\d+),"total_tokens":\d+,"completion_tokens":(\d+)')
HUNG = Fault(gap=60.0)  # the engine takes the request and generates its first token after a minute


def bucket(gateway: RunningGateway, tenant: str = "t") -> TokenBucket:
    found = gateway.gateway.admission._limiter._limiters[tenant]._tokens
    assert found
    return found


async def abandon(gateway: RunningGateway, case: Case, body: dict[str, Any]) -> None:
    """Sends a request as tenant `t`, and hangs up when an engine has it; it may be refused before."""
    asked, ended = len(gateway.seen), len(gateway.lines)
    line = await gateway.connect()
    await line.post(case.path, json.dumps(body).encode(), "x-roundhouse-tenant: t")
    await until(lambda: len(gateway.seen) > asked or len(gateway.lines) > ended, "the request at an engine")
    line.leave()
    await until(lambda: len(gateway.lines) > ended, "the end of the request")


async def test_hanging_up_on_whole_responses_uses_up_the_budget(start: Start) -> None:
    gateway = await start(FLEET)
    gateway.engines[0].always = HUNG
    for _ in range(12):
        await abandon(gateway, CHAT, CHAT.body(max_tokens=300))
    assert bucket(gateway).level <= LIMIT - len(json.dumps(CHAT.body(max_tokens=300))) / 4


async def test_an_abandoned_response_is_charged_for_its_time_and_no_more_than_its_estimate(start: Start) -> None:
    gateway = await start(FLEET)
    rate = gateway.gateway.upstreams["pebble-chat"].token_rate
    rate.observe(1e9, 1.0)  # a model so fast that any time is enough for all tokens
    gateway.engines[0].always = HUNG
    await abandon(gateway, CHAT, CHAT.body(max_tokens=100, n=4))
    prompt = len(json.dumps(CHAT.body(max_tokens=100, n=4))) / 4
    assert LIMIT - bucket(gateway).level == pytest.approx(400 + prompt)


@pytest.mark.parametrize("stream", [False, True], ids=label)
async def test_a_request_that_times_out_is_charged(stream: bool, start: Start) -> None:
    gateway = await start(FLEET)
    gateway.engines[0].always = HUNG
    gateway.expected_unseen = None
    body = CHAT.body(stream, max_tokens=300)
    response = await gateway.post_in_vain(CHAT.path, body, {**TENANT, "x-roundhouse-timeout": "1"})
    assert response.status_code == 504
    assert LIMIT - bucket(gateway).level >= len(response.request.content) / 4


@pytest.mark.parametrize("case", STREAMING, ids=label)
async def test_a_broken_stream_is_charged_for_its_prompt_and_what_was_streamed(case: Case, start: Start) -> None:
    gateway = await start(FLEET)
    gateway.expected_broken = 1
    for engine in gateway.engines:
        engine.always = Fault(events=6 if case is RESPONSE else 4)
    response = await gateway.http.post(case.path, json=case.body(stream=True), headers=TENANT)
    await until(lambda: len(gateway.lines) == 1, "the end of the request")
    (line,) = gateway.lines
    assert (line["code"], line["completion_tokens"]) == ("upstream_error", 0)
    prompt = line["prompt_tokens"] or len(response.request.content) / 4
    assert bool(line["prompt_tokens"]) == (case is MESSAGE)  # Anthropic's first event counts the prompt
    if counts := COUNT.findall(gateway.seen[-1].answer):  # in the events of OpenAI's APIs, and the client has none
        assert b'"usage"' not in response.content
        prompt = int(counts[-1][0])
        assert LIMIT - bucket(gateway).level == prompt + int(counts[-1][1])
        return
    assert case in (MESSAGE, RESPONSE)
    outputs = sum(OUTPUT.search(event) is not None for event in events_of(response.content))
    assert outputs > 1
    assert LIMIT - bucket(gateway).level == pytest.approx(prompt + outputs)


async def test_an_abandoned_stream_is_charged_for_its_prompt_before_its_first_output(start: Start) -> None:
    gateway = await start(FLEET)
    gateway.engines[0].always = HUNG
    body = CHAT.body(stream=True, max_tokens=400)
    await abandon(gateway, CHAT, body)
    assert LIMIT - bucket(gateway).level == pytest.approx(len(json.dumps(body)) / 4, abs=1)


@pytest.mark.parametrize(("case", "stream"), EXCHANGES, ids=label)
async def test_a_complete_response_is_charged_as_the_engine_counted_it(case: Case, stream: bool, start: Start) -> None:
    gateway = await start(FLEET)
    assert (await gateway.http.post(case.path, json=case.body(stream), headers=TENANT)).status_code == 200
    await until(lambda: len(gateway.lines) == 1, "the end of the request")
    (line,) = gateway.lines  # without any tokens where it only counts them
    assert LIMIT - bucket(gateway).level == pytest.approx(line["prompt_tokens"] + line["completion_tokens"])


@pytest.mark.parametrize(("status", "body"), [(400, b"{}"), (503, b"{}"), (404, b"{}")])
async def test_what_an_engine_refuses_is_not_charged(status: int, body: bytes, start: Start) -> None:
    gateway = await start(FLEET)
    gateway.engines[0].always = Fault(status=status, body=body)
    response = await gateway.http.post(CHAT.path, json=CHAT.body(), headers=TENANT)
    assert response.status_code >= 400
    assert bucket(gateway).level == LIMIT


async def test_choices_of_all_prompts_are_estimated(start: Start) -> None:
    gateway = await start(FLEET)
    gateway.engines[1].always = HUNG
    body = COMPLETION.body(prompt=["one two"] * 8, n=4, max_tokens=1000)
    line = await gateway.connect()
    await line.post(COMPLETION.path, json.dumps(body).encode(), "x-roundhouse-tenant: rich")
    await until(lambda: len(gateway.seen) == 1, "the request at an engine")
    budget = bucket(gateway, "rich")
    assert budget.size - budget.level == pytest.approx(32_000 + len(json.dumps(body)) / 4)
    line.leave()
    await until(lambda: len(gateway.lines) == 1, "the end of the request")


async def test_embeddings_are_charged_for_their_inputs_and_no_output(start: Start) -> None:
    gateway = await start(FLEET)
    gateway.engines[3].always = HUNG
    body = EMBEDDING.body(input=["one two three"] * 50)
    await abandon(gateway, EMBEDDING, body)
    assert LIMIT - bucket(gateway).level == pytest.approx(len(json.dumps(body)) / 4, abs=1)


async def test_the_rate_is_measured_per_sequence_of_complete_responses(start: Start) -> None:
    gateway = await start(FLEET)
    gateway.engines[0].always = Fault(gap=0.05)
    rate = gateway.gateway.upstreams["pebble-chat"].token_rate
    await asyncio.gather(*(gateway.post(CHAT.path, CHAT.body(stream)) for stream in (False, True) for _ in range(4)))
    assert rate.value < 1 / 0.05 + 5
