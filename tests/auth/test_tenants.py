"""Tenants: lookup by name, priorities, and limits divided among gateways."""

import pytest

from service.auth.tenants import PRIORITIES, Priority, Tenant, effective_priority, find_tenant
from service.errors import ApiError

ACME = Tenant("acme", weight=2.0, max_in_flight=10, requests_per_minute=3, tokens_per_minute=None)


@pytest.mark.parametrize("highest", PRIORITIES)
@pytest.mark.parametrize("requested", PRIORITIES)
def test_priority_is_capped_at_the_tenants_own(highest: Priority, requested: Priority) -> None:
    effective = effective_priority(Tenant("x", priority=highest), requested)
    assert PRIORITIES.index(effective) == max(PRIORITIES.index(highest), PRIORITIES.index(requested))


@pytest.mark.parametrize(
    ("highest", "expected"), [("interactive", "default"), ("default", "default"), ("batch", "batch")]
)
def test_priority_without_a_request_is_default(highest: Priority, expected: Priority) -> None:
    assert effective_priority(Tenant("x", priority=highest), None) == expected


@pytest.mark.parametrize(("gateways", "in_flight", "requests"), [(1, 10, 3), (2, 5, 1), (3, 3, 1), (100, 1, 1)])
def test_limits_are_divided_among_gateways(gateways: int, in_flight: int, requests: int) -> None:
    share = ACME.per_gateway(gateways)
    assert (share.max_in_flight, share.requests_per_minute, share.tokens_per_minute) == (in_flight, requests, None)
    assert (share.id, share.weight) == ("acme", 2.0)


def test_tenant_is_found_by_name() -> None:
    assert find_tenant({"acme": ACME}, "acme") is ACME


def test_no_name_gives_the_default_tenant() -> None:
    configured = Tenant("default", weight=0.5)
    assert find_tenant({"acme": ACME}, None) == Tenant("default")
    assert find_tenant({"acme": ACME, "default": configured}, None) is configured


def test_unknown_tenant_gets_400_without_naming_others() -> None:
    with pytest.raises(ApiError) as caught:
        find_tenant({"acme": ACME}, "acne")
    assert (caught.value.status, caught.value.code) == (400, "unknown_tenant")
    assert "'acne'" in caught.value.message and "acme" not in caught.value.message
