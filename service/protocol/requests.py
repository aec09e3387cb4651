"""Request bodies: the fields that exist and their types. Anything else is rejected before it reaches an engine.

The structs follow OpenAI's API reference and Anthropic's Messages API; the limits are ours. Engines get the client's
own bytes, so every field is forwarded unless `rewrites` replaces it or it is one of `private_fields`, such as `user`.
"""

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct

from service.catalog.infill import Order
from service.fleet.request_bounds import MAX_CHOICES, MAX_INPUTS, MAX_PROMPTS
from service.protocol import validation_errors

TokenCount = Annotated[int, Meta(ge=1, le=2**31)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
ModelName = Annotated[str, Meta(min_length=1, max_length=128)]
TokenId = Annotated[int, Meta(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Meta(min_length=1)]
Text = Annotated[str, Meta(min_length=1)]
Stop = Annotated[str, Meta(min_length=1, max_length=64)]
Stops = Stop | Annotated[list[Stop], Meta(max_length=4)]


class Strict(Struct, forbid_unknown_fields=True, gc=False):
    """A part of a request that rejects unknown fields."""


class OpaqueObject(Struct, gc=False):
    """A JSON object that is forwarded unread; no Python objects are made of its contents."""


class StreamOptions(Strict):
    """Options of a stream."""

    include_usage: bool | None = None


class TextPart(Strict):
    """A text part of a message."""

    type: Literal["text"]
    text: str
    cache_control: OpaqueObject | None = None


class AnyPart(Struct, gc=False):
    """A part of any type; only its text is read, if it has one."""

    text: str | None = None


class Message(Strict):
    """A chat message, as clients write it or as SDKs send a response back."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: Annotated[str, Meta(max_length=64)] | None = None
    tool_calls: list[OpaqueObject] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    annotations: list[OpaqueObject] | None = None
    audio: None = None
    function_call: None = None


class Body(Strict, kw_only=True):
    """What all bodies have. `output_limit_fields` are those that limit the output tokens, in order of precedence.

    `prompt_field` is the one that holds the prompt; `private_fields` are about the person at the client: accepted, and
    not passed on.
    """

    prompt_field: ClassVar[str] = "messages"
    private_fields: ClassVar[tuple[str, ...]] = ()
    output_limit_fields: ClassVar[tuple[str, ...]] = ()
    model: ModelName
    stream: bool | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether the client asked for a usage event at the end of a stream."""
        return False

    @property
    def output_limit(self) -> int | None:
        """The maximum number of output tokens, if the client set one."""
        return next((found for name in self.output_limit_fields if (found := getattr(self, name))), None)


class Sampling(Body):
    """The fields that chat and completions share."""

    private_fields: ClassVar[tuple[str, ...]] = ("user",)
    stream_options: StreamOptions | None = None
    max_tokens: TokenCount | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Fraction | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=2)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stops | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=16)] | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=300)] | None = None
    user: str | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether the client asked for a usage event at the end of a stream."""
        return bool(self.stream_options and self.stream_options.include_usage)

    output_limit_fields: ClassVar[tuple[str, ...]] = ("max_tokens",)

    def __post_init__(self) -> None:
        if self.stream_options and not self.stream:
            raise validation_errors.contradiction("stream_options is only allowed with stream: true.")


class ChatRequest(Sampling, kw_only=True):
    """`POST /v1/chat/completions`."""

    private_fields: ClassVar[tuple[str, ...]] = ("user", "metadata", "safety_identifier")
    messages: Annotated[list[Message], Meta(min_length=1, max_length=1024)]
    max_completion_tokens: TokenCount | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[OpaqueObject], Meta(max_length=64)] | None = None
    tool_choice: str | OpaqueObject | None = None
    parallel_tool_calls: bool | None = None
    response_format: OpaqueObject | None = None
    reasoning_effort: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None

    output_limit_fields: ClassVar[tuple[str, ...]] = ("max_completion_tokens", "max_tokens")

    def __post_init__(self) -> None:
        Sampling.__post_init__(self)
        _require_false("store", self.store)
        both = self.max_tokens is not None and self.max_completion_tokens is not None
        if both and self.max_tokens != self.max_completion_tokens:
            raise validation_errors.contradiction(
                "max_tokens and max_completion_tokens differ; send only max_completion_tokens."
            )


class CompletionRequest(Sampling, kw_only=True):
    """`POST /v1/completions`. With `suffix` it is fill-in-the-middle; `infill_order` is our extension."""

    prompt_field: ClassVar[str] = "prompt"
    prompt: str | Annotated[list[TokenId | str], Meta(min_length=1)]
    suffix: str | None = None
    infill_order: Order | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    best_of: Literal[1] | None = None

    def __post_init__(self) -> None:
        Sampling.__post_init__(self)
        _require_one_kind("prompt", self.prompt, MAX_PROMPTS)
        if self.suffix is not None and not isinstance(self.prompt, str):
            raise validation_errors.contradiction("with suffix, prompt must be one string: the text before the gap.")
        if self.suffix is not None and self.echo:
            raise validation_errors.contradiction(
                "echo cannot be combined with suffix: the engine's prompt is not the one that you sent."
            )
        if self.suffix is None and self.infill_order is not None:
            raise validation_errors.contradiction("infill_order is only allowed with suffix.")
        if self.echo and self.logprobs is not None:
            raise validation_errors.contradiction("echo cannot be combined with logprobs here.")


class Item(Struct, gc=False):
    """One item of a Responses API input; those with a role are messages."""

    role: str | None = None
    content: str | list[AnyPart] | None = None


class ResponsesRequest(Body, kw_only=True):
    """`POST /v1/responses`, stateless: the client sends the whole conversation each time."""

    prompt_field: ClassVar[str] = "input"
    private_fields: ClassVar[tuple[str, ...]] = ("user", "metadata", "safety_identifier")
    input: str | list[Item]
    instructions: str | None = None
    max_output_tokens: TokenCount | None = None
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    text: OpaqueObject | None = None
    reasoning: OpaqueObject | None = None
    tools: Annotated[list[OpaqueObject], Meta(max_length=64)] | None = None
    tool_choice: str | OpaqueObject | None = None
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
    background: bool | None = None
    conversation: None = None

    output_limit_fields: ClassVar[tuple[str, ...]] = ("max_output_tokens",)

    def __post_init__(self) -> None:
        _require_false("background", self.background)


class AnthropicMessage(Strict):
    """A message of Anthropic's Messages API."""

    role: Literal["user", "assistant"]
    content: str | list[AnyPart]


