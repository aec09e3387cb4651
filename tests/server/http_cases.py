"""Requests on which HTTP servers differ, and what this one answers; printed, they are docs/http.md.

They are the publicly known cases of request smuggling and of RFC 9112. To regenerate the document:
python -m tests.server.http_cases > docs/http.md
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

BODY = b'{"model":"pebble-chat"}'
HOST, JSON = b"Host: test", b"Content-Type: application/json"
CHUNKED = b"Transfer-Encoding: chunked"
SIZED = b"Content-Length: %d" % len(BODY)
# A request that is hidden in another's body, or behind it: its path is that of no other case.
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: test\r\n\r\n"


def head(first: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join((first, *lines, b"", b""))


def get(*lines: bytes, target: bytes = b"/v1/models", version: bytes = b"HTTP/1.1") -> bytes:
    return head(b"GET %b %b" % (target, version), *lines)


def post(*lines: bytes, body: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    return head(b"POST /v1/route " + version, HOST, JSON, *lines) + body


def chunked(body: bytes) -> bytes:
    """A POST whose chunked body is as it stands."""
    return post(CHUNKED, body=body)


ONE_CHUNK = b"%x\r\n%b\r\n" % (len(BODY), BODY)
END = b"0\r\n\r\n"


@dataclass(frozen=True)
class Case:
    """What is sent, in one piece or several, and the statuses of the responses to it.

    `stays_open` says that the connection then serves the next request. `section` is one of RFC 9112 unless it names
    another.
    """

    group: str
    name: str
    section: str
    wanted: str
    sent: tuple[bytes, ...]
    statuses: tuple[int, ...]
    stays_open: bool = False


def cases() -> Iterator[Case]:
    """All of them, in the order of the page."""
    for group, rows in GROUPS.items():
        for name, section, wanted, sent, *expected in rows:
            pieces = sent if isinstance(sent, tuple) else (sent,)
            statuses = tuple(one for one in expected if one != OPEN)
            yield Case(group, name, section, wanted, pieces, statuses, OPEN in expected)


OPEN = "open"
REFUSE, IGNORE = "400, then close", "ignore"
GROUPS: dict[str, tuple[tuple[Any, ...], ...]] = {}
GROUPS["Request line and target"] = (
    ("an ordinary request", "3", "serve", get(HOST), 200, OPEN),
    ("empty lines before it", "2.2", "skip at least one", b"\r\n\r\n" + get(HOST), 200, OPEN),
    ("bare LF at the ends of lines", "2.2", "may accept or refuse", b"GET /v1/models HTTP/1.1\nHost: test\n\n", 400),
    (
        "a space before the first header",
        "2.2",
        "refuse, or skip the line",
        head(b"GET / HTTP/1.1", b" X: y", HOST),
        400,
    ),
    ("no method", "3", REFUSE, b"hello\r\n\r\n", 400),
    ("a method in lower case", "3.1", "501 or 400: it is another method", head(b"get /v1/models HTTP/1.1", HOST), 400),
    ("an unknown method", "3.1", "501 or 400", head(b"BREW /v1/models HTTP/1.1", HOST), 400),
    ("a tab instead of a space", "3", "may refuse", head(b"GET\t/v1/models HTTP/1.1", HOST), 400),
    ("a space in the target", "3.2", REFUSE, get(HOST, target=b"/v1/mo dels"), 400),
    ("raw UTF-8 in the target", "3.2", REFUSE, get(HOST, target="/v1/modèle".encode()), 400),
    ("NUL in the target", "3.2", REFUSE, get(HOST, target=b"/v1/\0models"), 400),
    ("an absolute URL", "3.2.2", "serve", get(HOST, target=b"http://test/v1/models"), 200, OPEN),
    ("an absolute URL without a path", "3.2.2", "the path is /", get(HOST, target=b"http://test"), 200, OPEN),
    (
        "an absolute URL of another host",
        "3.2.2",
        "the URL's host counts",
        get(HOST, target=b"http://a/v1/models"),
        200,
        OPEN,
    ),
    ("a relative path", "3.2", REFUSE, get(HOST, target=b"v1/models"), 400),
    ("CONNECT", "3.2.3", "an origin server may refuse", head(b"CONNECT test:80 HTTP/1.1", HOST), 400),
    ("OPTIONS *", "3.2.4", "answer for the server", head(b"OPTIONS * HTTP/1.1", HOST), 404, OPEN),
    ("a request of HTTP/0.9", "A", "may refuse", b"GET /v1/models HTTP/0.9\r\n\r\n", 400),
    ("HTTP/2.0 in a request line", "2.3", "505 or 400", get(HOST, version=b"HTTP/2.0"), 400),
    ("HTTP/1.2", "2.3", "serve as 1.1, or 505", get(HOST, version=b"HTTP/1.2"), 400),
    ("the preface of HTTP/2", "RFC 9113, 3.4", "an error that is no HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ("a TLS handshake", "", "an error or a close", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ("a target of 70,000 bytes", "3", "414 or 400", get(HOST, target=b"/" + b"x" * 70_000), 400),
    (
        "a head of more than 1 MB",
        "RFC 6585, 5",
        "431",
        get(HOST, *[b"X-%d: %b" % (n, b"y" * 2**14) for n in range(80)]),
        431,
    ),
)
GROUPS["Host"] = (
    ("none", "3.2", REFUSE, get(), 400),
    ("two", "3.2", REFUSE, get(HOST, b"Host: other"), 400),
    ("two that are equal", "3.2", REFUSE, get(HOST, HOST), 400),
    ("empty", "3.2", "400 where the target's authority is not empty", get(b"Host:"), 400),
    ("with a path", "3.2", REFUSE, get(b"Host: test/health?"), 400),
    ("with a user", "3.2", REFUSE, get(b"Host: a@test"), 400),
    ("a list", "3.2", REFUSE, get(b"Host: a b"), 400),
    ("with a port", "3.2", "serve", get(b"Host: test:3000"), 200, OPEN),
    ("an IPv6 address", "3.2", "serve", get(b"Host: [::1]:3000"), 200, OPEN),
    ("none in HTTP/1.0", "3.2", "serve", get(version=b"HTTP/1.0"), 200),
)
GROUPS["Header fields"] = (
    ("a space before the colon", "5.1", REFUSE, get(HOST, b"X : y"), 400),
    ("a folded line", "5.2", REFUSE, get(HOST, b"X: y\r\n z"), 400),
    ("no colon", "5", REFUSE, get(HOST, b"X"), 400),
    ("no name", "5", REFUSE, get(HOST, b": y"), 400),
    ("NUL in a value", "RFC 9110, 5.5", "400 or a space in its place", get(HOST, b"X: a\0b"), 400),
    ("NUL in a name", "RFC 9110, 5.5", REFUSE, get(HOST, b"X\0: y"), 400),
    ("another control character", "RFC 9110, 5.5", "may refuse", get(HOST, b"X: a\x01b"), 400),
    ("bare CR in a value", "2.2", "refuse, or a space in its place", get(HOST, b"X: a\rY: b"), 400),
    ("bare LF in a value", "2.2", "a line of its own, or refuse", get(HOST, b"X: a\nY: b"), 400),
    ("101 fields", "RFC 6585, 5", "may answer 431", get(HOST, *[b"X-%d: y" % n for n in range(100)]), 431, OPEN),
    ("40 KB of them", "RFC 6585, 5", "may answer 431", get(HOST, b"X: " + b"y" * 40_000), 431, OPEN),
)
GROUPS["Content-Length"] = (
    ("an ordinary one", "6.2", "serve", post(SIZED, body=BODY), 200, OPEN),
    ("the body in a later packet", "6.2", "serve", (post(SIZED), BODY), 200, OPEN),
    ("two that differ", "6.3", REFUSE, post(SIZED, b"Content-Length: 0", body=HIDDEN), 400),
    ("two that are equal", "6.3", "400, or one of them", post(SIZED, SIZED, body=BODY), 400),
    ("a list", "6.3", "400, or one of equal ones", post(SIZED + b", 0", body=HIDDEN), 400),
    ("a list of equal ones", "6.3", "400, or one of them", post(b"Content-Length: 23, 23", body=BODY), 400),
    ("with a sign", "6.2", REFUSE, post(b"Content-Length: +23", body=BODY), 400),
    ("negative", "6.2", REFUSE, post(b"Content-Length: -1", body=HIDDEN), 400),
    ("hexadecimal", "6.2", REFUSE, post(b"Content-Length: 0x17", body=BODY), 400),
    ("empty", "6.2", REFUSE, post(b"Content-Length:", body=HIDDEN), 400),
    ("two numbers", "6.2", REFUSE, post(b"Content-Length: 2 3", body=HIDDEN), 400),
    ("with spaces around", "RFC 9110, 5.5", "serve", post(b"Content-Length:  23 ", body=BODY), 200, OPEN),
    ("with leading zeros", "6.2", "serve", post(b"Content-Length: 00023", body=BODY), 200, OPEN),
    ("beyond 64 bits", "6.2", REFUSE, post(b"Content-Length: 18446744073709551639", body=BODY), 400),
    ("with a vertical tab", "5.1", REFUSE, post(b"Content-Length:\x0b23", body=BODY), 400),
    ("an underscore in its name", "RFC 9110, 5.1", "another field", post(b"Content_Length: 23"), 400, OPEN),
    ("beyond what is accepted", "RFC 9110, 15.5.14", "413", post(b"Content-Length: 99999999"), 413),
    ("a body of GET", "RFC 9110, 9.3.1", "read it", get(HOST, b"Content-Length: 36") + HIDDEN[:36], 200, OPEN),
)
GROUPS["Transfer-Encoding"] = (
    ("chunked", "7.1", "serve", chunked(ONE_CHUNK + END), 200, OPEN),
    ("in capital letters", "7", "serve", post(b"TRANSFER-ENCODING: CHUNKED", body=ONE_CHUNK + END), 200, OPEN),
    (
        "and Content-Length (CL.TE)",
        "6.1",
        "refuse, or take the chunks and close",
        post(b"Content-Length: 5", CHUNKED, body=END + HIDDEN),
        400,
    ),
    (
        "and Content-Length (TE.CL)",
        "6.1",
        "refuse, or take the chunks and close",
        post(CHUNKED, b"Content-Length: 5", body=END + HIDDEN),
        400,
    ),
    ("a space before the colon (TE.TE)", "5.1", REFUSE, post(b"Transfer-Encoding : chunked", SIZED, body=BODY), 400),
    ("twice (TE.TE)", "6.1", REFUSE, post(CHUNKED, CHUNKED, body=END + HIDDEN), 400),
    (
        "chunked and identity (TE.TE)",
        "6.3",
        REFUSE,
        post(CHUNKED, b"Transfer-Encoding: identity", body=END + HIDDEN),
        400,
    ),
    (
        "identity and chunked (TE.TE)",
        "6.1",
        "501 or 400",
        post(b"Transfer-Encoding: identity", CHUNKED, body=END + HIDDEN),
        400,
    ),
    ("xchunked", "6.3", REFUSE, post(b"Transfer-Encoding: xchunked", body=END + HIDDEN), 400),
    ("with a vertical tab", "5.1", REFUSE, post(b"Transfer-Encoding:\x0bchunked", body=END + HIDDEN), 400),
    ("behind a tab", "RFC 9110, 5.5", "serve", post(b"Transfer-Encoding:\tchunked", body=ONE_CHUNK + END), 200, OPEN),
    ("before a tab", "RFC 9110, 5.5", "serve", post(b"Transfer-Encoding: chunked\t", body=ONE_CHUNK + END), 400),
    ("in quotes", "7", REFUSE, post(b'Transfer-Encoding: "chunked"', body=END + HIDDEN), 400),
    ("on a folded line", "5.2", REFUSE, post(b"Transfer-Encoding:\r\n chunked", body=END + HIDDEN), 400),
    ("behind a bare CR", "2.2", REFUSE, post(b"X: y\rTransfer-Encoding: chunked", body=END + HIDDEN), 400),
    (
        "behind a bare LF",
        "2.2",
        "a line of its own, or refuse",
        post(b"X: y\nTransfer-Encoding: chunked", body=END + HIDDEN),
        400,
    ),
    ("with a parameter", "7", REFUSE, post(b"Transfer-Encoding: chunked;q=1", body=END + HIDDEN), 400),
    ("chunked, then gzip", "6.3", REFUSE, post(b"Transfer-Encoding: chunked, gzip", body=END + HIDDEN), 400),
    ("gzip, then chunked", "6.1", "501 or 400", post(b"Transfer-Encoding: gzip, chunked", body=END + HIDDEN), 400),
    ("chunked twice in a list", "7.1", REFUSE, post(b"Transfer-Encoding: chunked, chunked", body=END + HIDDEN), 400),
    (
        "an empty member of a list",
        "RFC 9110, 5.6.1",
        "ignore it, or refuse",
        post(b"Transfer-Encoding: , chunked", body=END + HIDDEN),
        400,
    ),
    ("empty", "7", REFUSE, post(b"Transfer-Encoding:", body=HIDDEN), 400),
    ("in HTTP/1.0", "6.1", "close at least", post(CHUNKED, body=END + HIDDEN, version=b"HTTP/1.0"), 400),
)
GROUPS["Chunks"] = (
    ("a piece of a chunk in a later packet", "7.1", "serve", (chunked(ONE_CHUNK[:9]), ONE_CHUNK[9:] + END), 200, OPEN),
    ("leading zeros in a size", "7.1", "serve", chunked(b"000" + ONE_CHUNK + b"000\r\n\r\n"), 200, OPEN),
    ("an extension", "7.1.1", "ignore it", chunked(b"17;a=b\r\n" + BODY + b"\r\n" + END), 200, OPEN),
    ("a quoted extension", "7.1.1", "ignore it", chunked(b'17;a="b"\r\n' + BODY + b"\r\n" + END), 200, OPEN),
    ("trailers", "7.1.2", "may ignore them", chunked(ONE_CHUNK + b"0\r\nX: y\r\n\r\n"), 200, OPEN),
    ("a size with 0x", "7.1", REFUSE, chunked(b"0x17\r\n" + BODY + b"\r\n" + END + HIDDEN), 400),
    ("a negative size", "7.1", REFUSE, chunked(b"-17\r\n" + BODY + b"\r\n" + END + HIDDEN), 400),
    ("a size with a sign", "7.1", REFUSE, chunked(b"+17\r\n" + BODY + b"\r\n" + END + HIDDEN), 400),
    ("a size with an underscore", "7.1", REFUSE, chunked(b"1_7\r\n" + BODY + b"\r\n" + END + HIDDEN), 400),
    ("a size beyond 64 bits", "7.1", REFUSE, chunked(b"10000000000000017\r\n" + BODY + b"\r\n" + END + HIDDEN), 400),
    ("no size", "7.1", REFUSE, chunked(b"\r\n" + BODY + b"\r\n" + END + HIDDEN), 400),
    ("a space behind a size", "7.1", "refuse, or ignore it", chunked(b"17 \r\n" + BODY + b"\r\n" + END), 400),
    ("a space before an extension", "7.1.1", "refuse, or ignore it", chunked(b"17 ;a\r\n" + BODY + b"\r\n" + END), 400),
    ("bare LF behind a size", "7.1", REFUSE, chunked(b"17\n" + BODY + b"\r\n" + END + HIDDEN), 400),
    ("bare LF in an extension", "7.1.1", REFUSE, chunked(b"17;a\n" + BODY + b"\r\n" + END + HIDDEN), 400),
    ("bare CR in an extension", "7.1.1", REFUSE, chunked(b"17;a\rb\r\n" + BODY + b"\r\n" + END + HIDDEN), 400),
    ("a line break in a quoted extension", "7.1.1", REFUSE, chunked(b'17;a="\r\n"\r\n' + BODY + b"\r\n" + END), 400),
    ("NUL in an extension", "7.1.1", REFUSE, chunked(b"17;\0\r\n" + BODY + b"\r\n" + END), 400),
    (
        "an endless extension of a later chunk",
        "7.1.1",
        "limit it",
        chunked(b"1\r\n \r\n1;" + b"a" * (2**20 + 2**19)),
        431,
    ),
    ("an endless extension", "7.1.1", "limit it", chunked(b"17;" + b"a" * (2**20 + 2**19)), 431),
    ("bare LF behind the data", "7.1", REFUSE, chunked(b"17\r\n" + BODY + b"\n" + END + HIDDEN), 400),
    ("no line break behind the data", "7.1", REFUSE, chunked(b"17\r\n" + BODY + END + HIDDEN), 400),
    ("more data than the size says", "7.1", REFUSE, chunked(b"16\r\n" + BODY + b"\r\n" + END + HIDDEN), 400),
    (
        "Content-Length among the trailers",
        "6.5",
        "ignore it, or refuse",
        chunked(ONE_CHUNK + b"0\r\nContent-Length: 9\r\n\r\n"),
        400,
    ),
    ("an invalid trailer", "7.1.2", REFUSE, chunked(ONE_CHUNK + b"0\r\nX : y\r\n\r\n" + HIDDEN), 400),
    ("a folded trailer", "5.2", REFUSE, chunked(ONE_CHUNK + b"0\r\nX: y\r\n z\r\n\r\n" + HIDDEN), 400),
)
H2C, OFFERED = b"Upgrade: h2c", b"Connection: Upgrade"
GROUPS["Upgrade and Expect"] = (
    (
        "h2c offered with a body",
        "RFC 9110, 7.8",
        "may ignore the offer",
        post(OFFERED, H2C, b"Content-Length: 36", body=HIDDEN[:36]),
        400,
        OPEN,
    ),
    (
        "the body in a later packet",
        "RFC 9110, 7.8",
        "may ignore the offer",
        (post(OFFERED, H2C, SIZED), BODY),
        200,
        OPEN,
    ),
    (
        "with a chunked body",
        "RFC 9110, 7.8",
        "may ignore the offer",
        (post(OFFERED, H2C, CHUNKED), ONE_CHUNK + END),
        200,
        OPEN,
    ),
    (
        "with HTTP2-Settings",
        "RFC 9113, 3.1",
        "may ignore the offer",
        post(b"Connection: Upgrade, HTTP2-Settings", H2C, b"HTTP2-Settings: AAMAAABk", SIZED, body=BODY),
        200,
        OPEN,
    ),
    (
        "websocket offered by a GET",
        "RFC 9110, 7.8",
        "may ignore the offer",
        get(HOST, OFFERED, b"Upgrade: websocket"),
        200,
        OPEN,
    ),
    (
        "websocket offered by a POST",
        "RFC 9110, 7.8",
        "may ignore the offer",
        post(OFFERED, b"Upgrade: websocket", SIZED, body=BODY),
        200,
        OPEN,
    ),
    (
        "two offers, one behind the other",
        "RFC 9110, 7.8",
        "may ignore both",
        get(HOST, OFFERED, H2C) * 2,
        200,
        200,
        OPEN,
    ),
    (
        "an offer and an invalid length",
        "6.3",
        REFUSE,
        post(OFFERED, H2C, SIZED, b"Content-Length: 0", body=HIDDEN),
        400,
    ),
    (
        "an offer and both framings",
        "6.1",
        "refuse, or take the chunks and close",
        post(OFFERED, H2C, SIZED, CHUNKED, body=END + HIDDEN),
        400,
    ),
    ("an offer without Host", "3.2", REFUSE, head(b"GET /v1/models HTTP/1.1", OFFERED, H2C) + HIDDEN, 400),
    (
        "an offer, and no request behind it",
        "9.3.2",
        "answer both, then close",
        get(HOST, OFFERED, H2C) + b"hello\r\n\r\n",
        200,
        400,
    ),
    ("100 offers at once", "9.3.2", "answer in order", get(HOST, OFFERED, H2C) * 100, *[200] * 100, OPEN),
    ("Upgrade without Connection", "RFC 9110, 7.8", IGNORE, post(H2C, SIZED, body=BODY), 200, OPEN),
    ("100-continue", "RFC 9110, 10.1.1", "100, then serve", (post(b"Expect: 100-continue", SIZED), BODY), 200, OPEN),
    (
        "100-continue, refused early",
        "RFC 9110, 10.1.1",
        "a final status, and close",
        post(b"Expect: 100-continue", b"Content-Length: 99999999"),
        413,
    ),
    (
        "100-continue to a path that reads no body",
        "RFC 9110, 10.1.1",
        "a final status, and close",
        get(HOST, b"Expect: 100-continue", b"Content-Length: 99999999"),
        200,
    ),
    (
        "100-continue in HTTP/1.0",
        "RFC 9110, 10.1.1",
        IGNORE,
        post(b"Expect: 100-continue", SIZED, body=BODY, version=b"HTTP/1.0"),
        200,
    ),
)
GROUPS["Several requests, and the connection's end"] = (
    ("two in one packet", "9.3.2", "answer in order", get(HOST) + post(SIZED, body=BODY), 200, 200, OPEN),
    ("ten in one packet", "9.3.2", "answer in order", get(HOST) * 10, *[200] * 10, OPEN),
    ("a byte at a time", "9.3", "serve", tuple(bytes((byte,)) for byte in get(HOST)), 200, OPEN),
    (
        "an invalid one behind a valid one",
        "9.3.2",
        "answer both, then close",
        get(HOST) + b"hello\r\n\r\n" + HIDDEN,
        200,
        400,
    ),
    ("one behind Connection: close", "9.6", "do not serve it", get(HOST, b"Connection: close") + HIDDEN, 200),
    ("close among other options", "9.6", "close", get(HOST, b"Connection: keep-alive, close") + HIDDEN, 200),
    (
        "close in a second field",
        "9.6",
        "close",
        get(HOST, b"Connection: keep-alive", b"Connection: close") + HIDDEN,
        200,
    ),
    ("HTTP/1.0", "9.3", "close", get(HOST, version=b"HTTP/1.0") + HIDDEN, 200),
    (
        "HTTP/1.0 with keep-alive",
        "9.3",
        "may close",
        get(HOST, b"Connection: keep-alive", version=b"HTTP/1.0") + HIDDEN,
        200,
    ),
    ("HEAD", "RFC 9110, 9.3.2", "as GET, without a body", head(b"HEAD /v1/models HTTP/1.1", HOST), 200, OPEN),
    (
        "a response before the whole body",
        "9.3",
        "read the rest or close",
        head(b"POST /none HTTP/1.1", HOST, JSON, b"Content-Length: 99999999") + HIDDEN,
        404,
    ),
)
INTRODUCTION = """\
# HTTP

