"""Who asks, and how urgent it is."""

import pytest

from service.auth.tenants import PRIORITIES, Priority, Tenant, find, priority
from service.errors import ApiError

ACME = Tenant("acme", weight=2.0, max_in_flight=10, requests_per_minute=3, tokens_per_minute=None)


@pytest.mark.parametrize("highest", PRIORITIES)
@pytest.mark.parametrize("asked", PRIORITIES)
def test_nobody_gets_more_than_their_highest(highest: Priority, asked: Priority) -> None:
    got = priority(Tenant("x", priority=highest), asked)
    assert PRIORITIES.index(got) == max(PRIORITIES.index(highest), PRIORITIES.index(asked))


@pytest.mark.parametrize(("highest", "got"), [("interactive", "default"), ("default", "default"), ("batch", "batch")])
def test_who_does_not_ask_gets_the_default(highest: Priority, got: Priority) -> None:
    assert priority(Tenant("x", priority=highest), None) == got


@pytest.mark.parametrize(("gateways", "in_flight", "requests"), [(1, 10, 3), (2, 5, 1), (3, 3, 1), (100, 1, 1)])
def test_each_gateway_grants_its_part(gateways: int, in_flight: int, requests: int) -> None:
    part = ACME.shared(gateways)
    assert (part.max_in_flight, part.requests_per_minute, part.tokens_per_minute) == (in_flight, requests, None)
    assert (part.id, part.weight) == ("acme", 2.0)


def test_a_tenant_is_found_by_name() -> None:
    assert find({"acme": ACME}, "acme") is ACME


def test_who_gives_no_name_is_the_default_tenant() -> None:
    mine = Tenant("default", weight=0.5)
    assert find({"acme": ACME}, None) == Tenant("default")
    assert find({"acme": ACME, "default": mine}, None) is mine


def test_an_unknown_name_is_refused_without_telling_the_others() -> None:
    with pytest.raises(ApiError) as caught:
        find({"acme": ACME}, "acne")
    assert (caught.value.status, caught.value.code) == (400, "unknown_tenant")
    assert "'acne'" in caught.value.message and "acme" not in caught.value.message
