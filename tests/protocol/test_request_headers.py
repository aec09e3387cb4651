"""What a client may say in its headers."""

import pytest

from service.errors import ApiError
from service.protocol.request_headers import NONE, READERS, RequestOptions, parse_headers

GOOD = {
    "x-roundhouse-tenant": ("acme", RequestOptions(tenant="acme")),
    "x-roundhouse-priority": ("batch", RequestOptions(priority="batch")),
    "x-roundhouse-session": ("a b", RequestOptions(session="a b")),
    "x-roundhouse-timeout": ("2.5", RequestOptions(timeout=2.5)),
    "x-roundhouse-sse-heartbeat-interval": ("1", RequestOptions(sse_heartbeat_interval=1.0)),
    "idempotency-key": ("8e03978e-40d5", RequestOptions(idempotency_key="8e03978e-40d5")),
}  # fmt: skip
BAD = {
    "x-roundhouse-tenant": ["", "é", "x" * 256, "a\tb"],
    "x-roundhouse-priority": ["", "high", "Interactive"],
    "x-roundhouse-session": ["", "\x7f"],
    "x-roundhouse-timeout": ["", "soon", "0", "-1", "nan", "inf", "1e-9"],
    "x-roundhouse-sse-heartbeat-interval": ["0", "0.01", "inf"],
    "idempotency-key": ["", "x" * 256],
}


def headers(**named: str) -> list[tuple[bytes, bytes]]:
    return [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in named.items()]


def test_every_header_is_tried_here() -> None:
    assert {name.decode() for name in READERS} == GOOD.keys() == BAD.keys()


def test_who_says_nothing_wishes_nothing() -> None:
    assert parse_headers([]) is NONE
    assert parse_headers(headers(authorization="Bearer x", user_agent="curl", content_type="application/json")) is NONE


@pytest.mark.parametrize(("name", "value", "wishes"), [(name, *row) for name, row in GOOD.items()])
def test_a_wish(name: str, value: str, wishes: RequestOptions) -> None:
    assert parse_headers([*headers(host="x"), (name.encode(), f" {value} ".encode())]) == wishes


def test_all_of_them_together() -> None:
    every = parse_headers([(name.encode(), value.encode()) for name, (value, _) in GOOD.items()])
    assert None not in vars(every).values()


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_wrong_one_is_named(name: str, value: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_headers([(name.encode(), value.encode("latin-1"))])
    assert (caught.value.status, caught.value.code) == (400, "invalid_header")
    assert f"'{name}'" in caught.value.message


def test_an_unknown_one_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ApiError) as caught:
        parse_headers(headers(x_roundhouse_tenent="acme"))
    assert caught.value.code == "unknown_header"
    assert "x-roundhouse-tenent" in caught.value.message and "x-roundhouse-tenant" in caught.value.message
