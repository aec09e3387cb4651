"""`Record`: what happened to one request. Its metrics and its log line are derived from it."""

import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import msgspec

from service.errors import ApiError

DELETE = b"\x7f"  # the only non-printable ASCII character that JSON does not escape
Outcome = Literal["complete", "refused", "failed", "cancelled"]


@dataclass(slots=True)
class Record:
    """Filled along the path of a request, observed once at its end.

    Times are float seconds of the monotonic clock; `output_times` has one entry per output event.
    `outcome` is *complete* (the engine finished), *refused* (the gateway's 4xx or 503), *failed* (5xx, or broken off
    midway) or *cancelled* (the client disconnected). `reason` is what an engine said about its error, as far as it does
    not quote the request. `replayed` says that the response came from the idempotency cache; its tokens were counted
    when it was generated. `ignored_fields` are those of the body that were dropped, by name where the table of fields
    has it, otherwise `other`.
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
    route_reason: str = ""
    streamed: bool = False
    replayed: bool = False
    ignored_fields: tuple[str, ...] = ()
    attempts: int = 0
    admitted: float | None = None
    output_times: list[float] = field(default_factory=list)
    ended: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    finish_reason: str | None = None
    status: int = 0
    code: str | None = None
    reason: str | None = None
    outcome: Outcome = "complete"

    def update_usage(self, usage: dict[str, Any]) -> None:
        """Sets the token counts from an OpenAI or Anthropic `usage` object; missing and zero counts change nothing."""
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
        prompt = _count(usage, "prompt_tokens", "input_tokens")
        if "input_tokens" in usage:  # Anthropic's count leaves out what the prefix cache had, and what it took in
            prompt += _count(usage, "cache_read_input_tokens") + _count(usage, "cache_creation_input_tokens")
        self.prompt_tokens = prompt or self.prompt_tokens
        self.completion_tokens = _count(usage, "completion_tokens", "output_tokens") or self.completion_tokens
        cached = _count(details, "cached_tokens") or _count(usage, "cache_read_input_tokens")
        self.cached_tokens = cached or self.cached_tokens

    def reset_attempt(self) -> None:
        """Clears what a failed attempt has set, before the request is retried."""
        self.finish_reason = self.reason = None
        self.prompt_tokens = self.completion_tokens = self.cached_tokens = 0
        self.output_times.clear()

    def fail(self, error: ApiError) -> None:
        """Sets outcome and code from the error that the client gets."""
        self.code = error.code
        self.outcome = "refused" if error.status < 500 or error.status == 503 else "failed"

    @property
    def ttft(self) -> float | None:
        """Time to first token: seconds from arrival to the first output event; None without output."""
        return self.output_times[0] - self.started if self.output_times else None

    @property
    def gaps(self) -> list[float]:
        """Inter-token latencies: seconds between consecutive output events."""
        return [later - earlier for earlier, later in pairwise(self.output_times)]

    @property
    def duration(self) -> float:
        """Seconds from arrival to the end of the response; 0 while the request runs."""
        return 0.0 if self.ended is None else self.ended - self.started


class LogLine(msgspec.Struct):
    """The fields of a request's log line, in their order."""

    time: str
    event: str
    request_id: str
    client_request_id: str | None
    endpoint: str
    tenant: str
    requested: str
    model: str
    variant: str
    replica: str
    route_reason: str
    streamed: bool
    replayed: bool
    attempts: int
    status: int
    code: str | None
    reason: str | None
    outcome: Outcome
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    time_to_admission_s: float | None
    ttft_s: float | None
    duration_s: float | None


def log_line(record: Record, timestamp: str) -> str:
    """The record as one line of printable ASCII JSON, without prompts or outputs."""
    started = record.started
    fields = LogLine(
        timestamp,
        "request",
        record.request_id,
        record.client_request_id,
        record.endpoint,
        record.tenant,
        record.requested[:128],
        record.model,
        record.variant,
        record.replica,
        record.route_reason,
        record.streamed,
        record.replayed,
        record.attempts,
        record.status,
        record.code,
        record.reason,
        record.outcome,
        record.finish_reason,
        record.prompt_tokens,
        record.completion_tokens,
        record.cached_tokens,
        _seconds(started, record.admitted),
        _seconds(0.0, record.ttft),
        _seconds(started, record.ended),
    )
    try:
        line = msgspec.json.encode(fields)
    except UnicodeEncodeError:  # a lone surrogate, from an escape in the request's JSON
        return json.dumps(msgspec.structs.asdict(fields))
    # Text from the client may contain other characters; the slower encoder escapes those, which few lines need.
    is_plain = line.isascii() and DELETE not in line
    return line.decode() if is_plain else json.dumps(msgspec.structs.asdict(fields))


def _count(usage: dict[str, Any], *keys: str) -> int:
    """The first positive count among `keys`, or 0."""
    for key in keys:
        value = usage.get(key)
        if isinstance(value, int) and value > 0:
            return value
    return 0


def _seconds(start: float, end: float | None) -> float | None:
    """The difference in seconds, rounded to microseconds; `round` would take twice as long."""
    return None if end is None else int((end - start) * 1e6 + 0.5) / 1e6
