"""`Record`: what happened to one request. Metrics, the log line and everything else observed are derived from it."""

import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import msgspec

from service.errors import ApiError

DELETE = b"\x7f"  # the one character of ASCII that is not printable and that JSON does not escape
Outcome = Literal["complete", "refused", "failed", "cancelled"]


@dataclass(slots=True)
class Record:
    """Filled along the path of a request, observed once at its end.

    Times are float seconds of the monotonic clock; `outputs` holds that of each event of output.
    `outcome` is *complete* (the engine finished), *refused* (a 4xx or 503 of ours), *failed* (5xx, or broken off
    midway) or *cancelled* (the client left). `replayed` says that the answer came from the idempotency cache; its
    tokens were counted when it was generated.
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
    replayed: bool = False
    attempts: int = 0
    admitted: float | None = None
    outputs: list[float] = field(default_factory=list)
    ended: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    finish_reason: str | None = None
    status: int = 0
    code: str | None = None
    outcome: Outcome = "complete"

    def use(self, usage: dict[str, Any]) -> None:
        """Takes the token counts from a `usage` object of OpenAI's or Anthropic's shape."""
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
        self.prompt_tokens = _count(usage, "prompt_tokens", "input_tokens") or self.prompt_tokens
        self.completion_tokens = _count(usage, "completion_tokens", "output_tokens") or self.completion_tokens
        cached = _count(details, "cached_tokens") or _count(usage, "cache_read_input_tokens")
        self.cached_tokens = cached or self.cached_tokens

    def forget(self) -> None:
        """Drops what a failed attempt left behind, before another replica is asked."""
        self.finish_reason = None
        self.prompt_tokens = self.completion_tokens = self.cached_tokens = 0
        self.outputs.clear()

    def fail(self, error: ApiError) -> None:
        """Notes the error that the client gets."""
        self.code = error.code
        self.outcome = "refused" if error.status < 500 or error.status == 503 else "failed"

    @property
    def ttft(self) -> float | None:
        """Seconds from the request's arrival to its first output."""
        return self.outputs[0] - self.started if self.outputs else None

    @property
    def gaps(self) -> list[float]:
        """Seconds between consecutive events of output (ITL)."""
        return [later - earlier for earlier, later in pairwise(self.outputs)]

    @property
    def duration(self) -> float:
        """Seconds from arrival to end; 0 while it runs."""
        return 0.0 if self.ended is None else self.ended - self.started


class Line(msgspec.Struct):
    """What is logged of a request, in the order in which it is written."""

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
    route: str
    streamed: bool
    replayed: bool
    attempts: int
    status: int
    code: str | None
    outcome: Outcome
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    waited_s: float | None
    ttft_s: float | None
    duration_s: float | None


def log_line(record: Record, timestamp: str) -> str:
    """The record as one line of JSON. It never holds prompts or outputs."""
    started = record.started
    fields = Line(
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
        record.route,
        record.streamed,
        record.replayed,
        record.attempts,
        record.status,
        record.code,
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
    except UnicodeEncodeError:  # half of a character, which only an escape can write
        return json.dumps(msgspec.structs.asdict(fields))
    # What a client wrote may hold more than plain ASCII. That is escaped, at a price that few lines pay.
    plain = line.isascii() and DELETE not in line
    return line.decode() if plain else json.dumps(msgspec.structs.asdict(fields))


def _count(usage: dict[str, Any], *keys: str) -> int:
    """The first of `keys` that holds a number of tokens."""
    for key in keys:
        value = usage.get(key)
        if isinstance(value, int) and value > 0:
            return value
    return 0


def _seconds(since: float, until: float | None) -> float | None:
    """To the microsecond; `round` itself costs twice as much."""
    return None if until is None else int((until - since) * 1e6 + 0.5) / 1e6
