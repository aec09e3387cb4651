"""The options that a client sets in request headers."""

from dataclasses import fields

import pytest

from service.errors import ApiError
from service.protocol.request_headers import NO_OPTIONS, PARSERS, RequestOptions, parse_headers

GOOD = {
    "x-roundhouse-tenant": ("acme", RequestOptions(tenant="acme")),
    "x-roundhouse-priority": ("batch", RequestOptions(priority="batch")),
    "x-roundhouse-session": ("a b", RequestOptions(session="a b")),
    "x-roundhouse-timeout": ("2.5", RequestOptions(timeout=2.5)),
    "x-roundhouse-sse-heartbeat-interval": ("1", RequestOptions(sse_heartbeat_interval=1.0)),
    "x-roundhouse-fallback": ("deny", RequestOptions(fallback=False)),
    "idempotency-key": ("8e03978e-40d5", RequestOptions(idempotency_key="8e03978e-40d5")),
}  # fmt: skip
BAD = {
    "x-roundhouse-tenant": ["", "é", "x" * 256, "a\tb"],
    "x-roundhouse-priority": ["", "high", "Interactive"],
    "x-roundhouse-session": ["", "\x7f"],
    "x-roundhouse-timeout": ["", "soon", "0", "-1", "nan", "inf", "1e-9"],
    "x-roundhouse-sse-heartbeat-interval": ["0", "0.01", "inf"],
    "x-roundhouse-fallback": ["", "yes", "Allow", "deny, allow"],
    "idempotency-key": ["", "x" * 256],
}


def headers(**named: str) -> list[tuple[bytes, bytes]]:
    return [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in named.items()]


def test_the_cases_cover_every_header() -> None:
    assert {name.decode() for name in PARSERS} == GOOD.keys() == BAD.keys()


def test_without_headers_there_are_no_options() -> None:
    assert parse_headers([]) is NO_OPTIONS
    assert (
        parse_headers(headers(authorization="Bearer x", user_agent="curl", content_type="application/json"))
        is NO_OPTIONS
    )


@pytest.mark.parametrize(("name", "value", "options"), [(name, *row) for name, row in GOOD.items()])
def test_each_header_sets_its_option(name: str, value: str, options: RequestOptions) -> None:
    assert parse_headers([*headers(host="x"), (name.encode(), f" {value} ".encode())]) == options


def test_all_headers_together() -> None:
    options = parse_headers([(name.encode(), value.encode()) for name, (value, _) in GOOD.items()])
    unset = [one.name for one in fields(options) if getattr(options, one.name) is None]
    assert unset == ["client_session", "client_agent"]


@pytest.mark.parametrize(
    ("sent", "session", "conversation"),
    [
        ({"session_id": "s"}, "s", "s"),
        ({"x_session_affinity": "a", "session_id": "s"}, "a", "a"),
        ({"session_id": "s", "x_session_id": " x "}, "x", "x"),
        ({"x_claude_code_session_id": "c"}, "c", "c"),
        ({"x_claude_code_session_id": "c", "x_claude_code_agent_id": "7"}, "c", "c 7"),
        ({"x_claude_code_session_id": "c", "x_claude_code_agent_id": "7" * 256}, "c", "c"),
        ({"x_claude_code_agent_id": "7"}, None, None),
        ({"x_correlation_id": "r"}, None, None),
        ({"session_id": "x" * 256}, None, None),
        ({"session_id": "\x01"}, None, None),
        ({"session_id": ""}, None, None),
    ],
)
def test_programs_name_their_sessions_and_conversations(
    sent: dict[str, str], session: str | None, conversation: str | None
) -> None:
    options = parse_headers(headers(**sent))
    assert (options.client_session, options.conversation) == (session, conversation)
    assert parse_headers(headers(**sent, x_roundhouse_session="s")).session == "s"


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_an_invalid_value_is_rejected_and_the_header_named(name: str, value: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_headers([(name.encode(), value.encode("latin-1"))])
    assert (caught.value.status, caught.value.code) == (400, "invalid_header")
    assert f"'{name}'" in caught.value.message


@pytest.mark.parametrize("other", ["the same", "another"])
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (value, _) in GOOD.items()])
def test_a_header_that_was_sent_twice_is_rejected_and_named(name: str, value: str, other: str) -> None:
    second = value if other == "the same" else "interactive" if "priority" in name else "7"
    with pytest.raises(ApiError) as caught:
        parse_headers([(name.encode(), value.encode()), (b"host", b"x"), (name.encode(), second.encode())])
    assert (caught.value.status, caught.value.code) == (400, "invalid_header")
    assert caught.value.message == f"The header '{name}' was sent more than once; send it once."


def test_an_unknown_header_is_rejected_and_the_known_ones_listed() -> None:
    with pytest.raises(ApiError) as caught:
        parse_headers(headers(x_roundhouse_tenent="acme"))
    assert caught.value.code == "unknown_header"
    assert "x-roundhouse-tenent" in caught.value.message and "x-roundhouse-tenant" in caught.value.message
