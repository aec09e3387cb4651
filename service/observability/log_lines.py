"""Lines of the log as they are queued, and what many of them are as JSON. Pure."""

import json
from collections.abc import Sequence

import msgspec

from service.observability.log_fields import LogLine

Line = str | LogLine  # an event as printable ASCII JSON, or a request
DELETE = b"\x7f"  # the only non-printable ASCII character that JSON does not escape
encode_lines = msgspec.json.Encoder().encode_lines


def encoded(lines: Sequence[Line]) -> bytes:
    """Lines of printable ASCII JSON, each with its end.

    Text from a client may contain other characters. The slower encoder escapes those, which few lines need.
    """
    try:
        data = encode_lines([msgspec.Raw(line.encode()) if isinstance(line, str) else line for line in lines])
        if data.isascii() and data.find(DELETE) < 0:  # `in` first takes the bytes for a number, and raises
            return data
    except UnicodeEncodeError:  # a lone surrogate, from an escape in a request's JSON
        pass
    return "".join(f"{text_of(line)}\n" for line in lines).encode()


def text_of(line: Line) -> str:
    """One line as `encoded` has it but for the space after commas and colons, without its end."""
    return line if isinstance(line, str) else json.dumps(msgspec.structs.asdict(line))
