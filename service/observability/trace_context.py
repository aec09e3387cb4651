"""W3C trace context: the trace that a request belongs to, from its headers and for those of requests to engines."""

import re
from collections.abc import Callable, Iterable

from service.observability.record import Trace, new_id

MAX_STATE = 512  # characters of `tracestate` that are passed on; more is left out
MAX_MEMBERS = 32
PARENT = re.compile(
    rb"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
MEMBER = re.compile(rb"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
SAMPLED = 1  # the bit of the flags
Decide = Callable[[int, bool | None], bool]


def begin(headers: Iterable[tuple[bytes, bytes]], method: str, decide: Decide) -> Trace:
    """Continues the trace that the headers name, or begins one. `decide` says from its id, and from whether its parent
    is sampled (None without one), whether it is.

    A `traceparent` that is not valid, or was sent twice, counts as none, and without one `tracestate` means nothing.
    """
    parents, states = [], []
    for name, value in headers:
        if name == b"traceparent":
            parents.append(value)
        elif name == b"tracestate":
            states.append(value)
    parent = _parent(parents[0].strip(b" \t")) if len(parents) == 1 else None
    if parent is None:
        trace_id = new_id(16)
        return Trace(trace_id, new_id(8), "", decide(int(trace_id, 16), None), b"", method)
    trace_id, parent_id, was_sampled = parent
    sampled = decide(int(trace_id, 16), was_sampled)
    return Trace(trace_id, new_id(8), parent_id, sampled, _state(states) if states else b"", method)


def _parent(value: bytes) -> tuple[str, str, bool] | None:
    """Trace id, span id and whether it is sampled; None where that is not valid."""
    found = PARENT.fullmatch(value)
    if found is None or found["version"] == b"ff" or (found["version"] == b"00" and found["more"]):
        return None
    trace_id, span_id = found["trace"].decode(), found["span"].decode()
    if not int(trace_id, 16) or not int(span_id, 16):
        return None
    return trace_id, span_id, bool(int(found["flags"], 16) & SAMPLED)


def _state(values: list[bytes]) -> bytes:
    """The members of `tracestate`, which may come in several headers; empty where they are too many or not valid."""
    members = [member for value in values for one in value.split(b",") if (member := one.strip(b" \t"))]
    state = b",".join(members)
    valid = len(members) <= MAX_MEMBERS and len(state) <= MAX_STATE and all(map(MEMBER.fullmatch, members))
    return state if valid else b""
