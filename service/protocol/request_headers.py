"""The request headers that we read: tenant, priority, session, timeouts, idempotency key, and clients' own sessions."""

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
# By which programs name a conversation of theirs; the first one counts. `x-correlation-id` is none of them: proxies set
# another one for each request.
CONVERSATIONS = (b"x-session-id", b"x-claude-code-session-id", b"x-session-affinity", b"session-id")
AGENT = b"x-claude-code-agent-id"  # of a sub-agent, whose conversation is its own
NAMING = frozenset((*CONVERSATIONS, AGENT))
SHORTEST_HEARTBEAT = 0.1  # seconds
PRINTABLE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")


@dataclass(frozen=True)
class RequestOptions:
    """The options that one request sets in its headers. Times are float seconds; None means the default.

    `timeout` bounds the whole answer, queueing included. `sse_heartbeat_interval` is how often a stream that is queued
    gets a comment. `client_session` and `client_agent` are the client program's own names for a session and a sub-agent
    in it, from headers that are not ours: what is not short and printable is not used. `fallback` says whether another
    model may answer, which by default one that was asked for by its id does not allow.
    """

    tenant: str | None = None
    priority: Priority | None = None
    session: str | None = None
    timeout: float | None = None
    sse_heartbeat_interval: float | None = None
    idempotency_key: str | None = None
    client_session: str | None = None
    client_agent: str | None = None
    fallback: bool | None = None

    @property
    def conversation(self) -> str | None:
        """The client program's own name for one conversation: its session, or a sub-agent's part of it."""
        agent = self.client_agent
        return f"{self.client_session} {agent}" if self.client_session and agent else self.client_session


NO_OPTIONS = RequestOptions()


def parse_headers(headers: Iterable[tuple[bytes, bytes]]) -> RequestOptions:
    """The options in these headers, with names in lower case.

    Raises the 400 that names an unknown header, an invalid one, or one that was sent twice: a proxy may have set one of
    the two and the client the other, so neither may win.
    """
    values: dict[str, Any] | None = None
    named: dict[bytes, str] | None = None
    for name, value in headers:
        if name.startswith(PREFIX) or name == IDEMPOTENCY:
            entry = PARSERS.get(name)
            if entry is None:
                known = ", ".join(sorted(header.decode() for header in PARSERS))
                message = f"Unknown header '{name.decode()[:64]}'. Supported are {known}."
                raise ApiError(ErrorCode.UNKNOWN_HEADER, message)
            values = values or {}
            if entry[0] in values:
                raise _invalid(name.decode(), "was sent more than once; send it once")
            values[entry[0]] = entry[1](name.decode(), value.decode("latin-1").strip())
        elif name in NAMING:
            named = named or {}
            named.setdefault(name, value.decode("latin-1").strip())
    if named:
        session = next((found for header in CONVERSATIONS if (found := named.get(header))), None)
        values = {**(values or {}), "client_session": _usable(session), "client_agent": _usable(named.get(AGENT))}
    return RequestOptions(**values) if values else NO_OPTIONS


def _usable(name: str | None) -> str | None:
    return name if name and PRINTABLE.fullmatch(name) else None


def _text(name: str, text: str) -> str:
    if not PRINTABLE.fullmatch(text):
        raise _invalid(name, "must hold 1 to 255 printable ASCII characters")
    return text


def _priority(name: str, text: str) -> Priority:
    priority = next((known for known in PRIORITIES if known == text), None)
    if priority is None:
        raise _invalid(name, f"must be one of {', '.join(PRIORITIES)}")
    return priority


def _fallback(name: str, text: str) -> bool:
    if text not in ("allow", "deny"):
        raise _invalid(name, "must be 'allow' or 'deny'")
    return text == "allow"


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


def _invalid(name: str, reason: str) -> ApiError:
    return ApiError(ErrorCode.INVALID_HEADER, f"The header '{name}' {reason}.")


PARSERS: Mapping[bytes, tuple[str, Callable[[str, str], Any]]] = MappingProxyType(
    {
        PREFIX + b"tenant": ("tenant", _text),
        PREFIX + b"priority": ("priority", _priority),
        PREFIX + b"session": ("session", _text),
        PREFIX + b"timeout": ("timeout", _seconds(0.001)),
        PREFIX + b"sse-heartbeat-interval": ("sse_heartbeat_interval", _seconds(SHORTEST_HEARTBEAT)),
        PREFIX + b"fallback": ("fallback", _fallback),
        IDEMPOTENCY: ("idempotency_key", _text),
    }
)