<!-- Written by `python -m tests.server.http_cases > docs/http.md` from tests/server/http_cases.py. -->

The gateway serves HTTP/1.1 and HTTP/1.0 itself; for TLS and HTTP/2 put a proxy in front. This page says what clients
and proxies can rely on.

- **Connections** stay open for `ROUNDHOUSE_KEEP_ALIVE_TIMEOUT` (75 s) after a response; set it longer than what
  stands in front keeps its idle connections. A request head must be complete 5 s after its first byte, a body within
  `ROUNDHOUSE_BODY_TOTAL_TIMEOUT`. A client that reads nothing for `ROUNDHOUSE_CLIENT_WRITE_TIMEOUT` is disconnected.
- **A response that comes before the whole request** has arrived says `Connection: close`, and the rest is discarded.
- **`Upgrade`** is ignored: the request is served over HTTP/1.1.
- **Streams** have `Cache-Control: no-cache` and `X-Accel-Buffering: no`, so that proxies pass each event on at once.
  A stream to an HTTP/1.0 client is not chunked, and ends with the connection.
- **Bodies** must be JSON and say so: without `Content-Type: application/json` the answer is 415
  `unsupported_media_type`.
- **What is not a request** gets 400 `invalid_http` in OpenAI's format and an `x-request-id`, is logged as a line with
  `"event": "invalid_request"`, counts in `roundhouse_invalid_requests_total`, and ends the connection.

