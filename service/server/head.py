"""The head of a request: what its target means, and what RFC 9112 has a server refuse before it is a request. Pure."""

import re
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import httptools

from service.errors import ApiError, ErrorCode, openai_body
from service.server.asgi import DERIVED, HEADERS_BY_NAME, Headers

# Headers of which a request has one at most: two of them mean different things to different programs on its way.
SINGLE = (
    b"host", b"content-length", b"transfer-encoding", b"content-type", b"content-encoding", b"origin",
    b"sec-fetch-site", b"authorization", b"x-api-key",
)  # fmt: skip
# A name, an IPv4 or a bracketed IPv6 address, with or without a port.
HOST = re.compile(rb"([A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(:\d*)?\Z")
MAX_CACHED_TARGET = 128  # bytes; longer targets are parsed each time
NAMED = ("HTTP/1.1", "HTTP/1.0")


def scope_of(version: str, method: str, target: bytes, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    """ASGI's scope of a request with this head, with those keys that the gateway reads; raises ApiError.

    An authority in the target takes the place of the value of `Host` in `headers`.
    """
    named = check_head(version, headers)
    path, raw, query, authority = (parse_target_cached if len(target) < MAX_CACHED_TARGET else parse_target)(target)
    if authority is not None:  # it counts instead of the Host header (RFC 9112, 3.2.2)
        headers[:] = ((name, authority if name == b"host" else value) for name, value in headers)
        named[b"host"] = authority
    return {
        "type": "http",
        "http_version": version,
        "method": method,
        "path": path,
        "raw_path": raw,
        "query_string": query,
        "headers": headers,
        HEADERS_BY_NAME: named,
        DERIVED: {},
    }


def check_head(version: str, headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers by name, of equal ones the last. Raises ApiError if the meaning of the head is not clear.

    `version` is `1.1` or another; names of `headers` are in lower case. What the parser refuses is not checked again.
    """
    named = dict(headers)
    if len(named) != len(headers):
        _refuse_duplicates(headers)
    host = named.get(b"host")
    if host is None:
        if version == "1.1":
            raise invalid("An HTTP/1.1 request has a 'Host' header, and this one has none")
    elif not is_host(host):
        raise invalid("The 'Host' header is not a host name with an optional port")
    if version != "1.1" and version != "1.0":
        raise invalid(f"HTTP/{version} is not served; use {' or '.join(NAMED)}")
    if b"transfer-encoding" in named:
        if version == "1.0":
            raise invalid("HTTP/1.0 has no 'Transfer-Encoding'")
        if named[b"transfer-encoding"].strip(b" \t").lower() != b"chunked":
            raise invalid("The only 'Transfer-Encoding' that is served is 'chunked'")
    return named


def _refuse_duplicates(headers: list[tuple[bytes, bytes]]) -> None:
    names = [name for name, _ in headers]
    for name in SINGLE:
        if names.count(name) > 1:
            raise invalid(f"The header '{name.decode().title()}' is there more than once")


@lru_cache
def is_host(value: bytes) -> bool:
    """Whether it can be the value of a `Host` header; an empty one cannot, since every URL of ours has a host."""
    return HOST.match(value) is not None


def invalid(reason: str) -> ApiError:
    """What is no valid request, and why; `reason` is a sentence without its full stop."""
    return ApiError(ErrorCode.INVALID_HTTP, f"This is not a valid HTTP/1.1 request. {reason}.")


def as_refusal(error: httptools.HttpParserError, data: bytes) -> ApiError:
    """What the client is told of a parser's error in `data`; raises what is not the client's fault."""
    if isinstance(error, httptools.HttpParserCallbackError) and error.__context__:
        if isinstance(error.__context__, ApiError):
            return error.__context__
        raise error.__context__
    if data.startswith(b"\x16\x03"):
        return invalid("It looks like TLS, which is not served here; use http:// or a proxy for TLS")
    if "PRI" in str(error):
        return invalid("HTTP/2 is not served; use HTTP/1.1")
    return invalid(str(error))


def parse_target(target: bytes) -> tuple[str, bytes, bytes, bytes | None]:
    """The decoded path, the raw path, the query, and the authority that replaces the `Host` header, if it has one.

    A target is a path, an absolute URL, or `*`. Raises ApiError for any other.
    """
    if target == b"*":
        return "*", target, b"", None
    try:
        parts = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        raise invalid("The target is neither a path nor an absolute URL of up to 65535 bytes") from None
    raw = parts.path or b"/"
    path = raw.decode("ascii")
    authority = None
    if parts.host is not None:
        host = b"[%b]" % parts.host if b":" in parts.host else parts.host
        authority = host if parts.port is None else b"%b:%d" % (host, parts.port)
    return unquote(path) if "%" in path else path, raw, parts.query or b"", authority


parse_target_cached = lru_cache(parse_target)


def error_response(status_line: bytes, error: ApiError, headers: Headers) -> bytes:
    """A complete response, head and body, for what is not a request; it closes the connection."""
    body = openai_body(error)
    fields = (
        *headers, (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    )  # fmt: skip
    return b"\r\n".join((status_line, *(b"%b: %b" % field for field in fields), b"", body))


def too_large(limit: int) -> ApiError:
    """The error of a head that is larger than `limit` bytes."""
    message = f"The head of the request, or of a chunk of it, is larger than {limit} bytes."
    return ApiError(ErrorCode.HEADERS_TOO_LARGE, message)
