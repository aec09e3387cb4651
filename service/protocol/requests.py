"""Request bodies: the fields that are passed to engines, and their types; `fields` says what becomes of any other.

They follow OpenAI's and Anthropic's APIs and vLLM's extensions; the limits are ours, and `bounded` has the fleet's.
What a struct does not describe within a message, part or tool passes untouched, and every field is forwarded unless
`rewrites` replaces it or it is private, as `user`.
"""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Raw, Struct

from service.catalog.infill import Order
from service.catalog.model import Chat, Infill, Model
from service.fleet.request_bounds import RequestBounds
from service.protocol import validation_errors
from service.protocol.parts import NOTHING, Part
from service.protocol.prompts import count_prompts, require_one_kind
from service.protocol.template_arguments import TemplateArguments
from service.protocol.tools import ChatTool, Tool

TokenCount = Annotated[int, Meta(ge=1, le=2**31)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
ModelName = Annotated[str, Meta(min_length=1, max_length=128)]
CacheSalt = Annotated[str, Meta(min_length=1, max_length=256)]
TokenId = Annotated[int, Meta(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Meta(min_length=1)]
Text = Annotated[str, Meta(min_length=1)]
Stop = Text


class OpaqueObject(Struct, gc=False):
    """A JSON object that is forwarded unread; no Python objects are made of its contents."""


class Typed(Struct, gc=False):
    """An object of which the type is read: whether a model should reason, or in which form it answers."""

    type: str | None = None


class StreamOptions(Struct, gc=False):
    """Options of a stream; the others are the engine's."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Message(Struct, gc=False):
    """A chat message, as clients write it or as they send a response back; templates decide about its role."""

    role: str
    content: str | list[Part] | None = None


class Body(Struct, kw_only=True, forbid_unknown_fields=True, gc=False):
    """What all bodies have.

    `output_limit_fields` limit the output tokens, in order of precedence. `anthropic` says whose words an error has.
    `prompt_field` holds the prompt, which an error calls `prompt_name`; `private_fields` are about the person at the
    client. Engines compile `format_fields`, and write text if it `generates`. `bounds` is how much one may ask for.
    """

    bounds: ClassVar[RequestBounds] = RequestBounds()
    prompt_field: ClassVar[str] = "messages"
    prompt_name: ClassVar[str] = "The prompt"
    private_fields: ClassVar[tuple[str, ...]] = ()
    output_limit_fields: ClassVar[tuple[str, ...]] = ()
    format_fields: ClassVar[tuple[str, ...]] = ()
    generates: ClassVar[bool] = True
    anthropic: ClassVar[bool] = False
    model: ModelName
    stream: bool | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether the client asked for a usage event at the end of a stream."""
        return False

    def output_limit(self) -> int | None:
        """The maximum number of output tokens, if the client set one."""
        for name in self.output_limit_fields:
            limit: int | None = getattr(self, name)
            if limit:
                return limit
        return None

    def count_sequences(self) -> int:
        """How many sequences an engine runs for it; 0 if it only counts tokens."""
        return 1

    def prompt_bytes(self, size: int) -> int:
        """The bytes that an engine reads for it, where the whole body has `size`."""
        return size

    def stops_of(self, model: Model) -> Chat | Infill | None:
        """The format of the catalogue whose stop conditions end its output; None if it has none of these."""
        return None


class Decoding(Body):
    """How an engine samples tokens and when it stops: the fields that all of OpenAI's generation endpoints share."""

    private_fields: ClassVar[tuple[str, ...]] = ("user",)
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Fraction | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=2)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stop | list[Stop] | None = None
    stop_token_ids: list[TokenId] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    logit_bias: dict[str, float] | None = None
    structured_outputs: OpaqueObject | None = None
    skip_special_tokens: bool | None = None
    cache_salt: CacheSalt | None = None
    user: str | None = None


class Sampling(Decoding):
    """The fields that chat and completions share."""

    stream_options: StreamOptions | None = None
    max_tokens: TokenCount | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    n: int | None = None
    response_format: Typed | None = None
    bad_words: list[Text] | None = None
    allowed_token_ids: list[TokenId] | None = None
    logprob_token_ids: list[TokenId] | None = None
    prompt_logprobs: int | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1, le=2**31)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    add_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    return_token_offsets: bool | None = None
    stream_interval: Annotated[int, Meta(ge=1, le=1024)] | None = None
    thinking_token_budget: Annotated[int, Meta(ge=-1, le=2**31)] | None = None

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    output_limit_fields: ClassVar[tuple[str, ...]] = ("max_tokens",)
    format_fields: ClassVar[tuple[str, ...]] = ("response_format", "structured_outputs")

    def count_sequences(self) -> int:
        return self.n or 1

    def __post_init__(self) -> None:
        if self.stream_options and not self.stream:
            raise validation_errors.contradiction("stream_options is only allowed with stream: true.")


