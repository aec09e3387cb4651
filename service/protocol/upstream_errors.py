"""The errors of engines translated to our own: what the client has to change, in the names of its own fields."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from service.errors import ApiError, ErrorCode
from service.fleet.served_model import ServedModel
from service.protocol.redaction import redact
from service.protocol.requests import Body
from service.protocol.validation_reports import Problem, problem

MAX_SEARCHED = 2**20  # bytes; in a larger body nobody looks for what an engine quotes, so its words are kept back

TOO_LONG = (
    re.compile(
        r"maximum context length is (?P<limit>\d+) tokens"
        r"(?:\. However, your prompt contains (?P<least>at least )?(?P<tokens>\d+) input tokens)?"
    ),
    re.compile(r"prompt \(length (?P<tokens>\d+)\).* longer than the maximum model length of (?P<limit>\d+)"),
    re.compile(r"Input length \((?P<tokens>\d+)\) exceeds model's maximum context length \((?P<limit>\d+)\)"),
)
BRANCH = re.compile(r"[.\[]")
PARAM = re.compile(r"[A-Za-z_][\w.\[\]]{0,63}", re.ASCII)
MAX_TOKENS = re.compile(r"max_(?:completion_|output_)?tokens=(\d+) cannot be greater than max_model_len=(\d+)")
NO_TEMPLATE = "default chat template is no longer allowed"
NO_TOOL_PARSER = re.compile(r"tool.choice.* requires|tool-call-parser")
TEMPLATE_ERROR = re.compile(r"emplate|onversation roles|alternate")
# Raised by our own chat templates, models/templates/.
WRONG_ROLE = re.compile(r"expected (user|assistant|tool), found (system|user|assistant|tool)\.")
OWN_TEMPLATES = {
    "This model has no tools": "The chat template of '{model}' has no tools: leave out 'tools' and messages of role "
    "'tool'.",
    "calls one tool at a time": "'{model}' calls one tool at a time: an assistant message may have only one of "
    "'tool_calls'.",
    "holds no user message": "The chat template of '{model}' needs a message of role 'user': add one.",
}
GRAMMAR = re.compile(
    r"Grammar error|Failed to transform [\w ]+ into a grammar|Invalid (?:JSON )?grammar|Error parsing regex"
    r"|JSON schema (?:contains|is nested)|Failed to compile regex|Regex compilation"
)
CONSTRAINTS = ("response_format", "text", "output_config", "structured_outputs", "tools")
PROMPT = "{prompt}"

# vLLM's messages in our words: a pattern, what the client gets, and the field at fault. Its numbers fill the gaps.
KNOWN = tuple(
    (re.compile(pattern), text, param)
    for pattern, text, param in (
        (
            r"n must be 1 when using greedy sampling, got (\d+)",
            "'n' is {0} and must be 1 where 'temperature' is 0, because all answers would be the same.", "n",
        ),
        (r"Token id (-?\d+) is out of vocabulary", "'{model}' has no token with the id {0}.", PROMPT),
        (
            r"in (\w+) contain out-of-vocab token ids\. Vocabulary size: (\d+)",
            "'{0}' has token ids that '{model}' does not have: its vocabulary ends before {1}.", "{0}",
        ),
        (r"logit_bias contains key\(s\) that cannot", "The keys of 'logit_bias' must be token ids.", "logit_bias"),
        (r"'required' must be .* 'tools'", "'tool_choice' is 'required', which needs 'tools'.", "tool_choice"),
        (r"is not a multimodal model", "'{model}' takes text only: leave out images, audio and video.", PROMPT),
        (
            r"At most (\d+) image\(s\) may be provided",
            "'{model}' takes {0} images in one request at most: leave some out.", PROMPT,
        ),
        (
            r"Failed to load image",
            "Could not process image: its data is damaged or incomplete. Send the whole file, or leave it out.", PROMPT,
        ),
        (
            r"Invalid value for `tool_choice`",
            "'tool_choice' must be 'none', 'auto', 'required' or name a function.", "tool_choice",
        ),
        (
            r"Unsupported input item type: item_reference",
            "'input' refers to an item of an earlier response, and nothing is stored here: send the items themselves, "
            "as clients do with 'store': false.", "input",
        ),
        (r"Unsupported input item type: (\w{1,40})$", "'input' has an item of type '{0}': leave it out.", "input"),
        (
            r"Encrypted content is not supported",
            "'input' has a reasoning item with 'encrypted_content': leave it out.", "input",
        ),
        (
            r"(max_tokens_per_(?:doc|query)) \((\d+)\) must be less than max_model_len \((\d+)\)",
            "'{0}' is {1} and must be less than the context of '{model}', which is {2} tokens.", "{0}",
        ),
        (
            r"does not support Matryoshka embeddings",
            "The embeddings of '{model}' have one size only: leave 'dimensions' out.", "dimensions",
        ),
    )
)  # fmt: skip


class EngineError(NamedTuple):
    """What an engine's error says of itself. `message` is empty where the body has none."""

    message: str
    param: str | None


