"""Fields that an engine does not get: those that are null, those about a person, `stream` where there is no stream."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from service.protocol.generation import GENERATION
from tests.conftest import Start
from tests.support.exchanges import CASES, CHAT, COMPLETION, COUNT, EMBEDDING, MESSAGE, RESPONSE, STREAMING, Case, label
from tests.support.gateways import HOUSE, RunningGateway

BODIES = {endpoint.path: endpoint.body for endpoint in GENERATION}


def nullable(case: Case) -> Iterator[str]:
    """The fields of an endpoint that our schema takes with null."""
    for field in msgspec.structs.fields(BODIES[case.path]):
        given = {"model": "m", **case.fields, field.name: None}
        try:
            msgspec.convert(given, BODIES[case.path])
        except msgspec.ValidationError:
            continue
        yield field.name


def got(gateway: RunningGateway) -> dict[str, Any]:
    """The last body that an engine got."""
    return dict(gateway.seen[-1].json)


@pytest.mark.parametrize("case", CASES, ids=label)
async def test_null_is_absent(case: Case, start: Start) -> None:
    gateway = await start(HOUSE)
    for name in nullable(case):
        if name in case.fields:
            continue
        response = await gateway.post(case.path, case.body() | {name: None})
        assert response.status_code == 200, (name, response.text)
        ours = ("stop", "chat_template_kwargs", "store")  # which have values of ours
        assert got(gateway).get(name) is None or name in ours, name


@pytest.mark.parametrize("stream", [False, True], ids=label)
@pytest.mark.parametrize("case", STREAMING, ids=label)
async def test_all_nulls_at_once(case: Case, stream: bool, start: Start) -> None:
    gateway = await start(HOUSE)
    body = {**dict.fromkeys(nullable(case)), **case.body(stream)}
    response = await gateway.post(case.path, body)
    assert response.status_code == 200, response.text
    await gateway.post(case.path, case.body(stream))
    without, bare = (seen.json for seen in gateway.seen)
    assert without == bare


PERSON: dict[str, Any] = {"user": "ada", "safety_identifier": "ada-1", "metadata": {"user_id": "ada"}}


@pytest.mark.parametrize("case", CASES, ids=label)
async def test_no_engine_learns_who_asks(case: Case, start: Start) -> None:
    gateway = await start(HOUSE)
    assert (await gateway.post(case.path, case.body(**PERSON))).status_code == 200
    assert b"ada" not in gateway.seen[-1].body


@pytest.mark.parametrize(
    ("case", "value"), [(COUNT, True), (COUNT, False), (EMBEDDING, False), (EMBEDDING, None)], ids=label
)
async def test_stream_is_ignored_where_nothing_streams(case: Case, value: bool | None, start: Start) -> None:
    gateway = await start(HOUSE)
    response = await gateway.post(case.path, case.body() | {"stream": value})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert "stream" not in got(gateway)
    await gateway.settle()
    assert [(line["attempts"], line["streamed"]) for line in gateway.lines] == [(1, False)]


OPEN = f"{HOUSE}extra_fields: [chat_template_kwargs, stop, stop_token_ids]"


@pytest.mark.parametrize("case", [CHAT, RESPONSE, MESSAGE], ids=label)
async def test_template_arguments_of_the_client_are_kept(case: Case, start: Start) -> None:
    gateway = await start(OPEN)
    kwargs = {"enable_thinking": False}
    assert (await gateway.post(case.path, case.body() | {"chat_template_kwargs": kwargs})).status_code == 200
    ours = {"bos_is_added": True} if case is RESPONSE else {}
    assert got(gateway)["chat_template_kwargs"] == kwargs | ours


async def test_other_bytes_of_the_body_are_the_clients(start: Start) -> None:
    gateway = await start(HOUSE)
    body = b'{"model": "pebble-base", "prompt" : "a\\u0062", "user":"ada", "temperature":1.00, "n":null, "seed": 12}'
    response = await gateway.http.post(COMPLETION.path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 200
    for part in (b'"a\\u0062"', b"1.00", b"12"):
        assert part in gateway.seen[-1].body
    assert got(gateway).keys() == {"model", "prompt", "temperature", "seed"}
