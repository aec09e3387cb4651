"""What two requests must have in common to be better off at the same replica, as a number.

A replica keeps what it has read: a prompt that begins like an earlier one costs only what is new. Each key has two
halves, the coarse and the fine: the long context that many conversations may share, and the one conversation. Where no
context is long enough to be worth it both halves are the conversation. Every process of every gateway gets the same.
"""

from array import array
from collections.abc import Iterable, Iterator
from typing import Any
from zlib import crc32

from service.protocol.requests import Body, ChatRequest, CompletionRequest, CountRequest, ResponsesRequest

CONTEXT = 4096  # characters, about a thousand tokens: so long a beginning is worth sharing
PREFIX = 1024  # characters of a prompt without turns that tell it from others
GREETING = 32  # characters: who has said less may have said the same as many others
EXCERPT = 1024  # characters of either end by which a long text is known
TOKEN = 4  # characters
SYSTEM = ("system", "developer")

Turn = tuple[str | None, Any]


def key(request: Body, tenant: str, session: str | None = None) -> int:
    """The request's key, 64 bits, the upper half coarse; 0 where nothing is gained by being at the same replica.

    Tenants never share. A `session` is a client's own word for what belongs together, and wins. The key of a
    conversation stays the same while it grows. Its cost does not grow with the request.
    """
    start = crc32(tenant.encode())
    if session is not None:
        return _joined(_hashed(session, start), None)
    if isinstance(request, ChatRequest):
        turns: Iterable[Turn] = ((message.role, message.content) for message in request.messages)
        return _conversation(turns, start, request.prompt_cache_key)
    if isinstance(request, CompletionRequest):
        return _prompt(request.prompt, start)
    if isinstance(request, ResponsesRequest):
        return _conversation(_items(request), start, request.prompt_cache_key)
    if isinstance(request, CountRequest):
        said = ((message.role, message.content) for message in request.messages)
        return _conversation([("system", request.system), *said], start, None)
    return 0


def _conversation(turns: Iterable[Turn], start: int, label: str | None) -> int:
    """Known by its opening: what the system says and the first words, up to the first that are more than a greeting."""
    opening, length, said = [], 0, 0
    for role, content in turns:
        text = _text(content)
        opening.append(text)
        length += len(text)
        if role not in SYSTEM:
            said += len(text)
            if said >= GREETING:
                break
    own = start if label is None else _hashed(label, start)
    for text in opening:
        own = _hashed(text if len(text) <= 2 * EXCERPT else f"{text[:EXCERPT]}{len(text)}{text[-EXCERPT:]}", own)
    if length < CONTEXT:
        return _joined(own, None)
    return _joined(own, _hashed("".join([text[:CONTEXT] for text in opening])[:CONTEXT], start))


def _prompt(prompt: str | list[Any], start: int) -> int:
    """Known by its beginning: it has no turns that would say where what is shared ends."""
    first = prompt[0] if isinstance(prompt, list) else prompt
    if isinstance(first, str):
        own = _hashed(first[:PREFIX], start)
        return _joined(_hashed(first[:CONTEXT], start), own) if len(first) >= CONTEXT else _joined(own, None)
    own = _numbers(prompt[: PREFIX // TOKEN], start)
    long = len(prompt) >= CONTEXT // TOKEN
    return _joined(_numbers(prompt[: CONTEXT // TOKEN], start), own) if long else _joined(own, None)


def _items(request: ResponsesRequest) -> Iterator[Turn]:
    yield "system", request.instructions
    if isinstance(request.input, str):
        yield "user", request.input
    else:
        yield from ((item.role, item.content) for item in request.input)


def _text(content: Any) -> str:
    """The beginning of a message's text, as far as it can matter."""
    if isinstance(content, str):
        return content
    pieces, length = [], 0
    for part in content or ():
        if part.text:
            pieces.append(part.text)
            length += len(part.text)
            if length >= CONTEXT:
                break
    return "".join(pieces)


def _hashed(text: str, start: int) -> int:
    return crc32(text.encode(), start)


def _numbers(tokens: Any, start: int) -> int:
    return crc32(array("I", tokens).tobytes(), start)


def _joined(fine: int, coarse: int | None) -> int:
    return (fine if coarse is None else coarse) << 32 | fine