class ChatRequest(Sampling, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: TokenCount | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[ChatTool] | None = None
    tool_choice: str | OpaqueObject | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    include_reasoning: bool | None = None
    chat_template_kwargs: TemplateArguments | None = None
    documents: list[OpaqueObject] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    echo: bool | None = None
    return_prompt_text: bool | None = None
    prompt_cache_key: str | None = None

    output_limit_fields: ClassVar[tuple[str, ...]] = ("max_completion_tokens", "max_tokens")

    def output_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def stops_of(self, model: Model) -> Chat | Infill | None:
        return model.chat

    def __post_init__(self) -> None:
        Sampling.__post_init__(self)
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise validation_errors.contradiction("max_tokens and max_completion_tokens differ; send only the second.")


class CompletionRequest(Sampling, kw_only=True):
    """`POST /v1/completions`. With `suffix` it is fill-in-the-middle; `infill_order` is our extension."""

    prompt_field: ClassVar[str] = "prompt"
    prompt: str | Annotated[list[TokenId | str | TokenIds], Meta(min_length=1)]
    suffix: str | None = None
    infill_order: Order | None = None
    echo: bool | None = None
    logprobs: int | None = None
    best_of: Literal[1] | None = None

    def count_sequences(self) -> int:
        return count_prompts(self.prompt) * (self.n or 1)

    def stops_of(self, model: Model) -> Chat | Infill | None:
        return None if self.suffix is None else model.infill

    def __post_init__(self) -> None:
        Sampling.__post_init__(self)
        require_one_kind("prompt", self.prompt, min(self.bounds.prompts, self.bounds.sequences))
        if self.count_sequences() > self.bounds.sequences:
            text = f"it should be at most {self.bounds.sequences} divided by the number of prompts"
            raise validation_errors.invalid_value("n", text)
        if self.suffix is not None and not isinstance(self.prompt, str):
            raise validation_errors.contradiction("with suffix, prompt must be one string: the text before the gap.")
        if self.suffix is not None and self.echo:
            text = "echo cannot be combined with suffix: the engine's prompt is not yours."
            raise validation_errors.contradiction(text)
        if self.suffix is None and self.infill_order is not None:
            raise validation_errors.contradiction("infill_order is only allowed with suffix.")


class Item(Struct, gc=False):
    """One item of a Responses API input; those with a role are messages, and the results of tools have an output."""

    type: str | None = None
    role: str | None = None
    content: str | list[Part] | None = None
    output: Raw = NOTHING
    id: str | None = None


class ResponsesRequest(Decoding, kw_only=True):
    """`POST /v1/responses`; `previous_response_id` and references stand for stored items."""

    prompt_field: ClassVar[str] = "input"
    private_fields: ClassVar[tuple[str, ...]] = ("user", "metadata")
    input: str | list[Item]
    instructions: str | None = None
    max_output_tokens: TokenCount | None = None
    text: OpaqueObject | None = None
    reasoning: OpaqueObject | None = None
    tools: list[Tool] | None = None
    tool_choice: str | OpaqueObject | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Annotated[int, Meta(ge=1)] | None = None
    top_logprobs: int | None = None
    include_reasoning: bool | None = None
    chat_template_kwargs: TemplateArguments | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    include: list[str] | None = None
    prompt_cache_key: str | None = None
    previous_response_id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    background: bool | None = None
    conversation: None = None

    output_limit_fields: ClassVar[tuple[str, ...]] = ("max_output_tokens",)
    format_fields: ClassVar[tuple[str, ...]] = ("structured_outputs", "text")

    def stops_of(self, model: Model) -> Chat | Infill | None:
        return model.chat

    def __post_init__(self) -> None:
        if self.background and self.store is False:
            raise validation_errors.contradiction("background needs store: true, for the response to be found later.")
        if self.background and self.stream:
            text = "background cannot be combined with stream: ask for the response with GET /v1/responses/{id}."
            raise validation_errors.contradiction(text)


class EmbeddingsRequest(Body, kw_only=True):
    """`POST /v1/embeddings`."""

    prompt_field: ClassVar[str] = "input"
    private_fields: ClassVar[tuple[str, ...]] = ("user",)
    generates: ClassVar[bool] = False
    input: Text | Annotated[list[TokenId | Text | TokenIds], Meta(min_length=1)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: TokenCount | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1, le=2**31)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    use_activation: bool | None = None
    cache_salt: CacheSalt | None = None
    user: str | None = None

    def count_sequences(self) -> int:
        return count_prompts(self.input)

    def __post_init__(self) -> None:
        if self.stream:
            raise validation_errors.invalid_value("stream", "it should be false")
        require_one_kind("input", self.input, min(self.bounds.inputs, self.bounds.sequences))