## Web pages and host names

Any page in a browser can send requests to 127.0.0.1, and one whose own name resolves to 127.0.0.1 (DNS rebinding) can
read the responses too. A gateway that listens on a loopback address, as it does by default, therefore serves only

- requests whose `Host` is a loopback name: `localhost`, a name that ends in `.localhost`, 127.0.0.1 or `[::1]`. Any
  other is 403 `host_not_allowed`;
- requests from pages of such names. One whose `Origin` is another, or whose `Sec-Fetch-Site` is `cross-site`, is 403
  `cross_site_request`; `GET` is excepted, because the browser keeps the response from the page. Programs send
  neither.

A reverse proxy on the same machine that passes on its own name, or a page of another host that should use the
gateway, needs that name in `ROUNDHOUSE_ALLOWED_HOSTS`, for example
`ROUNDHOUSE_ALLOWED_HOSTS=api.example.com,chat.example.com`; `*` allows all. A gateway that listens elsewhere checks
nothing of this unless the variable is set.

### Pages that may use the gateway (CORS)

A browser keeps responses from pages of other sites, wherever the gateway listens, unless the fleet file names the page:

```yaml
cors: {origins: [https://chat.example.com, http://localhost:8080]}
```

- An origin is `scheme://host` or `scheme://host:port`, as browsers write it: without a path, and without 443 for
  https or 80 for http. `*`, which stands alone, allows every page. A change of the file counts within seconds.
