"""Request bodies of Anthropic's Messages API; see `requests`."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from service.catalog.model import Chat, Infill, Model
from service.protocol.parts import Block
from service.protocol.requests import Body, CacheSalt, Fraction, OpaqueObject, Stop, TokenCount, Typed
from service.protocol.template_arguments import TemplateArguments
from service.protocol.tools import Tool


class AnthropicMessage(Struct, gc=False):
    """A message of Anthropic's Messages API."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class CountRequest(Body, kw_only=True):
    """`POST /v1/messages/count_tokens`."""

    anthropic: ClassVar[bool] = True
    generates: ClassVar[bool] = False
    messages: Annotated[list[AnthropicMessage], Meta(min_length=1)]
    system: str | list[Block] | None = None
    tools: list[Tool] | None = None
    tool_choice: Tool | None = None
    thinking: Typed | None = None
    output_config: OpaqueObject | None = None
    chat_template_kwargs: TemplateArguments | None = None

    def count_sequences(self) -> int:
        return 0


class MessagesRequest(CountRequest, kw_only=True):
    """`POST /v1/messages`."""

    generates: ClassVar[bool] = True
    max_tokens: TokenCount
    stop_sequences: list[Stop] | None = None
    temperature: Fraction | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    top_p: Fraction | None = None
    cache_salt: CacheSalt | None = None
    output_format: OpaqueObject | None = None

    output_limit_fields: ClassVar[tuple[str, ...]] = ("max_tokens",)
    format_fields: ClassVar[tuple[str, ...]] = ("output_config", "output_format")

    def count_sequences(self) -> int:
        return 1

    def stops_of(self, model: Model) -> Chat | Infill | None:
        return model.chat
