"""Responses that are not streamed: their usage, and the errors of engines translated to our own."""

import json
import re
from typing import Any

import msgspec

from service.errors import ApiError, ErrorCode
from service.fleet.served_model import ServedModel
from service.observability.record import Record

PROMPT_TOO_LONG = re.compile(rb"maximum context length is (\d+) tokens\D+(\d+)")
MAX_TOKENS_TOO_LARGE = re.compile(rb"max_(?:completion_)?tokens=(\d+) cannot be greater than max_model_len=(\d+)")
TEMPLATE_ERROR = re.compile(rb"emplate|onversation roles|alternate")
# Raised by our own chat templates, models/templates/.
WRONG_ROLE = re.compile(rb"expected (user|assistant|tool), found (system|user|assistant|tool)\.")
NO_TOOLS = b"This model has no tools"
ONE_TOOL_CALL = b"calls one tool at a time"
NO_USER_MESSAGE = b"holds no user message"
PARAM = re.compile(r"^(?:body\.)?[A-Za-z_][A-Za-z0-9_.\[\]]{0,63}$")


class InvalidResponseError(Exception):
    """The engine responded with status 200, but the body is no successful response."""


class ResponseChoice(msgspec.Struct):
    """One of the `choices` of a response."""

    finish_reason: Any = None


ABSENT = msgspec.Raw()


class ResponseBody(msgspec.Struct):
    """The fields of a response that are read, of all dialects; the rest is only checked to be JSON."""

    usage: dict[str, Any] | None = None
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
        usage = response.usage or {}
        record.update_usage(usage)
        reason = response.choices[0].finish_reason if response.choices else None
        reason = reason or response.stop_reason or response.status
        empty = 0 in (usage.get("completion_tokens"), usage.get("output_tokens")) and response.data is ABSENT
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


def upstream_error(status: int, body: bytes, served: ServedModel) -> ApiError:
    """Our error for one of an engine, whose text is never passed on: it can hold addresses, paths and prompts."""
    if status == 503:
        message = f"The engine of '{served.id}' is full. Try again later."
        return ApiError(ErrorCode.OVERLOADED, message, retry_after=1.0)
    if status not in (400, 413, 422):
        return ApiError(ErrorCode.UPSTREAM_ERROR, f"The engine of '{served.id}' failed (status {status}).")
    if found := PROMPT_TOO_LONG.search(body):
        limit, given = int(found[1]), int(found[2])
        return ApiError(
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
            f"The prompt has at least {given} tokens and the context of '{served.id}' is {limit} tokens. Shorten it.",
            "messages" if b"messages" in body else None,
        )
    if found := MAX_TOKENS_TOO_LARGE.search(body):
        return ApiError(
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
            f"max_tokens is {int(found[1])} and the context of '{served.id}' is {int(found[2])} tokens. Ask for fewer.",
            "max_tokens",
        )
    if b"default chat template is no longer allowed" in body:
        return ApiError(
            ErrorCode.NO_CHAT_TEMPLATE,
            f"'{served.id}' has no chat template: set 'chat_template' in the fleet file, or use /v1/completions.",
            "messages",
        )
    param = _param(body)
    if param is None and (error := _template_error(body, served)):
        return error
    if b"tool choice requires" in body or b"tool-call-parser" in body:
        return ApiError(
            ErrorCode.TOOLS_NOT_SERVED,
            f"'{served.id}' is served without tool calls: set enable_auto_tool_choice and tool_call_parser in its "
            "engine settings, or leave 'tools' out.",
            "tools",
        )
    cause = f"'{param}'" if param else "its contents"
    message = f"The engine of '{served.id}' rejected the request because of {cause}."
    return ApiError(ErrorCode.UPSTREAM_REJECTED, message, param)


def _template_error(body: bytes, served: ServedModel) -> ApiError | None:
    """The error for a conversation that the model's chat template rejects, if the engine reports that."""
    if found := WRONG_ROLE.search(body):
        expected, role = found[1].decode(), found[2].decode()
        error = (
            f"The chat template of '{served.id}' expects a message of role '{expected}' where there is one of role "
            f"'{role}': change the roles or their order."
        )
    elif NO_TOOLS in body:
        error = f"The chat template of '{served.id}' has no tools: leave out 'tools' and messages of role 'tool'."
    elif ONE_TOOL_CALL in body:
        error = f"'{served.id}' calls one tool at a time: an assistant message may have only one of 'tool_calls'."
    elif NO_USER_MESSAGE in body:
        error = f"The chat template of '{served.id}' needs a message of role 'user': add one."
    elif TEMPLATE_ERROR.search(body):
        error = f"The chat template of '{served.id}' rejects these messages: check the roles and their order."
    else:
        return None
    return ApiError(ErrorCode.INVALID_CONVERSATION, error, "messages")


def _param(body: bytes) -> str | None:
    try:
        param = json.loads(body)["error"]["param"]
    except (ValueError, KeyError, TypeError):
        return None
    return param.removeprefix("body.") if isinstance(param, str) and PARAM.match(param) else None
