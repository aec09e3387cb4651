"""Request bodies with the bounds of a fleet: how much of each thing one request may ask for.

A body is decoded as the endpoint's struct with these bounds in its types, so that checking them costs nothing more.
"""

from collections.abc import Mapping
from typing import Annotated, Any, cast

from msgspec import Meta, defstruct

from service.fleet.request_bounds import RequestBounds
from service.protocol.requests import (
    Body,
    ChatRequest,
    ChatTool,
    CompletionRequest,
    OpaqueObject,
    Stop,
    Text,
    TokenId,
    Tool,
)
from service.protocol.tokenization import TokenizeRequest


def bounded(kind: type[Body], bounds: RequestBounds) -> type[Body]:
    """`kind` with these bounds."""
    types = {name: found for name, found in _types(kind, bounds).items() if name in kind.__struct_fields__}
    fields = [(name, each | None, None) for name, each in types.items()]
    found: Any = defstruct(
        kind.__name__, fields, bases=(kind,), namespace={"bounds": bounds}, module=kind.__module__, kw_only=True
    )
    return cast(type[Body], found)


def _types(kind: type[Body], bounds: RequestBounds) -> Mapping[str, Any]:
    """The types of the fields that have a bound, by name; not every kind has each of them."""
    stop = Annotated[Stop, Meta(max_length=bounds.stop_characters)]
    stops = Annotated[list[stop], Meta(max_length=bounds.stop)]
    types = {
        "n": Annotated[int, Meta(ge=1, le=min(bounds.n, bounds.sequences))],
        "tools": _list_of(_tool_of(kind), bounds.tools),
        "stop": stop | stops,
        "stop_sequences": stops,
        "stop_token_ids": _list_of(TokenId, bounds.stop_token_ids),
        "logit_bias": Annotated[dict[str, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=bounds.logit_bias)],
        "bad_words": _list_of(Text, bounds.bad_words),
        "allowed_token_ids": _list_of(TokenId, bounds.allowed_token_ids),
        "logprob_token_ids": _list_of(TokenId, bounds.logprob_token_ids),
        "top_logprobs": Annotated[int, Meta(ge=0, le=bounds.logprobs)],
        "prompt_logprobs": Annotated[int, Meta(ge=0, le=bounds.prompt_logprobs)],
    }
    if issubclass(kind, CompletionRequest):  # of a chat it says only whether there are any
        types["logprobs"] = types["top_logprobs"]
    return types


def _tool_of(kind: type[Body]) -> type:
    if issubclass(kind, TokenizeRequest):
        return OpaqueObject
    return ChatTool if issubclass(kind, ChatRequest) else Tool


def _list_of(kind: Any, most: int) -> Any:
    return Annotated[list[kind], Meta(max_length=most)]
