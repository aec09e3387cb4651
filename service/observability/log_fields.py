"""The fields of a request's log line, as msgspec encodes them."""

from typing import Literal

import msgspec

Outcome = Literal["complete", "refused", "failed", "cancelled"]
Level = Literal["debug", "info", "warning", "error"]


class LogLine(msgspec.Struct):
    """The fields of a request's log line, in their order."""

    time: str
    level: Level
    event: str
    request_id: str
    client_request_id: str | None
    trace_id: str | None
    endpoint: str
    tenant: str
    key: str
    requested: str
    model: str
    variant: str
    replica: str
    route_reason: str
    fallback: str | None
    fallback_of: str | None
    streamed: bool
    tools: bool
    temperature: float | None
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
    gpu_seconds: float
    cost: float
    time_to_admission_s: float | None
    ttft_s: float | None
    duration_s: float | None
