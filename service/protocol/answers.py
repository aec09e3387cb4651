"""Answers that are not streamed: what was used, and what an engine's refusal means in our own words."""

import json
import re
from typing import Any

import msgspec

from service.errors import ApiError, ErrorCode
from service.fleet.served_model import ServedModel
from service.observability.record import Record

TOO_LONG = re.compile(rb"maximum context length is (\d+) tokens\D+(\d+)")
TOO_MANY = re.compile(rb"max_(?:completion_)?tokens=(\d+) cannot be greater than max_model_len=(\d+)")
TEMPLATE = re.compile(rb"emplate|onversation roles|alternate")
# What our own templates say; models/templates/.
OUT_OF_TURN = re.compile(rb"expected (user|assistant|tool), found (system|user|assistant|tool)\.")
NO_TOOLS = b"This model has no tools"
ONE_CALL = b"calls one tool at a time"
NO_USER = b"holds no user message"
PARAMETER = re.compile(r"^(?:body\.)?[A-Za-z_][A-Za-z0-9_.\[\]]{0,63}$")


class BrokenAnswerError(Exception):
    """The engine answered 200 with something that is no answer."""


class Choice(msgspec.Struct):
    """One of the answers to a request that may ask for several."""

    finish_reason: Any = None


ABSENT = msgspec.Raw()


class EngineAnswer(msgspec.Struct):
    """What is read of an answer; the rest is only checked for being JSON."""

    usage: dict[str, Any] | None = None
    choices: list[Choice] | None = None
    stop_reason: Any = None
    status: Any = None
    data: msgspec.Raw = ABSENT


ANSWER = msgspec.json.Decoder(EngineAnswer)


def record_answer(record: Record, body: bytes) -> None:
    """Takes usage and finish reason from a whole answer; raises BrokenAnswerError where it ended by `abort`."""
    try:
        answer = ANSWER.decode(body)
        usage = answer.usage or {}
        record.update_usage(usage)
        reason = answer.choices[0].finish_reason if answer.choices else None
        reason = reason or answer.stop_reason or answer.status
        silent = 0 in (usage.get("completion_tokens"), usage.get("output_tokens")) and answer.data is ABSENT
    except (msgspec.MsgspecError, ValueError, AttributeError, RecursionError):
        raise BrokenAnswerError("it is not the JSON of an answer") from None
    record.finish_reason = reason if isinstance(reason, str) else None
    if record.finish_reason in ("abort", "error", "cancelled"):
        raise BrokenAnswerError(f"it ended with '{record.finish_reason}'")
    if silent:
        raise BrokenAnswerError("it ended without a single token")


def is_death(body: bytes) -> bool:
    """Whether an engine says in this answer, or event, that its core is dead."""
    return b"EngineCore" in body or b"EngineDead" in body


def upstream_error(status: int, body: bytes, served: ServedModel) -> ApiError:
    """The engine's error in our words. Its own text stays in its log: it can hold addresses, paths and prompts."""
    if status == 503:
        message = f"The engine of '{served.id}' is full. Try again later."
        return ApiError(ErrorCode.OVERLOADED, message, retry_after=1.0)
    if status not in (400, 413, 422):
        return ApiError(ErrorCode.UPSTREAM_ERROR, f"The engine of '{served.id}' failed (status {status}).")
    if found := TOO_LONG.search(body):
        limit, given = int(found[1]), int(found[2])
        return ApiError(
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
            f"The prompt has at least {given} tokens and the context of '{served.id}' is {limit} tokens. Shorten it.",
            "messages" if b"messages" in body else None,
        )
    if found := TOO_MANY.search(body):
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
    if param is None and (why := _refused_by_template(body, served)):
        return why
    if b"tool choice requires" in body or b"tool-call-parser" in body:
        return ApiError(
            ErrorCode.TOOLS_NOT_SERVED,
            f"'{served.id}' is served without tool calls: set enable_auto_tool_choice and tool_call_parser in its "
            "engine settings, or leave 'tools' out.",
            "tools",
        )
    where = f" '{param}'" if param else " its contents"
    message = f"The engine of '{served.id}' refused the request because of{where}."
    return ApiError(ErrorCode.UPSTREAM_REJECTED, message, param)


def _refused_by_template(body: bytes, served: ServedModel) -> ApiError | None:
    """Why the model's prompt format cannot hold the conversation, if that is what the engine says."""
    if found := OUT_OF_TURN.search(body):
        expected, role = found[1].decode(), found[2].decode()
        why = (
            f"'{served.id}' takes messages in turns, and where one of role '{expected}' should stand there is one of "
            f"role '{role}': change the roles or their order."
        )
    elif NO_TOOLS in body:
        why = f"The prompt format of '{served.id}' has no tools: leave out 'tools' and messages of role 'tool'."
    elif ONE_CALL in body:
        why = f"'{served.id}' calls one tool at a time: an assistant's message may hold one of 'tool_calls'."
    elif NO_USER in body:
        why = f"'{served.id}' answers a message of role 'user': add one."
    elif TEMPLATE.search(body):
        why = f"The chat template of '{served.id}' refuses these messages: check the roles and their order."
    else:
        return None
    return ApiError(ErrorCode.INVALID_CONVERSATION, why, "messages")


def _param(body: bytes) -> str | None:
    try:
        param = json.loads(body)["error"]["param"]
    except (ValueError, KeyError, TypeError):
        return None
    return param.removeprefix("body.") if isinstance(param, str) and PARAMETER.match(param) else None