class TooLong(NamedTuple):
    """A prompt that does not fit. `tokens` is its length, None if unknown; `least` says that it is a lower bound."""

    limit: int
    tokens: int | None
    least: bool


@dataclass(frozen=True)
class Rejected:
    """The request that an engine answered with an error: parsed, and as the client's bytes."""

    request: Body
    body: bytes

    @cached_property
    def fields(self) -> dict[str, Any] | None:
        """The decoded body, None if it is too large or nested too deeply to be searched."""
        try:
            return dict(json.loads(self.body)) if len(self.body) <= MAX_SEARCHED else None
        except RecursionError:
            return None

    def has(self, field: str) -> bool:
        """Whether the client sent this member of the body."""
        return self.fields is not None and self.fields.get(field) is not None


def engine_error(body: bytes) -> EngineError:
    """The message and param in an error response or error event of any endpoint."""
    try:
        error = json.loads(body)["error"]
        message, param = error["message"], error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return EngineError("", None)
    return EngineError(message if isinstance(message, str) else "", param if isinstance(param, str) else None)


def too_long(message: str) -> TooLong | None:
    """How long the prompt was, if an engine says that it is too long. Characters that it counted are no tokens."""
    for pattern in TOO_LONG:
        if found := pattern.search(message):
            parts = found.groupdict()
            tokens = parts["tokens"]
            return TooLong(int(parts["limit"]), int(tokens) if tokens else None, bool(parts.get("least")))
    return None


def upstream_error(
    status: int, body: bytes, served: ServedModel, rejected: Rejected, prompt_tokens: int | None = None
) -> ApiError:
    """Our error for a response of an engine with this status.

    It has the engine's reason where the request is at fault, without what that quotes. `prompt_tokens` is the length of
    the prompt if it was counted because the engine did not say it.
    """
    if status == 503:
        message = f"The engine of '{served.id}' is full. Try again later."
        return ApiError(ErrorCode.OVERLOADED, message, retry_after=1.0)
    if status not in (400, 413, 422):
        return ApiError(ErrorCode.UPSTREAM_ERROR, f"The engine of '{served.id}' failed (status {status}).")
    error = engine_error(body)
    if found := too_long(error.message):
        if prompt_tokens and prompt_tokens > found.limit:
            found = TooLong(found.limit, prompt_tokens, least=False)
        return _prompt_error(found, served, rejected)
    if limits := MAX_TOKENS.search(error.message):
        return _max_tokens_error(int(limits[1]), int(limits[2]), served, rejected)
    return _named_error(error, served, rejected) or _unknown_error(error, served, rejected)


def reason(body: bytes, rejected: Rejected) -> str | None:
    """An engine's own words about its error, for the log; nothing that the request has too is in them."""
    message, fields = engine_error(body).message, rejected.fields
    if fields is None:
        return None
    if found := problem(message, fields):
        return f"{found.field}: {_why(found, rejected)}" if found.field else _why(found, rejected) or None
    return _redacted(message, rejected) or None


def _prompt_error(found: TooLong, served: ServedModel, rejected: Rejected) -> ApiError:
    limit, tokens = found.limit, found.tokens
    if rejected.request.anthropic:
        exact = tokens and not found.least
        # A prompt as long as the context leaves no room for an answer.
        text = f"{tokens} tokens > {limit - (tokens == limit)} maximum" if exact else f"more than {limit} tokens"
        message = f"prompt is too long: {text}"
    elif tokens:
        least = "at least " if found.least else ""
        length = f"{least}{tokens} tokens and the context of '{served.id}' is {limit} tokens"
        message = f"{rejected.request.prompt_name} has {length}. Shorten it."
    else:
        context = f"longer than the context of '{served.id}', which is {limit} tokens"
        message = f"{rejected.request.prompt_name} is {context}. Shorten it."
    return ApiError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, message, rejected.request.prompt_field)


