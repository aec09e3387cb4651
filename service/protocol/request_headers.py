"""What a client may say about a request in its headers: who asks, how urgent it is, how long it may take."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from service.auth.tenants import PRIORITIES, Priority
from service.errors import ApiError, ErrorCode

PREFIX = b"x-roundhouse-"
IDEMPOTENCY = b"idempotency-key"
SHORTEST_HEARTBEAT = 0.1  # seconds
PRINTABLE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")


@dataclass(frozen=True)
class RequestOptions:
    """The headers of one request that we read. Seconds are floats; None is what the service has by itself.

    `timeout` bounds the whole answer, queueing included. `sse_heartbeat_interval` is how often a stream that is queued
    gets a comment.
    """

    tenant: str | None = None
    priority: Priority | None = None
    session: str | None = None
    timeout: float | None = None
    sse_heartbeat_interval: float | None = None
    idempotency_key: str | None = None


NONE = RequestOptions()


def parse_headers(headers: Iterable[tuple[bytes, bytes]]) -> RequestOptions:
    """What these headers ask for; raises the 400 that names the one which is wrong. Names are in lower case."""
    found: dict[str, Any] | None = None
    for name, value in headers:
        if name.startswith(PREFIX) or name == IDEMPOTENCY:
            row = READERS.get(name)
            if row is None:
                known = ", ".join(sorted(one.decode() for one in READERS))
                text = f"There is no header '{name.decode()[:64]}'; there are {known}."
                raise ApiError(ErrorCode.UNKNOWN_HEADER, text)
            found = found or {}
            found[row[0]] = row[1](name.decode(), value.decode("latin-1").strip())
    return RequestOptions(**found) if found else NONE


def _text(name: str, text: str) -> str:
    if not PRINTABLE.fullmatch(text):
        raise _invalid(name, "must hold 1 to 255 printable ASCII characters")
    return text


def _priority(name: str, text: str) -> Priority:
    found = next((one for one in PRIORITIES if one == text), None)
    if found is None:
        raise _invalid(name, f"must be one of {', '.join(PRIORITIES)}")
    return found


def _seconds(least: float) -> Callable[[str, str], float]:
    def seconds(name: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf:
            raise _invalid(name, f"must be a number of seconds, at least {least:g}")
        return value

    return seconds


def _invalid(name: str, why: str) -> ApiError:
    return ApiError(ErrorCode.INVALID_HEADER, f"The header '{name}' {why}.")


READERS: Mapping[bytes, tuple[str, Callable[[str, str], Any]]] = MappingProxyType(
    {
        PREFIX + b"tenant": ("tenant", _text),
        PREFIX + b"priority": ("priority", _priority),
        PREFIX + b"session": ("session", _text),
        PREFIX + b"timeout": ("timeout", _seconds(0.001)),
        PREFIX + b"sse-heartbeat-interval": ("sse_heartbeat_interval", _seconds(SHORTEST_HEARTBEAT)),
        IDEMPOTENCY: ("idempotency_key", _text),
    }
)
