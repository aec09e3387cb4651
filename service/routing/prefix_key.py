"""The prefix key of a request: equal for requests whose prompts begin alike, so that they share a prefix cache.

An engine caches the prefixes of the prompts it has processed; of a prompt with a cached prefix it computes only the
rest. A key has two halves: the coarse one for a long context that many conversations may share, such as a system
prompt, and the fine one for the single conversation. Without a context that is long enough, both are the conversation.
Keys are the same in every gateway process. Pure.
"""

from array import array
from collections.abc import Iterable, Iterator
from typing import Any
from zlib import crc32

from service.protocol.anthropic import CountRequest
from service.protocol.requests import Body, ChatRequest, CompletionRequest, ResponsesRequest

CONTEXT_CHARS = 4096  # about 1,000 tokens: a shared beginning of this length is worth a replica of its own
PREFIX_CHARS = 1024  # the beginning that identifies a completion prompt
GREETING_CHARS = 32  # user text shorter than this, such as a greeting, does not identify a conversation
EXCERPT_CHARS = 1024  # of either end of a long text, which identify it
CHARS_PER_TOKEN = 4
SYSTEM_ROLES = ("system", "developer")
# Claude Code's first system block, which differs between conversations (and changed within one in older versions) and
# which vLLM leaves out of the prompt.
UNCACHED = "x-anthropic-billing-header:"

Turn = tuple[str | None, Any]


def key(request: Body, tenant: str, session: str | None = None, conversation: str | None = None) -> int:
    """The prefix key, of 64 bits with the coarse half on top; 0 for requests that gain nothing from a prefix cache.

    Different tenants have different keys. A `session`, which a client sets itself, replaces the prompt; the id of a
    `conversation` that its program sends along, or a `prompt_cache_key`, replaces the opening in the fine half only.
    The key of a conversation stays the same while it grows. The cost of computing it does not grow with the request.
    """
    seed = crc32(tenant.encode())
    if session is not None:
        return _join(_hash(session, seed), None)
    if isinstance(request, ChatRequest):
        turns: Iterable[Turn] = ((message.role, message.content) for message in request.messages)
        return _conversation(turns, seed, conversation or request.prompt_cache_key, bool(request.tools))
    if isinstance(request, CompletionRequest):
        return _prompt(request.prompt, seed)
    if isinstance(request, ResponsesRequest):
        return _conversation(_items(request), seed, conversation or request.prompt_cache_key, bool(request.tools))
    if isinstance(request, CountRequest):
        turns = ((message.role, message.content) for message in request.messages)
        return _conversation([("system", request.system), *turns], seed, conversation, bool(request.tools))
    return 0


def for_adapter(key: int, adapter: str) -> int:
    """The key of the same request to an adapter: an engine has a prefix cache for each."""
    half = crc32(adapter.encode())
    return key and key ^ (half << 32 | half)


def _conversation(turns: Iterable[Turn], seed: int, name: str | None, agent: bool) -> int:
    """The key of a conversation, by its opening: up to the first user message that is more than a greeting.

    An `agent`, which has tools, goes on by itself after however short a message: the next one is a tool's result.
    """
    opening, length, user_length = [], 0, 0
    for role, content in turns:
        text = _text(content)
        opening.append(text)
        length += len(text)
        if role not in SYSTEM_ROLES:
            user_length += len(text)
            if user_length >= GREETING_CHARS or agent:
                break
    fine = seed
    if name is None:
        for text in opening:
            fine = _hash(_excerpt(text), fine)
    else:
        fine = _hash(name, seed)
    if length < CONTEXT_CHARS:
        return _join(fine, None)
    return _join(fine, _hash("".join([text[:CONTEXT_CHARS] for text in opening])[:CONTEXT_CHARS], seed))


def _excerpt(text: str) -> str:
    return text if len(text) <= 2 * EXCERPT_CHARS else f"{text[:EXCERPT_CHARS]}{len(text)}{text[-EXCERPT_CHARS:]}"


def _prompt(prompt: str | list[Any], seed: int) -> int:
    """The key of a completion, by its beginning: without messages nothing tells where a shared context ends."""
    first = prompt[0] if isinstance(prompt, list) else prompt
    if isinstance(first, str):
        prefix = _hash(first[:PREFIX_CHARS], seed)
        return _join(_hash(first[:CONTEXT_CHARS], seed), prefix) if len(first) >= CONTEXT_CHARS else _join(prefix, None)
    tokens = first if isinstance(first, list) else prompt
    prefix = _hash_tokens(tokens[: PREFIX_CHARS // CHARS_PER_TOKEN], seed)
    size = CONTEXT_CHARS // CHARS_PER_TOKEN
    return _join(_hash_tokens(tokens[:size], seed), prefix) if len(tokens) >= size else _join(prefix, None)


def _items(request: ResponsesRequest) -> Iterator[Turn]:
    yield "system", request.instructions
    if isinstance(request.input, str):
        yield "user", request.input
    else:
        yield from ((item.role, item.content) for item in request.input)


def _text(content: Any) -> str:
    """The text of a message; of many parts only as much of the beginning as matters for the key."""
    if isinstance(content, str):
        return content
    pieces, length = [], 0
    for part in content or ():
        if part.text and not part.text.startswith(UNCACHED):
            pieces.append(part.text)
            length += len(part.text)
            if length >= CONTEXT_CHARS:
                break
    return "".join(pieces)


def _hash(text: str, seed: int) -> int:
    return crc32(text.encode(), seed)


def _hash_tokens(tokens: Any, seed: int) -> int:
    return crc32(array("I", tokens).tobytes(), seed)


def _join(fine: int, coarse: int | None) -> int:
    return (fine if coarse is None else coarse) << 32 | fine
