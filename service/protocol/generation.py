"""The generation endpoints: the body that each takes, its dialect, and what its requests require of a model."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from msgspec import Struct

from service.protocol.adaptations import Adapted, adapt_messages, adapt_ranking, adapt_responses, unchanged
from service.protocol.anthropic import AnthropicMessage, CountRequest, MessagesRequest
from service.protocol.images import find_images
from service.protocol.moderations import ModerationRequest
from service.protocol.parts import any_list, no_image, only_text
from service.protocol.requests import (
    Body,
    ChatRequest,
    CompletionRequest,
    EmbeddingsRequest,
    Item,
    Message,
    ResponsesRequest,
)
from service.protocol.scoring import RerankRequest, ScoreRequest, Scoring
from service.protocol.streams import Dialect
from service.protocol.tokenization import DetokenizeRequest, TokenizeRequest

Kind = Literal["chat", "completion", "infill", "embedding", "rerank", "tokens"]

# What `auto` takes for code: a Markdown fence, or a line that begins like one of a program. Any prompt is searched, so
# the search must be linear: it looks for newlines, the indent is matched possessively and within its line, and only the
# first MAX_SEARCHED characters of a text count.
FENCE = "```"
MAX_SEARCHED = 2**16
CODE_LINE = r"[^\S\n]*+(?:def |class |import |from \w+ import |#include|function |public |const |let |fn |SELECT )"
FIRST_CODE_LINE, LATER_CODE_LINE = re.compile(CODE_LINE), re.compile("\n" + CODE_LINE)


class Requirements(Struct, frozen=True):
    """What a request requires of a model: its kind, and what `auto` decides by.

    `messages` are those of a conversation, `contents` their contents, or the prompt. `vision` says whether there are
    images.
    """

    kind: Kind
    messages: Sequence[Message | Item | AnthropicMessage] = ()
    tools: bool = False
    contents: Sequence[Any] = ()
    vision: bool = False

    @property
    def turns(self) -> int:
        """How many messages are a user's; counted at each access, as only `auto` needs it."""
        return [message.role for message in self.messages].count("user") if self.messages else 1

    @property
    def code(self) -> bool:
        """Whether any content looks like code. Searched at each access, so it costs nothing unless `auto` needs it."""
        return any(map(_contains_code, self.contents))


@dataclass(frozen=True)
class Endpoint:
    """One generation endpoint. `requirements` derives from a body what resolving its model takes, or raises the 400 for
    a part of a message that no engine may get.

    `adapt` has what is changed in a body, of which it gets the struct and the bytes, for an engine that separates
    reasoning from its output or does not. Where it never `streams`, a body's `stream` is ignored. `aliases` are other
    paths of the same; engines are asked by `path`.
    """

    path: str
    body: type[Body]
    dialect: Dialect
    requirements: Callable[[Any], Requirements]
    adapt: Callable[[Any, bytes, bool], Adapted] = unchanged
    streams: bool = True
    aliases: tuple[str, ...] = ()


def _chat(body: ChatRequest) -> Requirements:
    return _conversation(body, body.messages)


def _completion(body: CompletionRequest) -> Requirements:
    return Requirements("infill" if body.suffix is not None else "completion", contents=(body.prompt,))


def _responses(body: ResponsesRequest) -> Requirements:
    if isinstance(body.input, str):
        return Requirements("chat", (), bool(body.tools), (body.input,))
    return _conversation(body, body.input, any_list([item.output for item in body.input]))


def _messages(body: CountRequest) -> Requirements:
    contents = [message.content for message in body.messages]
    vision = not (no_image(contents) and no_image((body.system,))) and bool(find_images(body))
    return Requirements("chat", body.messages, bool(body.tools), contents, vision)


def _conversation(
    body: ChatRequest | ResponsesRequest | TokenizeRequest, messages: Sequence[Message | Item], outputs: bool = False
) -> Requirements:
    """`outputs` says whether there are lists among those of tools, which may have images."""
    contents = [message.content for message in messages]
    vision = (outputs or not only_text(contents)) and bool(find_images(body))
    return Requirements("chat", messages, bool(body.tools), contents, vision)


def _embeddings(_: EmbeddingsRequest) -> Requirements:
    return Requirements("embedding")


def _scores(_: Scoring) -> Requirements:
    return Requirements("rerank")


def _tokenize(body: TokenizeRequest) -> Requirements:
    return Requirements("tokens") if body.messages is None else _conversation(body, body.messages)


def _detokenize(_: DetokenizeRequest) -> Requirements:
    return Requirements("tokens")


def _moderations(_: ModerationRequest) -> Requirements:
    return Requirements("chat")


def _contains_code(content: Any) -> bool:
    if isinstance(content, str):
        start = content[:MAX_SEARCHED]
        return FENCE in start or bool(FIRST_CODE_LINE.match(start) or LATER_CODE_LINE.search(start))
    if isinstance(content, list):
        return any(_contains_code(getattr(part, "text", part)) for part in content)
    return False


GENERATION = (
    Endpoint("/v1/chat/completions", ChatRequest, "openai", _chat),
    Endpoint("/v1/completions", CompletionRequest, "openai", _completion),
    Endpoint("/v1/responses", ResponsesRequest, "responses", _responses, adapt_responses),
    Endpoint("/v1/messages", MessagesRequest, "messages", _messages, adapt_messages),
    Endpoint("/v1/messages/count_tokens", CountRequest, "messages", _messages, adapt_messages, streams=False),
    Endpoint("/v1/embeddings", EmbeddingsRequest, "openai", _embeddings, streams=False),
    Endpoint(
        "/rerank",
        RerankRequest,
        "openai",
        _scores,
        adapt_ranking,
        streams=False,
        aliases=("/v1/rerank", "/v2/rerank"),
    ),
    Endpoint("/score", ScoreRequest, "openai", _scores, streams=False, aliases=("/v1/score",)),
    Endpoint("/tokenize", TokenizeRequest, "openai", _tokenize, streams=False),
    Endpoint("/detokenize", DetokenizeRequest, "openai", _detokenize, streams=False),
)
# Answered by the gateway, which asks guards; its bodies are read as those above are.
MODERATIONS = Endpoint("/v1/moderations", ModerationRequest, "openai", _moderations, streams=False)
# Every path that a client may send such a request to.
PATHS: Mapping[str, Endpoint] = MappingProxyType(
    {path: endpoint for endpoint in GENERATION for path in (endpoint.path, *endpoint.aliases)}
)
