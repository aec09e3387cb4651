"""Responses that are not streamed: their usage, and whether they are whole."""

from typing import Any

import msgspec

from service.observability.record import Record, Usage


class InvalidResponseError(Exception):
    """The engine responded with status 200, but the body is no successful response."""


class ResponseChoice(msgspec.Struct):
    """One of the `choices` of a response."""

    finish_reason: Any = None


ABSENT = msgspec.Raw()


class ResponseBody(msgspec.Struct):
    """The fields of a response that are read, of all dialects; the rest is only checked to be JSON."""

    usage: Usage | None = None
    choices: list[ResponseChoice] | None = None
    stop_reason: Any = None
    status: Any = None
    data: msgspec.Raw = ABSENT


DECODER = msgspec.json.Decoder(ResponseBody)


def record_response(record: Record, body: bytes) -> None:
    """Records the usage and finish reason of a whole response body.

    Raises InvalidResponseError if it is no response, was aborted, or has no output at all.
    """
    try:
        response = DECODER.decode(body)
        usage = response.usage
        if usage:
            record.update_usage(usage)
        reason = response.choices[0].finish_reason if response.choices else None
        reason = reason or response.stop_reason or response.status
        empty = usage and 0 in (usage.completion_tokens, usage.output_tokens) and response.data is ABSENT
    except (msgspec.MsgspecError, ValueError, AttributeError, RecursionError):
        raise InvalidResponseError("its response is not valid JSON of the expected form") from None
    record.finish_reason = reason if isinstance(reason, str) else None
    if record.finish_reason in ("abort", "error", "cancelled"):
        raise InvalidResponseError(f"its response ended with '{record.finish_reason}'")
    if empty:
        raise InvalidResponseError("its response has no output tokens")


def is_death(body: bytes) -> bool:
    """Whether an engine reports in this response or event that its engine core has died."""
    return b"EngineCore" in body or b"EngineDead" in body
