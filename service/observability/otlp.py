"""Spans in the protobuf encoding of OTLP, the protocol of OpenTelemetry's collectors. Pure.

Written out because it is a few fields that never change, and takes a fraction of the time of the SDK's encoder.
The numbers are those of fields in opentelemetry/proto/trace/v1/trace.proto.
"""

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

REMEMBERED = 1024  # attributes with their values
Value = str | bool | int | float | tuple[str, ...]
INTERNAL, SERVER, CLIENT = 1, 2, 3
ERROR = b"\x7a\x02\x18\x02"  # the status (15) whose code (3) is 2
# The flags (16): sampled, whether the parent is remote is known, and it is.
LOCAL_PARENT, REMOTE_PARENT = b"\x85\x01\x01\x01\x00\x00", b"\x85\x01\x01\x03\x00\x00"
KIND_AND_TIMES, DOUBLE = struct.Struct("<BBBQBQ"), struct.Struct("<Bd")


class Span(NamedTuple):
    """One span. Ids are bytes, `parent` is empty for a root; times are integer nanoseconds since 1970."""

    trace: bytes
    id: bytes
    parent: bytes
    name: str
    kind: int
    start: int
    end: int
    attributes: Mapping[str, Value] = {}
    error: bool = False
    link: bytes = b""
    state: bytes = b""
    remote: bool = False


class Encoder:
    """Encodes spans. It remembers attributes, of which most are the same for each request."""

    def __init__(self) -> None:
        self._attribute = lru_cache(REMEMBERED, typed=True)(lambda name, value: field(9, attribute(name, value)))

    def encode(self, span: Span) -> bytes:
        """The span as a field of the spans of a scope."""
        parts = [b"\x0a\x10", span.trace, b"\x12\x08", span.id]
        if span.state:
            parts.append(field(3, span.state))
        if span.parent:
            parts += (b"\x22\x08", span.parent)
        parts += (field(5, span.name.encode()), KIND_AND_TIMES.pack(0x30, span.kind, 0x39, span.start, 0x41, span.end))
        parts += [self._attribute(name, value) for name, value in span.attributes.items()]
        if span.link:
            parts.append(field(13, b"\x0a\x10" + span.trace + b"\x12\x08" + span.link))
        if span.error:
            parts.append(ERROR)
        parts.append(REMOTE_PARENT if span.remote else LOCAL_PARENT)
        return field(2, b"".join(parts))


def resource(attributes: Mapping[str, Value]) -> bytes:
    """What made the spans, as a field of their group."""
    return field(1, b"".join(field(1, attribute(name, value)) for name, value in attributes.items()))


def request(resource: bytes, scope: bytes, spans: Sequence[bytes]) -> bytes:
    """The body of a request with encoded spans of one resource, by the library with the name `scope`."""
    group = field(1, field(1, scope)) + b"".join(spans)
    return field(1, resource + field(2, group))


def attribute(name: str, value: Value) -> bytes:
    """A name and its value."""
    return field(1, name.encode()) + field(2, _any(value))


def _any(value: Value) -> bytes:
    if isinstance(value, str):
        return field(1, value.encode(errors="replace"))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + varint(value)
    if isinstance(value, float):
        return DOUBLE.pack(0x21, value)
    return field(5, b"".join(field(1, _any(one)) for one in value))


def field(number: int, data: bytes) -> bytes:
    """A field of bytes; `number` is at most 15."""
    size = len(data)
    if size < 128:
        return bytes((number << 3 | 2, size)) + data
    return bytes((number << 3 | 2,)) + varint(size) + data


def varint(number: int) -> bytes:
    """A whole number that is not negative, seven bits at a time."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)