def _max_tokens_error(wanted: int, limit: int, served: ServedModel, rejected: Rejected) -> ApiError:
    request = rejected.request
    field = next((name for name in request.output_limit_fields if getattr(request, name)), "max_tokens")
    if rejected.request.anthropic:
        maximum = f"which is the maximum allowed number of output tokens for {request.model}"
        message = f"{field}: {wanted} > {limit}, {maximum}"
    else:
        message = f"{field} is {wanted} and the context of '{served.id}' is {limit} tokens. Ask for fewer."
    return ApiError(ErrorCode.MAX_TOKENS_TOO_LARGE, message, field)


def _named_error(error: EngineError, served: ServedModel, rejected: Rejected) -> ApiError | None:
    """The error for a message of which we know what it means."""
    text, prompt = error.message, rejected.request.prompt_field
    if NO_TEMPLATE in text:
        message = f"'{served.id}' has no chat template: set 'chat_template' in the fleet file, or use /v1/completions."
        return ApiError(ErrorCode.NO_CHAT_TEMPLATE, message, prompt)
    if error.param is None and (told := _template_message(text, served)):
        return ApiError(ErrorCode.INVALID_CONVERSATION, told, prompt)
    if NO_TOOL_PARSER.search(text):
        message = (
            f"'{served.id}' is served without tool calls: set enable_auto_tool_choice and tool_call_parser in its "
            "engine settings, or leave 'tools' out."
        )
        return ApiError(ErrorCode.TOOLS_NOT_SERVED, message, "tools")
    for pattern, words, param in KNOWN:
        if found := pattern.search(text):
            fill: Mapping[str, str] = {"model": served.id, "prompt": prompt}
            return ApiError(
                ErrorCode.UPSTREAM_REJECTED,
                words.format(*found.groups(), **fill),
                param.format(*found.groups(), **fill),
            )
    return None


def _template_message(text: str, served: ServedModel) -> str | None:
    """What to say of a conversation that the model's chat template rejects, if the engine reports that."""
    if found := WRONG_ROLE.search(text):
        return (
            f"The chat template of '{served.id}' expects a message of role '{found[1]}' where there is one of role "
            f"'{found[2]}': change the roles or their order."
        )
    for words, message in OWN_TEMPLATES.items():
        if words in text:
            return message.format(model=served.id)
    if TEMPLATE_ERROR.search(text):
        return f"The chat template of '{served.id}' rejects these messages: check the roles and their order."
    return None


def _unknown_error(error: EngineError, served: ServedModel, rejected: Rejected) -> ApiError:
    """The error for any other message: its own words, as far as they quote nothing, and the client's own field."""
    code, subject = ErrorCode.UPSTREAM_REJECTED, f"The engine of '{served.id}' rejected"
    if rejected.fields and (found := problem(error.message, rejected.fields)):
        why = _why(found, rejected)
        if found.field:
            return ApiError(code, f"{subject} '{found.field}': {why}.", found.field)
        return ApiError(code, f"{subject} the request: {why or 'its fields do not go together'}.")
    why, param = _redacted(error.message, rejected), _own_field(error, rejected)
    if GRAMMAR.search(error.message) and (param := param or next(filter(rejected.has, CONSTRAINTS), None)):
        return ApiError(code, f"{subject} '{param}', which it cannot follow{f': {why}' if why else ''}.", param)
    if why:
        return ApiError(code, f"{subject} the request: {why}.", param)
    cause = f"'{param}'" if param else "its contents"
    return ApiError(code, f"{subject} the request because of {cause}.", param)


def _why(found: Problem, rejected: Rejected) -> str:
    return _redacted(found.reason, rejected) if found.free else found.reason


def _redacted(text: str, rejected: Rejected) -> str:
    fields = rejected.fields
    return redact(text, fields, rejected.request.__struct_fields__) if fields is not None else ""


def _own_field(error: EngineError, rejected: Rejected) -> str | None:
    """The field that an engine's error is about, by its param or its first word, if the client sent it."""
    names = (error.param or "").removeprefix("body."), error.message.partition(" ")[0].strip("`'")
    if names[0] in ("input_text", "input_tokens", "input_ids"):
        return rejected.request.prompt_field
    return next((name for name in names if PARAM.fullmatch(name) and rejected.has(BRANCH.split(name)[0])), None)
