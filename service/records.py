"""`Record`: what happened to one request. Metrics, the log line and everything else observed are derived from it."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from service.errors import ApiError

Outcome = Literal["complete", "refused", "failed", "cancelled"]


@dataclass(slots=True)
class Record:
    """Filled along the path of a request, observed once at its end.

    Times are float seconds of the monotonic clock; `gaps` holds the seconds between consecutive output events (ITL).
    `outcome` is *complete* (the engine finished), *refused* (a 4xx or 503 of ours), *failed* (5xx, or broken off
    midway) or *cancelled* (the client left).
    """

    request_id: str
    endpoint: str
    started: float
    client_request_id: str | None = None
    tenant: str = ""
    requested: str = ""
    model: str = ""
    variant: str = ""
    family: str = ""
    replica: str = ""
    route: str = ""
    streamed: bool = False
    attempts: int = 0
    admitted: float | None = None
    first_output: float | None = None
    last_output: float | None = None
    ended: float | None = None
    gaps: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    finish_reason: str | None = None
    status: int = 0
    code: str | None = None
    outcome: Outcome = "complete"

    def output(self, now: float) -> None:
        """One event of output arrived."""
        if self.last_output is None:
            self.first_output = now
        else:
            self.gaps.append(now - self.last_output)
        self.last_output = now

    def use(self, usage: dict[str, Any]) -> None:
        """Takes the token counts from a `usage` object of OpenAI's or Anthropic's shape."""
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
        self.prompt_tokens = _count(usage, "prompt_tokens", "input_tokens") or self.prompt_tokens
        self.completion_tokens = _count(usage, "completion_tokens", "output_tokens") or self.completion_tokens
        cached = _count(details, "cached_tokens") or _count(usage, "cache_read_input_tokens")
        self.cached_tokens = cached or self.cached_tokens

    def forget(self) -> None:
        """Drops what a failed attempt left behind, before another replica is asked."""
        self.first_output = self.last_output = self.finish_reason = None
        self.prompt_tokens = self.completion_tokens = self.cached_tokens = 0
        self.gaps.clear()

    def fail(self, error: ApiError) -> None:
        """Notes the error that the client gets."""
        self.code = error.code
        self.outcome = "refused" if error.status < 500 or error.status == 503 else "failed"

    @property
    def ttft(self) -> float | None:
        """Seconds from the request's arrival to its first output."""
        return None if self.first_output is None else self.first_output - self.started

    @property
    def duration(self) -> float:
        """Seconds from arrival to end; 0 while it runs."""
        return 0.0 if self.ended is None else self.ended - self.started


def log_line(record: Record, timestamp: str) -> str:
    """The record as one line of JSON. It never holds prompts or outputs."""
    fields: dict[str, Any] = {
        "time": timestamp,
        "event": "request",
        "request_id": record.request_id,
        "client_request_id": record.client_request_id,
        "endpoint": record.endpoint,
        "tenant": record.tenant,
        "requested": record.requested[:128],
        "model": record.model,
        "variant": record.variant,
        "replica": record.replica,
        "route": record.route,
        "streamed": record.streamed,
        "attempts": record.attempts,
        "status": record.status,
        "code": record.code,
        "outcome": record.outcome,
        "finish_reason": record.finish_reason,
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "cached_tokens": record.cached_tokens,
        "waited_s": _rounded(record.admitted - record.started if record.admitted is not None else None),
        "ttft_s": _rounded(record.ttft),
        "duration_s": _rounded(record.duration),
    }
    try:
        line = msgspec.json.encode(fields).decode()
    except UnicodeEncodeError:  # half of a character, which only an escape can write
        return json.dumps(fields)
    # What a client wrote may hold more than plain ASCII. That is escaped, at a price that few lines pay.
    return line if line.isascii() and line.isprintable() else json.dumps(fields)


def _count(usage: dict[str, Any], *keys: str) -> int:
    """The first of `keys` that holds a number of tokens."""
    for key in keys:
        value = usage.get(key)
        if isinstance(value, int) and value > 0:
            return value
    return 0


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
