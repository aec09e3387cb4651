"""Requests with a schema or an image through the gateway: what is refused before any engine sees it."""

import sys
from typing import Any

import pytest

from tests.conftest import Start
from tests.relay.test_images import SEEING, talk
from tests.support.exchanges import CHAT, MESSAGE, RESPONSE, Case, error_in
from tests.support.gateways import RunningGateway
from tests.support.pictures import picture
from tests.support.waiting import PATIENCE

SLOW = {  # which the compiler that vLLM takes for it does not finish in half a minute
    "type": "object",
    "properties": {"a": {"type": "string", "pattern": "(a|b|c){1,300}x(a|b|c){1,300}(aa|bb){1,300}"}},
    "patternProperties": {"^b": {"type": "string"}},
}
WRONG = {"type": "nope"}


def fields_of(case: Case, schema: Any) -> dict[str, Any]:
    if case is CHAT:
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
    form = {"type": "json_schema", "name": "x", "schema": schema}
    return {"text": {"format": form}} if case is RESPONSE else {"output_format": form}


PATHS = {CHAT.name: "response_format.json_schema.schema", RESPONSE.name: "text.format.schema"}


async def refusal(gateway: RunningGateway, case: Case, status: int, **fields: Any) -> dict[str, Any]:
    response = await gateway.post(case.path, case.body(**fields))
    assert response.status_code == status, response.text
    error_in(case, response.content)
    assert not gateway.seen
    error: dict[str, Any] = response.json()["error"]
    return error


def limit(gateway: RunningGateway, seconds: float) -> None:
    """How long a check may take from now on: a short time for one that is to exceed it, and no other."""
    gateway.gateway._checks._timeout = seconds


async def test_a_schema_is_compiled_before_an_engine_gets_it(start: Start) -> None:
    """A wrong one, one that takes too long and one that is right, on every endpoint that takes one."""
    gateway = await start(check_timeout=PATIENCE)
    for case in (CHAT, RESPONSE):
        error = await refusal(gateway, case, 400, **fields_of(case, WRONG))
        assert (error["code"], error["param"]) == ("invalid_value", PATHS[case.name])
        limit(gateway, 1.0)
        error = await refusal(gateway, case, 400, **fields_of(case, SLOW))
        assert (error["code"], error["param"]) == ("check_failed", PATHS[case.name])
        limit(gateway, PATIENCE)
    error = await refusal(gateway, MESSAGE, 400, **fields_of(MESSAGE, WRONG))
    assert error["message"].startswith("output_format.schema: ")
    response = await gateway.post(CHAT.path, CHAT.body(**fields_of(CHAT, {"type": "object"})))
    assert response.status_code == 200 and len(gateway.seen) == 1
    text = gateway.gateway.render_metrics().decode()
    for row in (
        'roundhouse_checks_total{kind="schema",result="refused"} 3.0',
        'roundhouse_check_process_deaths_total{how="deadline"} 2.0',
    ):
        assert row in text, text
    await gateway.settle()


async def test_tools_are_compiled_where_an_engine_would(start: Start) -> None:
    gateway = await start(check_timeout=PATIENCE)
    tool = {"type": "function", "function": {"name": "f", "parameters": SLOW}}
    limit(gateway, 1.0)
    error = await refusal(gateway, CHAT, 400, tools=[tool], tool_choice="required")
    assert (error["code"], error["param"]) == ("check_failed", "tools[0].function.parameters")
    assert (await gateway.post(CHAT.path, CHAT.body(tools=[tool]))).status_code == 200
    await gateway.settle()


async def test_the_bounds_of_the_fleet_count(start: Start) -> None:
    gateway = await start("models: [{model: pebble-chat}]\nrequest_bounds: {schema_depth: 3}")
    error = await refusal(gateway, CHAT, 400, **fields_of(CHAT, {"properties": {"a": {"enum": [[1]]}}}))
    assert "nested more than 3 levels" in error["message"]


async def test_images_are_decoded_before_an_engine_gets_them(start: Start) -> None:
    gateway = await start(SEEING, check_images=True)
    for case in (CHAT, MESSAGE):
        damaged = talk(case, picture(width=64, height=64)[:-40])
        error = await refusal(gateway, case, 400, model="pebble-instruct", **damaged)
        assert error["message"].startswith("Could not process image")
    response = await gateway.post(CHAT.path, CHAT.body(model="pebble-instruct", **talk(CHAT)))
    assert response.status_code == 200 and len(gateway.seen) == 1
    await gateway.settle()


async def test_without_a_process_nothing_is_passed_on(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    gateway = await start()
    error = await refusal(gateway, CHAT, 503, **fields_of(CHAT, {"type": "object"}))
    assert error["code"] == "checks_unavailable"
    assert (await gateway.post(CHAT.path, CHAT.body())).status_code == 200  # which has nothing to check
    await gateway.settle()
