"""The log of prompts and outputs, of tenants that ask for it: redacted, a line of JSON for each request.

What costs time, such as redaction, happens in the thread that writes.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from service.observability.record import Record
from service.observability.rotating_file import FileLogWriter, RotatingFile

MAX_BODY = 2**18  # bytes of a request or response; of a larger one only the size is logged
MAX_QUEUED = 100  # requests that wait to be written
MAX_TEXT = 2**14  # characters of one text, such as an image in base64
LONGEST_SECRET = 512  # characters
REDACTED = "[redacted]"
# E-mail addresses, card numbers, and keys as today's services write them. Each looks at a character a few times at
# most, for a search lets no other thread run.
PATTERNS = (
    r"(?<![\w.+-])[\w.+-]++@[\w-]++(?:\.[\w-]++){1,8}",
    r"\b(?:\d[ -]?){12,18}\d\b",
    r"\b(?:sk|rk|pk|rh|hf|ghp|gho|github_pat|xox[abp]|AKIA)[-_]?[A-Za-z0-9_-]{16,}",
)


class PromptLog:
    """Writes requests with their responses, without waiting. `patterns` are what is redacted; they may be replaced."""

    def __init__(self, file: RotatingFile, patterns: Sequence[str], on_drop: Callable[[int], object]) -> None:
        self._writer = _RedactingWriter(file, on_drop)
        self.use(patterns)

    def use(self, patterns: Sequence[str]) -> None:
        """Redacts what matches one of these from now on."""
        self._writer.patterns = tuple(map(re.compile, patterns))

    def write(self, record: Record, request: bytes, response: bytes | None) -> None:
        """Writes both bodies, JSON or a stream of it; None is a response that is too large. Never blocks or raises."""
        fields = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "event": "prompt",
            **{name: getattr(record, name) for name in ("request_id", "tenant", "key", "model", "endpoint")},
            "request": _text(request),
            "response": _text(response),
        }
        self._writer.write(json.dumps(fields))

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


class _RedactingWriter(FileLogWriter):
    patterns: tuple[re.Pattern[str], ...] = ()

    def __init__(self, file: RotatingFile, on_drop: Callable[[int], object]) -> None:
        super().__init__(file, "prompt", on_drop)

    def write(self, line: str) -> None:
        if len(self._queued) >= MAX_QUEUED:
            self._on_drop(1)
        else:
            super().write(line)

    def _write_all(self, data: bytes) -> None:
        super()._write_all(b"".join(redacted_line(line, self.patterns) for line in data.splitlines()))


def fits(copied: int, more: int) -> bool:
    """Whether a response of which `copied` bytes are kept is kept with so many more."""
    return copied + more <= MAX_BODY


def redacted_line(line: bytes, patterns: Sequence[re.Pattern[str]]) -> bytes:
    """The line that is written for one that was queued: both bodies as JSON, without what matches a pattern. Pure."""
    fields = json.loads(line)
    for name in ("request", "response"):
        fields[name] = _redacted(_value(fields[name]), patterns)
    return json.dumps(fields).encode() + b"\n"


def _text(body: bytes | None) -> str | None:
    return None if body is None or len(body) > MAX_BODY else body.decode(errors="replace")


def _value(text: str | None) -> Any:
    """The JSON that a body is, or the text that a stream says; what is neither is left out."""
    if text is None:
        return f"[longer than {MAX_BODY} bytes]"
    try:
        return json.loads(text)
    except ValueError:
        return "".join(piece for line in text.splitlines() if line.startswith("data: {") for piece in _said(line[6:]))


def _said(event: str) -> Iterator[str]:
    """The pieces of text that one event of a stream adds."""
    try:
        value = json.loads(event)
    except ValueError:
        return
    delta = value.get("delta")
    pieces = [choice.get("delta") or choice for choice in value.get("choices") or ()]
    pieces += [delta if isinstance(delta, dict) else {"text": delta}]
    for piece in pieces:
        yield from (found for name in ("content", "text", "thinking") if isinstance(found := piece.get(name), str))


def _redacted(value: Any, patterns: Sequence[re.Pattern[str]]) -> Any:
    if isinstance(value, str):
        shown = value[: MAX_TEXT + LONGEST_SECRET]
        for pattern in patterns:
            shown = pattern.sub(REDACTED, shown)
        if len(value) <= MAX_TEXT:
            return shown
        # What the cut has left of a secret is not recognised, so it goes as well.
        return f"{shown[:-LONGEST_SECRET][:MAX_TEXT]}[cut: {len(value)} characters]"
    if isinstance(value, list):
        return [_redacted(item, patterns) for item in value]
    if isinstance(value, dict):
        return {_redacted(name, patterns): _redacted(item, patterns) for name, item in value.items()}
    return value
