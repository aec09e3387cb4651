"""The description of the API: valid, complete, as it is checked, and for callers with a key alone."""

import json

import schemathesis

from service.auth.keys import FIRST, Key, digest
from service.fleet.request_bounds import RequestBounds
from service.gateway.openapi import describe, operations
from service.protocol.request_headers import PARSERS
from tests.conftest import Start
from tests.support.fleets import ROOT
from tests.support.gateways import ONE

SECRET, OF_METRICS = "rh_the-first-key-0123456789", "rh_for-metrics-0123456789"
KEYS = {
    digest(SECRET.encode()): FIRST,
    digest(OF_METRICS.encode()): Key("scraper", endpoints=frozenset({"metrics"})),
}


def test_the_page_is_up_to_date_and_valid_openapi() -> None:
    description = describe(RequestBounds())
    written = json.loads((ROOT / "docs/openapi.json").read_text(encoding="utf-8"))
    assert written == description, "run: python -m service.gateway.openapi > docs/openapi.json"
    assert schemathesis.openapi.from_dict(description).validate() is None
    # Every reference leads somewhere, and nothing is described that nothing refers to.
    text = json.dumps(description)
    for group, members in description["components"].items():
        for name in members:
            used = f'"#/components/{group}/{name}"' in text
            assert used or group == "securitySchemes", (group, name)
    assert text.count('"$ref"') == sum(
        text.count(f'"#/components/{group}/{name}"')
        for group, members in description["components"].items()
        for name in members
    )


async def test_it_has_every_endpoint_and_no_other(start: Start) -> None:
    endpoints = (await start(ONE)).gateway._endpoints
    expected = {(path, method) for path, methods in endpoints.table.items() for method in methods}
    assert operations(describe(RequestBounds())) == expected


def test_it_has_every_header_that_is_read() -> None:
    assert describe(RequestBounds())["components"]["parameters"].keys() == {name.decode() for name in PARSERS}


async def test_it_is_for_callers_with_a_key_and_has_the_bounds_of_the_fleet(start: Start) -> None:
    gateway = await start(ONE + "\nrequest_bounds: {n: 3}", keys=KEYS)
    for secret, status in (("", 401), (OF_METRICS, 403), (SECRET, 200)):
        answer = await gateway.http.get("/openapi.json", headers={"x-api-key": secret})
        assert answer.status_code == status
    chat = answer.json()["components"]["schemas"]["ChatRequest"]
    assert chat["properties"]["n"] == {"type": ["integer", "null"], "minimum": 1, "maximum": 3}
    assert answer.headers["content-type"] == "application/json"
