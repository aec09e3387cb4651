"""Request bodies: which fields exist, and of what type. Everything else is refused before an engine sees it.

The structs follow OpenAI's API reference and Anthropic's Messages API; the bounds are ours. Of what is only passed on
nothing is made: it is an `Object`.
"""

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct

from service.catalog.chat_templates import Order
from service.protocol import validation_errors

Tokens = Annotated[int, Meta(ge=1, le=2**31)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
ModelName = Annotated[str, Meta(min_length=1, max_length=128)]
TokenId = Annotated[int, Meta(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Meta(min_length=1)]
Text = Annotated[str, Meta(min_length=1)]
Stop = Annotated[str, Meta(min_length=1, max_length=64)]
Stops = Stop | Annotated[list[Stop], Meta(max_length=4)]


class Wire(Struct, forbid_unknown_fields=True, gc=False):
    """A part of a request: closed to unknown fields."""


class Object(Struct, gc=False):
    """An object that is only passed on: nobody here looks into it."""


class StreamOptions(Wire):
    """What a stream should carry besides text."""

    include_usage: bool | None = None


class TextPart(Wire):
    """A piece of text in a message."""

    type: Literal["text"]
    text: str
    cache_control: Object | None = None


class Part(Struct, gc=False):
    """A piece of any kind, of which we know its text, if it has one."""

    text: str | None = None


class Message(Wire):
    """One turn of a conversation, as clients write it and as SDKs hand an answer back."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: Annotated[str, Meta(max_length=64)] | None = None
    tool_calls: list[Object] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    annotations: list[Object] | None = None
    audio: None = None
    function_call: None = None


class Body(Wire, kw_only=True):
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
    n: Annotated[int, Meta(ge=1, le=4)] | None = None
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
        """Whether the client asked for usage at the end of a stream."""
        return bool(self.stream_options and self.stream_options.include_usage)

    bounds: ClassVar[tuple[str, ...]] = ("max_tokens",)

    def __post_init__(self) -> None:
        if self.stream_options and not self.stream:
            raise validation_errors.contradiction("stream_options is only allowed with stream: true.")


class ChatRequest(Sampling, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=1024)]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[Object], Meta(max_length=64)] | None = None
    tool_choice: str | Object | None = None
    parallel_tool_calls: bool | None = None
    response_format: Object | None = None
    reasoning_effort: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None

    bounds: ClassVar[tuple[str, ...]] = ("max_completion_tokens", "max_tokens")

    def __post_init__(self) -> None:
        Sampling.__post_init__(self)
        _is_off("store", self.store)
        both = self.max_tokens is not None and self.max_completion_tokens is not None
        if both and self.max_tokens != self.max_completion_tokens:
            raise validation_errors.contradiction(
                "max_tokens and max_completion_tokens differ; send only max_completion_tokens."
            )


class CompletionRequest(Sampling, kw_only=True):
    """`POST /v1/completions`. With `suffix` the model fills in the middle; `infill_order` is a field of our own."""

    prompt: str | Annotated[list[TokenId | str], Meta(min_length=1)]
    suffix: str | None = None
    infill_order: Order | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    best_of: Literal[1] | None = None

    def __post_init__(self) -> None:
        Sampling.__post_init__(self)
        _are_alike("prompt", self.prompt, 8)
        if self.suffix is not None and not isinstance(self.prompt, str):
            raise validation_errors.contradiction("with suffix, prompt must be one string: the text before the gap.")
        if self.suffix is not None and self.echo:
            raise validation_errors.contradiction(
                "echo and suffix do not go together: what the engine reads is not the prompt you sent."
            )
        if self.suffix is None and self.infill_order is not None:
            raise validation_errors.contradiction("infill_order is only allowed with suffix.")
        if self.echo and self.logprobs is not None:
            raise validation_errors.contradiction("echo and logprobs do not go together here.")


class Item(Struct, gc=False):
    """One item of the Responses API's input: a turn of a conversation where it has a role."""

    role: str | None = None
    content: str | list[Part] | None = None


class ResponsesRequest(Body, kw_only=True):
    """`POST /v1/responses`, without stored state: the client sends the whole conversation each time."""

    input: str | list[Item]
    instructions: str | None = None
    max_output_tokens: Tokens | None = None
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    text: Object | None = None
    reasoning: Object | None = None
    tools: Annotated[list[Object], Meta(max_length=64)] | None = None
    tool_choice: str | Object | None = None
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

    bounds: ClassVar[tuple[str, ...]] = ("max_output_tokens",)

    def __post_init__(self) -> None:
        _is_off("background", self.background)


class AnthropicMessage(Wire):
    """One turn of Anthropic's Messages API."""

    role: Literal["user", "assistant"]
    content: str | list[Part]


class CountRequest(Body, kw_only=True):
    """`POST /v1/messages/count_tokens`."""

    messages: Annotated[list[AnthropicMessage], Meta(min_length=1, max_length=1024)]
    system: str | list[TextPart] | None = None
    tools: Annotated[list[Object], Meta(max_length=64)] | None = None
    tool_choice: Object | None = None
    thinking: Object | None = None


class MessagesRequest(CountRequest, kw_only=True):
    """`POST /v1/messages`."""

    max_tokens: Tokens
    stop_sequences: Annotated[list[Stop], Meta(max_length=4)] | None = None
    temperature: Fraction | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    top_p: Fraction | None = None
    metadata: Object | None = None
    service_tier: str | None = None

    bounds: ClassVar[tuple[str, ...]] = ("max_tokens",)


class EmbeddingsRequest(Body, kw_only=True):
    """`POST /v1/embeddings`."""

    stream: None = None
    input: Text | Annotated[list[TokenId | Text | TokenIds], Meta(min_length=1)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Tokens | None = None
    user: str | None = None

    def __post_init__(self) -> None:
        _are_alike("input", self.input, 2048)


def _is_off(name: str, value: bool | None) -> None:
    if value:
        raise validation_errors.invalid_value(name, "it should be false")


def _are_alike(name: str, value: str | list[Any], most: int) -> None:
    """Several texts, or several prompts of token ids, or the token ids of one prompt."""
    if isinstance(value, str):
        return
    kinds = set(map(type, value))
    if len(kinds) > 1:
        raise validation_errors.invalid_value(name, "it should be texts only, or token ids only")
    if int not in kinds and len(value) > most:
        raise validation_errors.invalid_value(name, f"it should be a list of at most {most} items")
