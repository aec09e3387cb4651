"""Chunks of a stream that differ from an earlier one in their text alone, which need not be decoded. Pure."""

from typing import NamedTuple

from service.guardrails.chunks import Chunk, chunk_of

PROBE = "\N{CYRILLIC SMALL LETTER ZHE}?"  # a text that no chunk has where it is not looked for


class Pattern(NamedTuple):
    """What stands before and after the text in an event, and whose text it is: that of a choice, by index and name."""

    before: bytes
    after: bytes
    lane: tuple[object, str]

    def only(self, events: bytes) -> bytes:
        """The text of the one event there is, if that is otherwise the same and its text has no escape; or nothing."""
        before, after = self.before, self.after
        if not (events.startswith(before) and events.endswith(after)):
            return b""
        text = events[len(before) : -len(after)]
        return text if text.find(b'"') < 0 and text.find(b"\\") < 0 else b""

    def run(self, events: bytes, at: int) -> tuple[bytes, int, int]:
        """The text of the events from `at` on that are otherwise the same, how many they are, and where they end.

        None where the first of them is not, or where a text has an escape: 0 events that end at `at`.
        """
        before, after = self.before, self.after
        if not events.startswith(before, at):
            return b"", 0, at
        begin = at + len(before)
        *texts, last = events[begin:].split(after + before)
        text, found, rest = last.partition(after)
        texts += [text] if found else []
        end = len(events) - (len(rest) if found else len(before) + len(last))
        text, count = b"".join(texts), len(texts)
        return (text, count, end) if text.find(b'"') < 0 and text.find(b"\\") < 0 else (b"", 0, at)


def pattern_of(event: bytes, chunk: Chunk) -> Pattern | None:
    """The pattern of an event that holds the chunk, if it has nothing but one text of one choice."""
    found = _only_text(chunk)
    if found is None:
        return None
    index, name, text = found
    before, quoted, after = event.partition(b':"%b"' % text.encode(errors="replace"))
    if not quoted or not before.startswith(b"data:"):
        return None
    pattern = Pattern(before + b':"', b'"%b\n\n' % after, (index, name))
    # Whether it was the text that stood there, and not its equal.
    probe = chunk_of(pattern.before[5:] + PROBE.encode() + pattern.after)
    return pattern if probe is not None and _only_text(probe) == (index, name, PROBE) else None


def _only_text(chunk: Chunk) -> tuple[object, str, str] | None:
    """Index, name and text of the only choice, if its delta is one text and does not end it."""
    if len(chunk.choices) != 1:
        return None
    choice = chunk.choices[0]
    members = choice.delta or {}
    if len(members) != 1 or choice.finish_reason is not None or choice.text:
        return None
    ((name, text),) = members.items()
    return (choice.index, name, text) if isinstance(text, str) and text else None