- What a browser asks beforehand (`OPTIONS` with `Access-Control-Request-Method`) is answered without an API key, the
  same for every path, to allowed origins only. Of others it is a request like any other: 401 where a key is asked for.
- Every response to an allowed page has `Access-Control-Allow-Origin`, errors included, and lets it read all headers
  (`Access-Control-Expose-Headers: *`). With origins that are named, all responses have `Vary: Origin`.
- Cookies and other credentials that a browser keeps are never allowed. A page sends an API key, which everyone who can
  open the page can read: make one for it that can do little.
- A page that is allowed here may also use a gateway on a loopback address.

## Conformance and request smuggling

Servers and proxies that read the same bytes differently let one request hide in another. Each row is a test against
the running gateway: there is one answer per request or a close, and nothing hidden is ever served. Numbers are
sections of RFC 9112 where no other is named. Where the answer does not say "close", the connection serves the next
request.
"""
HEADER = "| what is sent | RFC | which wants | answer |\n|---|---|---|---|"


def document() -> str:
    """All of docs/http.md, without the last line break."""
    return "\n".join([INTRODUCTION, *sections()]).rstrip()


def sections() -> Iterator[str]:
    for group, members in groupby(cases(), key=lambda case: case.group):
        yield f"### {group}\n\n{HEADER}"
        yield from (f"| {case.name} | {case.section} | {case.wanted} | {answer(case)} |" for case in members)
        yield ""


def answer(case: Case) -> str:
    counted = [f"{len(list(same))} × {status}" for status, same in groupby(case.statuses)]
    statuses = ", then ".join(one.removeprefix("1 × ") for one in counted)
    return statuses if case.stays_open else f"{statuses}, close"


if __name__ == "__main__":
    print(document())
