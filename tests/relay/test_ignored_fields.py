"""Fields that nothing here uses are dropped, named and counted; those that would mislead are refused."""

import pytest

from tests.conftest import Start
from tests.support.exchanges import CHAT, EXCHANGES, MESSAGE, Case, is_refusal, label
from tests.support.gateways import HOUSE

STRICT = HOUSE + "\nunknown_fields: refuse\nextra_fields: [request_id]\n"


@pytest.mark.parametrize(("case", "stream"), EXCHANGES, ids=label)
async def test_an_unknown_field_is_dropped_named_and_counted(case: Case, stream: bool, start: Start) -> None:
    gateway = await start(HOUSE)
    response = await gateway.post(case.path, case.body(stream, a_new_field={"a": 1}, another=None))
    assert response.status_code == 200
    assert response.headers["x-roundhouse-ignored-fields"] == "a_new_field"
    assert not {"a_new_field", "another"} & set(gateway.seen[0].json)
    assert gateway.sample("roundhouse_ignored_fields_total", endpoint=case.path, field="other") == 1
    assert "x-roundhouse-ignored-fields" not in (await gateway.post(case.path, case.body(stream))).headers


async def test_a_field_left_out_for_want_of_a_parser_is_named_too(start: Start) -> None:
    gateway = await start(HOUSE)
    response = await gateway.post(MESSAGE.path, MESSAGE.body(thinking={"type": "adaptive"}))
    assert response.headers["x-roundhouse-ignored-fields"] == "thinking"
    assert gateway.seen[0].json["thinking"] is None


async def test_a_refused_field_reaches_no_engine(start: Start) -> None:
    gateway = await start(HOUSE)
    assert is_refusal(CHAT, await gateway.post(CHAT.path, CHAT.body(request_id="s")), 400, "unsupported_parameter")
    assert not gateway.seen


async def test_a_fleet_may_refuse_what_is_unknown_and_pass_what_it_names(start: Start) -> None:
    gateway = await start(STRICT)
    assert is_refusal(CHAT, await gateway.post(CHAT.path, CHAT.body(a_new_field=1)), 400, "unknown_parameter")
    response = await gateway.post(CHAT.path, CHAT.body(request_id="s", verbosity="low"))
    assert response.headers["x-roundhouse-ignored-fields"] == "verbosity"
    assert gateway.seen[0].json["request_id"] == "s"


async def test_the_route_says_what_would_be_ignored(start: Start) -> None:
    gateway = await start(HOUSE)
    found = (await gateway.post("/v1/route", CHAT.body(verbosity="low"))).json()
    assert found["ignored_fields"] == ["verbosity"]
