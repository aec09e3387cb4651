"""Request bodies: which fields exist, and of what type. Everything else is refused before an engine sees it.

The models follow OpenAI's API reference and Anthropic's Messages API; the bounds are ours. A body is parsed once, into
one of these; what the engine gets are the client's own bytes with a few fields set anew at the end (see `edited`).
"""

import json
from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import ApiError, invalid
from service.prompts import Order

Tokens = Annotated[int, Field(ge=1, le=2**31)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
ModelName = Annotated[str, Field(min_length=1, max_length=128)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]
Text = Annotated[str, Field(min_length=1)]
Stop = Annotated[str, Field(min_length=1, max_length=64)]
Stops = Stop | Annotated[list[Stop], Field(max_length=4)]
Extras = dict[str, Any]


class Wire(BaseModel):
    """A part of a request: strict, and closed to unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StreamOptions(Wire):
    """What a stream should carry besides text."""

    include_usage: bool | None = None


class TextPart(Wire):
    """A piece of text in a message."""

    type: Literal["text"]
    text: str
    cache_control: Extras | None = None


class Message(Wire):
    """One turn of a conversation, as clients write it and as SDKs hand an answer back."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: Annotated[str, Field(max_length=64)] | None = None
    tool_calls: list[Extras] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    annotations: list[Extras] | None = None
    audio: None = None
    function_call: None = None


class Body(Wire):
    """What every request has. `bounds` are the fields that may bound an answer's tokens, the first one first."""

    bounds: ClassVar[tuple[str, ...]] = ()
    model: ModelName
    stream: bool | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether the client asked for usage at the end of a stream."""
        return False

    @property
    def bound(self) -> int | None:
        """The most tokens that the answer may have, where the client says so."""
        return next((found for name in self.bounds if (found := getattr(self, name))), None)


class Sampling(Body):
    """The sampling fields that chat and completions share. `user` and its like are accepted and not passed on."""

    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    n: Annotated[int, Field(ge=1, le=4)] | None = None
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Fraction | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stops | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=16)] | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=300)] | None = None
    user: str | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether the client asked for usage at the end of a stream."""
        return bool(self.stream_options and self.stream_options.include_usage)

    bounds: ClassVar[tuple[str, ...]] = ("max_tokens",)

    @model_validator(mode="after")
    def _streams_if_it_has_options(self) -> "Sampling":
        if self.stream_options and not self.stream:
            raise ValueError("stream_options is only allowed with stream: true")
        return self


class ChatRequest(Sampling):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Extras], Field(max_length=64)] | None = None
    tool_choice: str | Extras | None = None
    parallel_tool_calls: bool | None = None
    response_format: Extras | None = None
    reasoning_effort: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None

    bounds: ClassVar[tuple[str, ...]] = ("max_completion_tokens", "max_tokens")

    @model_validator(mode="after")
    def _has_one_limit(self) -> "ChatRequest":
        both = self.max_tokens is not None and self.max_completion_tokens is not None
        if both and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ; send only max_completion_tokens")
        return self


class CompletionRequest(Sampling):
    """`POST /v1/completions`. With `suffix` the model fills in the middle; `infill_order` is a field of our own."""

    prompt: str | TokenIds | Annotated[list[str], Field(min_length=1, max_length=8)]
    suffix: str | None = None
    infill_order: Order | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    best_of: Literal[1] | None = None

    @model_validator(mode="after")
    def _has_a_text_before_its_suffix(self) -> "CompletionRequest":
        if self.suffix is not None and not isinstance(self.prompt, str):
            raise ValueError("with suffix, prompt must be one string: the text before the gap")
        if self.suffix is not None and self.echo:
            raise ValueError("echo and suffix do not go together: what the engine reads is not the prompt you sent")
        if self.suffix is None and self.infill_order is not None:
            raise ValueError("infill_order is only allowed with suffix")
        if self.echo and self.logprobs is not None:
            raise ValueError("echo and logprobs do not go together here")
        return self


