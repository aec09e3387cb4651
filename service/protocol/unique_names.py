"""Refuses JSON in which an object has two members with the same name, at any depth.

Parsers disagree on which of them counts, and two of them read a request: the gateway's and the engine's. Both take
the last one; but what has been checked should not depend on that.
"""

import json
import re
from typing import Any

import msgspec

from service.errors import ApiError, ErrorCode

READ = msgspec.json.Decoder()
WRITE = msgspec.json.Encoder()
BACKSLASH = ord("\\")  # a number is found in bytes sooner than bytes are
ESCAPE = re.compile(rb"\\(?:(u003[aA])|.)")  # a colon that is written as one, or any other


def check_names(body: bytes) -> None:
    """Raises the 400 that says which name stands twice in one object of `body`, or that a number in it is infinite.

    `body` is valid JSON. Written again it has each name once. If that is what was sent, or if it has as many colons,
    no member is missing.
    """
    try:
        written = WRITE.encode(READ.decode(body))
    except msgspec.ValidationError:  # in a part that is not read otherwise
        raise ApiError(ErrorCode.INVALID_JSON, "The body is not valid JSON: a number in it is out of range.") from None
    if written == body:
        return
    colons = body.count(b":")
    if BACKSLASH in body and body.find(b"\\u003") >= 0:
        colons += sum(map(bool, ESCAPE.findall(body)))
    if colons == written.count(b":"):
        return
    json.loads(body, object_pairs_hook=_require_unique)


def _require_unique(members: list[tuple[str, Any]]) -> None:
    """Called for each object, with its members."""
    seen: set[str] = set()
    for name, _ in members:
        if name in seen:
            shown = name[:64]
            text = f"'{shown}' stands twice in one object of the body. Send it once."
            raise ApiError(ErrorCode.INVALID_JSON, text, shown)
        seen.add(name)
