"""API keys: whose request it is, and what its key allows."""

from typing import Any

import pytest

from service.auth.keys import ALL_GROUPS, ANYONE, Caller, Key, authenticate, caller_of, check_scope, digest
from service.auth.tenants import Tenant
from service.errors import ApiError, ErrorCode

SECRET = b"rh_0123456789abcdef"
ACME = Key("acme-1", "acme", expires=1000.0)
KEYS = {digest(SECRET): ACME}
TENANTS = {"acme": Tenant("acme", weight=2.0), "other": Tenant("other")}


def code_of(call: Any, *arguments: Any) -> str:
    with pytest.raises(ApiError) as caught:
        call(*arguments)
    assert SECRET.decode() not in caught.value.message
    return caught.value.code


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": b"Bearer " + SECRET},
        {b"authorization": b"bearer  " + SECRET + b" "},
        {b"x-api-key": SECRET},
        {b"authorization": b"Bearer none", b"x-api-key": SECRET},
        {b"authorization": b"Bearer " + SECRET, b"x-api-key": b"none"},
        {b"authorization": b"Basic dTpw", b"x-api-key": SECRET},
    ],
)
def test_a_key_is_taken_from_either_header(headers: dict[bytes, bytes]) -> None:
    assert authenticate(KEYS, headers, 999.9) is ACME


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"authorization": SECRET},
        {b"authorization": b"Basic " + SECRET},
        {b"authorization": b"Bearer"},
        {b"authorization": b"Bearer "},
        {b"authorization": b"Bearer " + SECRET[:-1]},
        {b"authorization": b"Bearer " + SECRET + b"0"},
        {b"authorization": b"Bearer " + SECRET.upper()},
        {b"authorization": b"Bearer " + digest(SECRET).hex().encode()},
        {b"x-api-key": b""},
        {b"x-api-key": b"\xff\x00" * 2000},
        {b"x-api-key": b"Bearer " + SECRET},
    ],
)
def test_anything_else_is_the_same_401(headers: dict[bytes, bytes]) -> None:
    messages = set()
    for given, now in ((headers, 0.0), ({b"x-api-key": SECRET}, 1000.0)):  # one that has expired
        with pytest.raises(ApiError) as caught:
            authenticate(KEYS, given, now)
        assert caught.value.code is ErrorCode.INVALID_API_KEY
        messages.add(caught.value.message)
    assert len(messages) == 1


def test_without_keys_anyone_may_do_everything_and_with_none_left_nobody() -> None:
    assert authenticate(None, {}, 0.0) is ANYONE
    assert ANYONE.endpoints == ALL_GROUPS and ANYONE.models is None
    assert code_of(authenticate, {}, {b"x-api-key": SECRET}, 0.0) == "invalid_api_key"


def test_a_key_is_for_models_unless_it_says_otherwise() -> None:
    for group in ("inference", "models"):
        check_scope(ACME, group)
    assert code_of(check_scope, ACME, "metrics") == "insufficient_scope"
    scraper = Key("scraper", endpoints=frozenset({"metrics"}))
    check_scope(scraper, "metrics")
    assert code_of(check_scope, scraper, "inference") == "insufficient_scope"


@pytest.mark.parametrize(
    ("key", "named", "found"),
    [
        (Key("k", "acme"), None, TENANTS["acme"]),
        (Key("k", "acme"), "acme", TENANTS["acme"]),
        (Key("k", "acme"), "other", "insufficient_scope"),
        (Key("k", "unlisted"), None, Tenant("unlisted")),
        (Key("k", "acme", proxy=True), "other", TENANTS["other"]),
        (Key("k", "acme", proxy=True), None, TENANTS["acme"]),
        (Key("k", "acme", proxy=True), "unlisted", "unknown_tenant"),
        (ANYONE, None, Tenant("default")),
        (ANYONE, "other", TENANTS["other"]),
        (ANYONE, "unlisted", "unknown_tenant"),
    ],
)
def test_the_tenant_is_the_keys_unless_a_proxy_names_one(key: Key, named: str | None, found: Tenant | str) -> None:
    if isinstance(found, str):
        assert code_of(caller_of, key, named, TENANTS) == found
    else:
        assert caller_of(key, named, TENANTS) == Caller(found)


def test_a_token_that_was_verified_is_known_until_it_expires() -> None:
    user = Key("user-1", "acme", expires=1000.0)
    known = {digest(b"a.b.c"): user}.get
    headers = {b"authorization": b"Bearer a.b.c"}
    assert authenticate({}, headers, 999.9, known) is user
    assert code_of(authenticate, {}, headers, 1000.0, known) == "invalid_api_key"
    assert code_of(authenticate, {}, headers, 999.9) == "invalid_api_key"
    assert authenticate(KEYS, {**headers, b"x-api-key": SECRET}, 1.0, known) is user


def test_who_has_no_tenant_may_do_nothing_and_is_told_why() -> None:
    for group in ALL_GROUPS:
        with pytest.raises(ApiError, match="no group of its user") as caught:
            check_scope(Key("user-1", "", endpoints=frozenset()), group)
        assert caught.value.code is ErrorCode.INSUFFICIENT_SCOPE
