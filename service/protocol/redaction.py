"""An engine's own words about a request, without what they quote of it and without addresses and paths.

vLLM's messages quote fields, and templates may quote messages. What a log line or another program may get is the reason
alone.
"""

import re
from collections.abc import Collection
from typing import Any

MAX_LENGTH = 300  # characters
RUN = 16  # so many characters in a row that the request has too are a quotation
SHORT_WORD = 4  # characters; shorter ones are too common to be a quotation
ELLIPSIS = "…"
CHOICES = ("model", "role", "type", "tool_choice")  # members whose texts are words of the API

DETAILS = re.compile(r"\((?:parameter|value)=.*", re.DOTALL)
CAUSE = re.compile(r"^\s*error: (.+)$", re.MULTILINE)
LOCATION = re.compile(
    r"\w+://\S+|(?<!\w)(?:~|\.{1,2})?/[\w.~-]+(?:/[\w.~-]*)*|\b0x[0-9a-fA-F]+|[\w.-]+:\d{2,5}\b|<path>\S*"
)
OBJECT = re.compile(r"\{.*\}|\[[^\[\]]*\d\s*,[^\[\]]*\]")
QUOTED = re.compile(r"""(?<!\w)(['"`])((?:(?!\1).)*)\1(?!\w)""")
SAID = re.compile(r"(?<=[:=] )\S+|(?<==)[^\s,)]+|(?<=got )\S+", re.IGNORECASE)
NAME = re.compile(r"[\w.$-]{1,64}")


def redact(text: str, request: Any, fields: Collection[str] = ()) -> str:
    """The first line of an engine's message, at most `MAX_LENGTH` characters, or `""` where nothing of it is left.

    `request` is the decoded body of the request. Whatever the message has in common with its texts is cut out, but for
    the names of its members and of `fields`.
    """
    texts, names = _contents(request)
    names.update(fields)

    def is_quotation(word: str) -> bool:
        return word not in names and (word in texts or not NAME.fullmatch(word))

    def unquoted(found: re.Match[str]) -> str:
        return ELLIPSIS if is_quotation(found[2]) else found[0]

    def unsaid(found: re.Match[str]) -> str:
        word = found[0].strip("'\"`.,;!?()[]")
        return ELLIPSIS if len(word) >= SHORT_WORD and word not in names and word in texts else found[0]

    if "Traceback" in text:
        return ""
    first = DETAILS.sub("", text).strip().partition("\n")[0]
    cause = CAUSE.search(text)
    reason = " ".join(f"{first} {cause[1] if cause else ''}".split())
    for pattern, replacement in ((OBJECT, ELLIPSIS), (LOCATION, ELLIPSIS), (QUOTED, unquoted), (SAID, unsaid)):
        reason = pattern.sub(replacement, reason)
    return _before_quotation(reason, texts)[:MAX_LENGTH].rstrip(" :.,;(")


def _before_quotation(reason: str, texts: str) -> str:
    """The words before the first run of characters that the texts contain too."""
    for start in range(min(len(reason), MAX_LENGTH) - RUN + 1):
        if reason[start : start + RUN] in texts:
            return f"{reason[:start].rpartition(' ')[0]} {ELLIPSIS}".strip()
    return reason


def _contents(request: Any) -> tuple[str, set[str]]:
    """All texts in a decoded body, and the names of all members. Without recursion: a body may be nested deeply."""
    texts: list[str] = []
    names: set[str] = set()
    waiting = [request]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            names.update(value)
            waiting += (inner for name, inner in value.items() if name not in CHOICES or not isinstance(inner, str))
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str):
            texts.append(value)
    return "\0".join(texts), names