class CountRequest(Body, kw_only=True):
    """`POST /v1/messages/count_tokens`."""

    messages: Annotated[list[AnthropicMessage], Meta(min_length=1, max_length=1024)]
    system: str | list[TextPart] | None = None
    tools: Annotated[list[OpaqueObject], Meta(max_length=64)] | None = None
    tool_choice: OpaqueObject | None = None
    thinking: OpaqueObject | None = None


class MessagesRequest(CountRequest, kw_only=True):
    """`POST /v1/messages`."""

    private_fields: ClassVar[tuple[str, ...]] = ("metadata",)
    max_tokens: TokenCount
    stop_sequences: Annotated[list[Stop], Meta(max_length=4)] | None = None
    temperature: Fraction | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    top_p: Fraction | None = None
    metadata: OpaqueObject | None = None
    service_tier: str | None = None

    output_limit_fields: ClassVar[tuple[str, ...]] = ("max_tokens",)


class EmbeddingsRequest(Body, kw_only=True):
    """`POST /v1/embeddings`."""

    prompt_field: ClassVar[str] = "input"
    private_fields: ClassVar[tuple[str, ...]] = ("user",)
    input: Text | Annotated[list[TokenId | Text | TokenIds], Meta(min_length=1)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: TokenCount | None = None
    user: str | None = None

    def __post_init__(self) -> None:
        _require_false("stream", self.stream)
        _require_one_kind("input", self.input, MAX_INPUTS)


def _require_false(name: str, value: bool | None) -> None:
    if value:
        raise validation_errors.invalid_value(name, "it should be false")


def _require_one_kind(name: str, value: str | list[Any], max_items: int) -> None:
    """Requires a list to be of texts only, of prompts of token ids only, or the token ids of one prompt."""
    if isinstance(value, str):
        return
    kinds = set(map(type, value))
    if len(kinds) > 1:
        raise validation_errors.invalid_value(name, "it should be texts only, or token ids only")
    if int not in kinds and len(value) > max_items:
        raise validation_errors.invalid_value(name, f"it should be a list of at most {max_items} items")
