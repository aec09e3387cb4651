"""The generation endpoints: which body each takes, in which dialect it answers, and what it needs of a model."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from service.protocol.requests import (
    AnthropicMessage,
    Body,
    ChatRequest,
    CompletionRequest,
    CountRequest,
    EmbeddingsRequest,
    Item,
    Message,
    MessagesRequest,
    ResponsesRequest,
)
from service.protocol.streams import Dialect

Kind = Literal["chat", "completion", "infill", "embedding"]

# What `auto` counts as code: a fence, or a line that starts as one of a program does. Every prompt is searched, so a
# line's start is looked for by its newline, which costs little, its indent ends with the line, and no more of a text
# than its beginning is looked at.
FENCE = "```"
LOOKED_AT = 2**16  # characters
LINE = r"[^\S\n]*+(?:def |class |import |from \w+ import |#include|function |public |const |let |fn |SELECT )"
FIRST_LINE, LATER_LINE = re.compile(LINE), re.compile("\n" + LINE)


class Need(NamedTuple):
    """What a request visibly needs: its kind, and what `auto` looks at. `contents` are all that was said."""

    kind: Kind
    turns: int = 1
    tools: bool = False
    contents: Sequence[Any] = ()

    @property
    def code(self) -> bool:
        """Whether any of it looks like code. All of it is searched for that, so whoever need not know does not ask."""
        return any(map(_is_code, self.contents))


@dataclass(frozen=True)
class Endpoint:
    """One generation endpoint. `need` reads from a body what the router must know."""

    path: str
    body: type[Body]
    dialect: Dialect
    need: Callable[[Any], Need]


def _chat(body: ChatRequest) -> Need:
    return _conversation(body.messages, body.tools)


def _completion(body: CompletionRequest) -> Need:
    return Need("infill" if body.suffix is not None else "completion", contents=(body.prompt,))


def _responses(body: ResponsesRequest) -> Need:
    if isinstance(body.input, str):
        return Need("chat", 1, bool(body.tools), (body.input,))
    return _conversation(body.input, body.tools)


def _messages(body: CountRequest) -> Need:
    return _conversation(body.messages, body.tools)


def _conversation(messages: Sequence[Message | AnthropicMessage | Item], tools: Sequence[Any] | None) -> Need:
    turns = [message.role for message in messages].count("user")
    return Need("chat", turns, bool(tools), [message.content for message in messages])


def _embeddings(_: EmbeddingsRequest) -> Need:
    return Need("embedding")


def _is_code(content: Any) -> bool:
    if isinstance(content, str):
        start = content[:LOOKED_AT]
        return FENCE in start or bool(FIRST_LINE.match(start) or LATER_LINE.search(start))
    if isinstance(content, list):
        return any(_is_code(getattr(part, "text", part)) for part in content)
    return False


GENERATION = (
    Endpoint("/v1/chat/completions", ChatRequest, "openai", _chat),
    Endpoint("/v1/completions", CompletionRequest, "openai", _completion),
    Endpoint("/v1/responses", ResponsesRequest, "responses", _responses),
    Endpoint("/v1/messages", MessagesRequest, "messages", _messages),
    Endpoint("/v1/messages/count_tokens", CountRequest, "messages", _messages),
    Endpoint("/v1/embeddings", EmbeddingsRequest, "openai", _embeddings),
)
