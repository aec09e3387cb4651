"""Offers of clients to switch to another protocol, which a server may ignore (RFC 9110, 7.8); this one always does."""

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def feed(connection: HttpToolsProtocol, data: bytes | memoryview) -> None:
    """Feeds the parser. What offers an upgrade is parsed again without it, for its body would belong to that."""
    while True:
        parser = connection.parser
        try:
            parser.feed_data(data)
            return
        except httptools.HttpParserUpgrade as offered:
            data = memoryview(data)[int(offered.args[0]) :]
        head = head_without_upgrade(
            parser.get_method(), connection.url, parser.get_http_version(), connection.headers
        )  # fmt: skip
        connection.parser = httptools.HttpRequestParser(connection)
        connection.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        connection.parser.feed_data(head)


def head_without_upgrade(
    method: bytes, target: bytes, version: str, headers: list[tuple[bytes, bytes]]
) -> bytes:  # fmt: skip
    """A head as it came, but for the offer."""
    lines = (b"%b: %b" % (name, value) for name, value in headers if name != b"upgrade")
    return b"\r\n".join((b"%b %b HTTP/%b" % (method, target, version.encode()), *lines, b"", b""))
