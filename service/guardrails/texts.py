"""Which text of a request or of a response is judged. Pure.

What is not known to be no text is text: a new kind of part is judged until it is listed here.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from service.errors import ApiError, ErrorCode
from service.fleet.guardrail import Guardrail

Json = dict[str, Any]

# The paths whose requests and responses are judged: those where a model reads a text and writes another.
JUDGED = frozenset(("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"))
READ = ("system", "instructions", "prompt", "suffix", "messages", "input")  # what a model reads, as texts or messages
RENDERED = ("tools", "documents", "chat_template_kwargs")  # what its template renders, as JSON
# Members of messages, items and parts that hold no text for a model, and those that hold JSON of any shape.
NO_TEXT = frozenset(
    (
        "type", "role", "id", "call_id", "tool_call_id", "tool_use_id", "item_id", "status", "index", "object",
        "image_url", "source", "url", "file_id", "detail", "signature", "encrypted_content", "cache_control",
        "annotations", "logprobs",
    )
)  # fmt: skip
OPAQUE = frozenset(("input", "arguments"))
REPLIES = frozenset(("function_call", "custom_tool_call", "reasoning"))  # items of the Responses API without a role
PIECE = 8000  # characters that are judged at once
CONTEXT = 2000  # characters of the request beside which a guard reads an answer


def request_text(body: bytes, scope: str) -> str:
    """The text of a request that is judged: all that the model reads, or with the scope `turn` what came last.

    Raises the 400 for a prompt of token ids, which nobody here can read.
    """
    members = _decoded(body)
    prompt = members.get("prompt")
    if isinstance(prompt, list) and any(not isinstance(one, str) for one in prompt):
        message = "This model's guardrails judge text, and 'prompt' has token ids: send it as text."
        raise ApiError(ErrorCode.INVALID_VALUE, message, "prompt")
    if scope == "turn":
        return last_turn(members)
    found = [text for name in READ for text in _texts(members.get(name))]
    rendered = (json.dumps(members[name], ensure_ascii=False) for name in RENDERED if members.get(name))
    return _joined([*found, *rendered])


def context_of(body: bytes) -> str:
    """The end of what was asked last, beside which a guard reads the answer."""
    return last_turn(_decoded(body))[-CONTEXT:]


def last_turn(members: Json) -> str:
    """What the request has after the model's last reply: the user's words and the results of tools."""
    turn = members.get("messages", members.get("input"))
    if not isinstance(turn, list):
        return _joined([text for name in ("prompt", "suffix", "input") for text in _texts(members.get(name))])
    start = len(turn)
    while start and _is_reply(turn[start - 1]):  # a reply that the model is to continue is the client's as well
        start -= 1
    while start and not _is_reply(turn[start - 1]):
        start -= 1
    return _joined(list(_texts(turn[start:])))


def response_texts(body: bytes) -> list[str]:
    """The texts of a whole response of any dialect, one for each choice."""
    members = _decoded(body)
    choices = members.get("choices")
    if isinstance(choices, list):
        return [_joined(list(_texts([one.get("message"), one.get("text")]))) for one in choices]
    return [_joined(list(_texts([members.get("output"), members.get("content")])))]


def texts_within(value: Any) -> str:
    """All text within a member of an event, without what separates its parts."""
    return "".join(_texts(value))


def pieces(text: str, overlap: int) -> Iterator[str]:
    """The text in pieces of at most PIECE characters, each of which repeats `overlap` characters of the one before."""
    step = max(1, PIECE - min(overlap, PIECE // 2))
    yield text[:PIECE]
    for start in range(step, max(step, len(text) - (PIECE - step)), step):
        yield text[start : start + PIECE]


def messages_for(text: str, answers: str | None) -> list[Json]:
    """The conversation that a guard judges the end of: a request, or with `answers` an answer to that."""
    if answers is None:
        return [{"role": "user", "content": _plain(text)}]
    return [{"role": "user", "content": _plain(answers) or "…"}, {"role": "assistant", "content": _plain(text)}]


def smallest_window(steps: Sequence[Guardrail]) -> int:
    """How many characters of a stream are held back until all steps have judged them."""
    return min(step.window for step in steps)


def _plain(text: str) -> str:
    """The text without what an engine would take for a mark of the template's, such as the end of a turn."""
    return text.replace("<|", "< |")


def _is_reply(item: Any) -> bool:
    return isinstance(item, dict) and (item.get("role") == "assistant" or item.get("type") in REPLIES)


def _texts(value: Any) -> Iterator[str]:
    """The strings within a value, in order, without what is no text for a model."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            if one:
                yield one
        elif isinstance(one, list):
            waiting.extend(reversed(one))
        elif isinstance(one, dict):
            members = [(name, each) for name, each in one.items() if name not in NO_TEXT]
            waiting.extend(_opaque(each) if name in OPAQUE else each for name, each in reversed(members))


def _opaque(value: Any) -> Any:
    """Names of members count as text where they are not ours, such as in the arguments of a tool."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) and value else value


def _joined(texts: list[str]) -> str:
    # Half of a surrogate pair, from an escape in the JSON, can be sent to nobody.
    return "\n".join(texts).encode(errors="replace").decode()


def _decoded(body: bytes) -> Json:
    try:
        found: Json = json.loads(body)
        return found
    except (ValueError, RecursionError):
        raise ApiError(ErrorCode.INVALID_JSON, "The body is not JSON that can be judged.") from None
