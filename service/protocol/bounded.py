"""Request bodies with the bounds of a fleet: how much of each thing one request may ask for.

A body is decoded as the endpoint's struct with these bounds in its types, so that checking them costs nothing more.
"""

from collections.abc import Mapping
from typing import Annotated, Any, cast

from msgspec import Meta, defstruct

from service.fleet.request_bounds import RequestBounds
from service.protocol.anthropic import AnthropicMessage, CountRequest
from service.protocol.parts import Block, Part
from service.protocol.requests import (
    Body,
    ChatRequest,
    CompletionRequest,
    Item,
    Message,
    OpaqueObject,
    ResponsesRequest,
    Stop,
    Text,
    TokenId,
)
from service.protocol.tokenization import TokenizeRequest
from service.protocol.tools import ChatTool, Tool

REQUIRED = ("messages", "input")  # where a body has them, but for the messages of /tokenize, where a prompt will do
Role = Annotated[str, Meta(min_length=1, max_length=64)]  # templates decide what it may be
TokenBias = dict[Annotated[str, Meta(pattern="^[0-9]{1,10}$")], Annotated[float, Meta(ge=-100, le=100)]]


def bounded(kind: type[Body], bounds: RequestBounds) -> type[Body]:
    """`kind` with these bounds."""
    types = {name: found for name, found in _types(kind, bounds).items() if name in kind.__struct_fields__}
    optional = [(name, each | None, None) for name, each in types.items() if name not in REQUIRED or _has_none(kind)]
    required = [(name, types[name]) for name in REQUIRED if name in types and not _has_none(kind)]
    found: Any = defstruct(
        kind.__name__, [*required, *optional], bases=(kind,), namespace={"bounds": bounds}, module=kind.__module__,
        kw_only=True,
    )  # fmt: skip
    return cast(type[Body], found)


def _types(kind: type[Body], bounds: RequestBounds) -> Mapping[str, Any]:
    """The types of the fields that have a bound, by name; not every kind has each of them."""
    stop = Annotated[Stop, Meta(max_length=bounds.stop_characters)]
    stops = Annotated[list[stop], Meta(max_length=bounds.stop)]
    types = {
        **_conversation(kind, bounds),
        "n": Annotated[int, Meta(ge=1, le=min(bounds.n, bounds.sequences))],
        "tools": _list_of(_tool_of(kind), bounds.tools),
        "stop": stop | stops,
        "stop_sequences": stops,
        "stop_token_ids": _list_of(TokenId, bounds.stop_token_ids),
        "logit_bias": Annotated[TokenBias, Meta(max_length=bounds.logit_bias)],
        "bad_words": _list_of(Text, bounds.bad_words),
        "allowed_token_ids": _list_of(TokenId, bounds.allowed_token_ids),
        "logprob_token_ids": _list_of(TokenId, bounds.logprob_token_ids),
        "top_logprobs": Annotated[int, Meta(ge=0, le=bounds.logprobs)],
        "prompt_logprobs": Annotated[int, Meta(ge=0, le=bounds.prompt_logprobs)],
    }
    if issubclass(kind, CompletionRequest):  # of a chat it says only whether there are any
        types["logprobs"] = types["top_logprobs"]
    return types


def _has_none(kind: type[Body]) -> bool:
    return issubclass(kind, TokenizeRequest)


def _conversation(kind: type[Body], bounds: RequestBounds) -> dict[str, Any]:
    """The types of what a conversation consists of."""
    parts, blocks = _list_of(Part, bounds.parts), _list_of(Block, bounds.parts)
    if issubclass(kind, CountRequest):
        turn = defstruct("AnthropicMessage", [("content", str | blocks)], bases=(AnthropicMessage,))
        return {"messages": _turns(turn, bounds), "system": str | blocks}
    if issubclass(kind, ResponsesRequest):
        fields: list[tuple[str, Any, None]] = [("role", Role | None, None), ("content", str | parts | None, None)]
        return {"input": str | _list_of(defstruct("Item", fields, bases=(Item,)), bounds.messages)}
    if issubclass(kind, ChatRequest | TokenizeRequest):
        return {"messages": _turns(_message(parts), bounds)}
    return {}


def _message(parts: Any) -> type:
    content = ("content", str | parts | None, None)
    return defstruct("Message", [("role", Role), content], bases=(Message,))


def _turns(kind: Any, bounds: RequestBounds) -> Any:
    return Annotated[list[kind], Meta(min_length=1, max_length=bounds.messages)]


def _tool_of(kind: type[Body]) -> type:
    if issubclass(kind, TokenizeRequest):
        return OpaqueObject
    return ChatTool if issubclass(kind, ChatRequest) else Tool


def _list_of(kind: Any, most: int) -> Any:
    return Annotated[list[kind], Meta(max_length=most)]