class ResponsesRequest(Body):
    """`POST /v1/responses`, without stored state: the client sends the whole conversation each time."""

    input: str | list[Extras]
    instructions: str | None = None
    max_output_tokens: Tokens | None = None
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    text: Extras | None = None
    reasoning: Extras | None = None
    tools: Annotated[list[Extras], Field(max_length=64)] | None = None
    tool_choice: str | Extras | None = None
    parallel_tool_calls: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    include: list[str] | None = None
    user: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    previous_response_id: None = None
    background: Literal[False] | None = None
    conversation: None = None

    bounds: ClassVar[tuple[str, ...]] = ("max_output_tokens",)


class AnthropicMessage(Wire):
    """One turn of Anthropic's Messages API."""

    role: Literal["user", "assistant"]
    content: str | list[Extras]


class CountRequest(Body):
    """`POST /v1/messages/count_tokens`."""

    messages: Annotated[list[AnthropicMessage], Field(min_length=1, max_length=1024)]
    system: str | list[TextPart] | None = None
    tools: Annotated[list[Extras], Field(max_length=64)] | None = None
    tool_choice: Extras | None = None
    thinking: Extras | None = None


class MessagesRequest(CountRequest):
    """`POST /v1/messages`."""

    max_tokens: Tokens
    stop_sequences: Annotated[list[Stop], Field(max_length=4)] | None = None
    temperature: Fraction | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    top_p: Fraction | None = None
    metadata: Extras | None = None
    service_tier: str | None = None

    bounds: ClassVar[tuple[str, ...]] = ("max_tokens",)


class EmbeddingsRequest(Body):
    """`POST /v1/embeddings`."""

    stream: None = None
    input: Text | TokenIds | Annotated[list[Text] | list[TokenIds], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Tokens | None = None
    user: str | None = None


def read(kind: type[Body], body: bytes, extra_fields: Collection[str] = ()) -> Body:
    """The body as a `kind`; raises the 400 that says which field is wrong and how.

    `extra_fields` are names the fleet lets through to the engine unread.
    """
    try:
        if extra_fields and any(f'"{name}"'.encode() in body for name in extra_fields):
            fields = json.loads(body)
            if isinstance(fields, dict):
                unread = set(extra_fields) - kind.model_fields.keys()
                body = json.dumps({key: value for key, value in fields.items() if key not in unread}).encode()
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from None
    except ValueError as error:
        raise invalid(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    except RecursionError:
        raise invalid("The body is not valid JSON: it is nested too deeply.", code="invalid_json") from None


def edited(body: bytes, fields: dict[str, Any]) -> bytes:
    """The JSON object in `body` with `fields` set anew, the client's own bytes otherwise untouched.

    The fields are appended: every JSON reader in use here takes the last of two members with one name.
    """
    if not fields:
        return body
    return body.rstrip()[:-1] + b"," + json.dumps(fields).encode()[1:]


def _refusal(error: ValidationError) -> ApiError:
    # Of a union's branches the one that got furthest says what the client got wrong.
    item = min(error.errors(include_url=False), key=lambda one: (one["type"].endswith("_type"), -len(one["loc"])))
    kind, message = item["type"], item["msg"].removeprefix("Value error, ")
    if kind == "json_invalid":
        return invalid(f"The body is not valid JSON: {item['ctx']['error']}.", code="invalid_json")
    if kind == "extra_forbidden":
        # The client's own word, whatever it is; cut short, because it is repeated in the answer.
        around, own = _path(item["loc"][:-1]), str(item["loc"][-1])[:64]
        unknown = f"{around}.{own}" if around else own
        return invalid(f"Unknown parameter: '{unknown}'. Leave it out.", unknown, "unknown_parameter")
    name = _path(item["loc"])
    if name is None:
        if kind == "value_error":
            return invalid(f"{message}.")
        return invalid("The body must be a JSON object.", code="invalid_json")
    if kind == "missing":
        return invalid(f"'{name}' is required.", name, "missing_required_parameter")
    return invalid(f"'{name}' is wrong: {message[0].lower()}{message[1:]}.", name, "invalid_value")


def _path(location: tuple[str | int, ...]) -> str | None:
    """`("messages", 0, "content", "list[TextPart]", 1)` → `messages[0].content[1]`, without pydantic's branches."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location if not _is_branch(part))
    return "".join(parts).lstrip(".") or None


def _is_branch(part: str | int) -> bool:
    return isinstance(part, str) and (not part.isidentifier() or part in ("str", "int", "float", "TextPart"))
