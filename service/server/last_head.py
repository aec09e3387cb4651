"""The head of a connection's last request: most clients send it again and again, with another `Content-Length`."""

import re
from typing import Any

from msgspec import Struct

from service.server.asgi import HEADERS_BY_NAME

LARGEST = 2**13  # bytes; a larger head is parsed each time
FRUITLESS = 8  # heads of a connection that were remembered in vain: each of its requests has another one
LENGTH = b"content-length"
LENGTH_LINE = re.compile(rb"\r\ncontent-length: *([0-9]{1,18})\r\n", re.IGNORECASE)

Scope = dict[str, Any]


class Known(Struct, frozen=True):
    """The bytes around the value of `Content-Length`, the scope, and the place of that header among the scope's."""

    before: bytes
    after: bytes
    scope: Scope
    index: int


class LastHead:
    """Knows a head by its bytes, so that it need not be parsed again."""

    def __init__(self) -> None:
        self._known: Known | None = None
        self._in_vain = 0

    def match(self, data: bytes) -> tuple[Scope, int, int] | None:
        """If `data` begins with this head: the request's scope, where its body begins, and the length of that."""
        known = self._known
        if known is None:
            return None
        start = len(known.before)
        if data[:start] != known.before:
            return None
        end = data.find(b"\r", start, start + 19)
        body, length = end + len(known.after), data[start:end]
        if data[end:body] != known.after or not length.isdigit():
            return None
        self._in_vain = 0
        scope = known.scope.copy()
        headers = scope["headers"]
        if length != headers[known.index][1]:
            scope["headers"] = headers = headers.copy()
            headers[known.index] = LENGTH, length
            scope[HEADERS_BY_NAME] = scope[HEADERS_BY_NAME] | {LENGTH: length}
        return scope, body, int(length)

    def learn(self, data: bytes, scope: Scope) -> None:
        """Remembers the head at the beginning of `data`, of which the parser made this scope, and keeps that.

        Only where the body has a length, and each line of the head is a header that ends as it should: then the parser
        keeps nothing of the request after its end, and would find the same in the same bytes.
        """
        if self._in_vain == FRUITLESS:
            return
        head, headers = data[: data.find(b"\r\n\r\n", 0, LARGEST) + 4], scope["headers"]
        each_ends_well = head.count(b"\r\n") == head.count(b"\n") == len(headers) + 2
        found = LENGTH_LINE.search(head)
        if found and each_ends_well and b"transfer-encoding" not in scope[HEADERS_BY_NAME]:
            index = [name for name, _ in headers].index(LENGTH)
            self._known = Known(head[: found.start(1)], head[found.end(1) :], scope, index)
            self._in_vain += 1
