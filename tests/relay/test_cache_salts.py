"""Every request for a generation reaches the engine with a salt of its tenant, which no client can choose."""

from service.gateway.app import Gateway
from tests.conftest import Start
from tests.support.exchanges import CASES, CHAT, COUNT
from tests.support.gateways import HOUSE, RunningGateway

TENANTS = HOUSE + "\ntenants: {a: {}, b: {}}\n"
A, B = {"x-roundhouse-tenant": "a"}, {"x-roundhouse-tenant": "b"}
SECRET = "a-secret-of-this-test"


async def salts(gateway: RunningGateway, *given: dict[str, str]) -> list[str | None]:
    """The salt that the engine got with each request; `given` are their headers, `salt` the client's own value."""
    for headers in given:
        own = {"cache_salt": headers["salt"]} if "salt" in headers else {}
        response = await gateway.http.post(CHAT.path, json=CHAT.body() | own, headers=headers)
        assert response.status_code == 200
    return [seen.cache_salt for seen in gateway.seen[-len(given) :]]


async def test_each_tenant_has_its_own(start: Start) -> None:
    gateway = await start(TENANTS, cache_secret=SECRET)
    nobody, first, again, second = await salts(gateway, {}, A, A, B)
    assert first == again
    assert None not in (nobody, first, second)
    assert len({nobody, first, second}) == 3
    # A client's own value divides what its tenant has: the salt of another does not lead to what that one has.
    named, other, stolen = await salts(gateway, A | {"salt": "x"}, B | {"salt": "x"}, A | {"salt": str(second)})
    assert len({nobody, first, second, named, other, stolen}) == 6
    assert (await gateway.post(CHAT.path, CHAT.body(cache_salt="x" * 257))).json()["error"]["param"] == "cache_salt"


async def test_every_endpoint_that_runs_a_model_has_it(start: Start) -> None:
    gateway = await start(TENANTS)
    for case in CASES:
        assert (await gateway.http.post(case.path, json=case.body(cache_salt="x"), headers=A)).status_code == 200
    assert {seen.path: bool(seen.cache_salt) for seen in gateway.seen} == {
        case.path: case is not COUNT for case in CASES
    }
    assert not any("cache_salt" in seen.json for seen in gateway.seen if seen.path == COUNT.path)


async def test_a_fleet_can_have_tenants_share_what_is_cached(start: Start) -> None:
    gateway = await start(TENANTS + "prefix_cache: shared\n")
    first, second, own = await salts(gateway, A, B, A | {"salt": "x"})
    assert first is second is None
    assert own


async def test_a_reload_keeps_the_salts(start: Start) -> None:
    gateway = await start(TENANTS)
    before = await salts(gateway, A)
    running: Gateway = gateway.gateway
    running.apply(running._fleet)
    assert await salts(gateway, A) == before
