"""`Idempotency-Key` through the whole gateway: one generation, however often it is asked for."""

import asyncio
import json

import pytest

from tests.conftest import Start
from tests.fake_engine import Fault
from tests.support.exchanges import CHAT, STREAMING, TALKING, Case, is_refusal, label
from tests.support.gateways import HOUSE
from tests.support.waiting import until

KEY = {"idempotency-key": "k-1"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", STREAMING, ids=label)
async def test_a_second_request_gets_the_first_ones_answer(case: Case, stream: bool, start: Start) -> None:
    gateway = await start(HOUSE)
    answers = [await gateway.http.post(case.path, json=case.body(stream), headers=KEY) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert ["x-roundhouse-replayed" in answer.headers for answer in answers] == [False, True, True]
    assert len(gateway.seen) == 1
    await gateway.settle()
    assert [line["outcome"] for line in gateway.lines] == ["complete"] * 3
    assert [line["completion_tokens"] > 0 for line in gateway.lines] == [True, False, False]
    gateway.gateway.update_gauges()
    assert gateway.sample("roundhouse_kept_answers_bytes") > len(answers[0].content)


async def test_one_that_comes_while_the_first_runs_joins_it(start: Start) -> None:
    gateway = await start()
    gateway.engines[0].gap = 0.01
    body = json.dumps(CHAT.body(stream=True)).encode()
    first, second = await gateway.connect(), await gateway.connect()
    for line in (first, second):
        await line.post(CHAT.path, body, "connection: close", "idempotency-key: k-1")
    one, two = await asyncio.gather(first.answer(), second.answer())
    assert one.body == two.body and one.whole and two.whole
    assert b"[DONE]" in one.body
    assert len(gateway.seen) == 1


async def test_the_first_may_leave_while_the_second_listens(start: Start) -> None:
    gateway = await start()
    gateway.engines[0].gap = 0.05
    body = json.dumps(CHAT.body(stream=True)).encode()
    first, second = await gateway.connect(), await gateway.connect()
    await first.post(CHAT.path, body, "idempotency-key: k-1")
    await first.read_until(b"data: ")
    await second.post(CHAT.path, body, "connection: close", "idempotency-key: k-1")
    await second.read_until(b"data: ")
    first.leave()
    assert b"[DONE]" in await second.rest()
    assert len(gateway.seen) == 1


async def test_when_the_last_one_leaves_the_engine_is_freed(start: Start) -> None:
    gateway = await start()
    gateway.engines[0].script(Fault(gap=3600))
    lines = [await gateway.connect() for _ in range(2)]
    for line in lines:
        await line.post(CHAT.path, json.dumps(CHAT.body()).encode(), "idempotency-key: k-1")
    await until(lambda: gateway.started == 2 and len(gateway.seen) == 1)
    lines.pop().leave()
    lines.pop().leave()
    await until(gateway.seen[0].closed.is_set)
    assert (await gateway.http.post(CHAT.path, json=CHAT.body(), headers=KEY)).status_code == 200
    assert len(gateway.seen) == 2


async def test_another_request_under_the_same_key(start: Start) -> None:
    gateway = await start()
    assert (await gateway.http.post(CHAT.path, json=CHAT.body(), headers=KEY)).status_code == 200
    response = await gateway.http.post(CHAT.path, json=CHAT.body(temperature=1), headers=KEY)
    assert is_refusal(CHAT, response, 422, "idempotency_conflict")
    assert len(gateway.seen) == 1


async def test_tenants_have_keys_of_their_own(start: Start) -> None:
    gateway = await start("models: [{model: pebble-chat}]\ntenants: {one: {}, two: {}}")
    for tenant in ("one", "two"):
        headers = {**KEY, "x-roundhouse-tenant": tenant}
        assert (await gateway.http.post(CHAT.path, json=CHAT.body(), headers=headers)).status_code == 200
    assert len(gateway.seen) == 2


@pytest.mark.parametrize("case", TALKING, ids=label)
async def test_a_failure_is_not_kept(case: Case, start: Start) -> None:
    gateway = await start()
    gateway.engines[0].script(Fault(status=500, body=b"{}"), path=case.path)
    response = await gateway.http.post(case.path, json=case.body(), headers=KEY)
    assert is_refusal(case, response, 502, "upstream_error")
    assert (await gateway.http.post(case.path, json=case.body(), headers=KEY)).status_code == 200
    assert len(gateway.seen) == 2
