"""What a request head means: `http_cases` has what a client gets for it."""

import httptools
import pytest

from service.errors import ApiError, ErrorCode
from service.server.head import as_refusal, check_head, is_host, parse_target

HOST = (b"host", b"x")


def reason(version: str, *headers: tuple[bytes, bytes]) -> str | None:
    try:
        check_head(version, list(headers))
    except ApiError as error:
        assert error.code is ErrorCode.INVALID_HTTP
        return error.message
    return None


@pytest.mark.parametrize(
    ("version", "headers"),
    [
        ("1.1", [HOST]),
        ("1.0", []),
        ("1.1", [HOST, (b"accept", b"a"), (b"accept", b"b")]),
        ("1.1", [HOST, (b"transfer-encoding", b" Chunked\t")]),
    ],
)
def test_clear_heads(version: str, headers: list[tuple[bytes, bytes]]) -> None:
    assert reason(version, *headers) is None


def test_of_equal_names_the_last_header_counts() -> None:
    assert check_head("1.1", [HOST, (b"a", b"1"), (b"a", b"2")]) == {b"host": b"x", b"a": b"2"}


@pytest.mark.parametrize(
    ("version", "headers", "named"),
    [
        ("1.1", [], "'Host' header, and this one has none"),
        ("1.1", [HOST, HOST], "'Host' is there more than once"),
        ("1.1", [(b"host", b"a/b")], "'Host' header is not a host name"),
        ("1.0", [(b"host", b"a/b")], "'Host' header is not a host name"),
        ("2.0", [HOST], "HTTP/2.0 is not served"),
        ("0.9", [], "HTTP/0.9 is not served"),
        ("1.0", [(b"transfer-encoding", b"chunked")], "no 'Transfer-Encoding'"),
        ("1.1", [HOST, (b"transfer-encoding", b"gzip, chunked")], "'chunked'"),
        ("1.1", [HOST, (b"content-type", b"a"), (b"content-type", b"b")], "'Content-Type' is there more than once"),
        ("1.1", [HOST, (b"origin", b"a"), (b"origin", b"b")], "'Origin' is there more than once"),
    ],
)
def test_unclear_heads(version: str, headers: list[tuple[bytes, bytes]], named: str) -> None:
    assert named in (reason(version, *headers) or "")


@pytest.mark.parametrize("value", [b"x", b"a-b.c_d:80", b"127.0.0.1", b"[::1]:3000", b"xn--bcher-kva.example:"])
def test_hosts(value: bytes) -> None:
    assert is_host(value)


@pytest.mark.parametrize(
    "value", [b"", b":80", b"a b", b"a/b", b"a?b", b"a#b", b"a@b", b"a:b", b"::1", b"[::1", b"a\n"]
)
def test_no_hosts(value: bytes) -> None:
    assert not is_host(value)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/a%20b?c=d", ("/a b", b"/a%20b", b"c=d", None)),
        (b"/a#b", ("/a", b"/a", b"", None)),
        (b"//a/b", ("//a/b", b"//a/b", b"", None)),
        (b"http://x:80/a?b", ("/a", b"/a", b"b", b"x:80")),
        (b"http://[::1]/", ("/", b"/", b"", b"[::1]")),
        (b"http://u@x", ("/", b"/", b"", b"x")),
        (b"*", ("*", b"*", b"", None)),
    ],
)
def test_targets(target: bytes, expected: object) -> None:
    assert parse_target(target) == expected


@pytest.mark.parametrize("target", [b"a", b"x:80", b"/" + b"x" * 2**16])
def test_no_targets(target: bytes) -> None:
    with pytest.raises(ApiError, match="neither a path nor an absolute URL") as caught:
        parse_target(target)
    assert len(caught.value.message) < 200, "it does not repeat what was sent"


def test_what_is_not_the_clients_fault_is_no_refusal() -> None:
    error = httptools.HttpParserCallbackError()
    error.__context__ = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        as_refusal(error, b"")


@pytest.mark.parametrize(
    ("text", "data", "named"),
    [
        ("Pause on PRI/Upgrade", b"PRI * HTTP/2.0\r\n\r\n", "use HTTP/1.1"),
        ("Invalid method encountered", b"\x16\x03\x01", "looks like TLS"),
        ("Invalid method encountered", b"hello", "Invalid method encountered."),
    ],
)
def test_what_the_parser_refuses_is_explained(text: str, data: bytes, named: str) -> None:
    assert named in as_refusal(httptools.HttpParserError(text), data).message
