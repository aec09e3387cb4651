"""What events were found to be, so that those of later streams that are alike need not be searched again.

Nothing of what an engine has answered is kept.
"""

from typing import TypeVar

T = TypeVar("T")

# How chunks begin in the OpenAI dialect, and in no other.
CHUNK = b'data: {"id":'
CHOICES, ROLE = b'"choices":[', b'"delta":{"role"'
MOST, LONGEST = 64, 512  # beginnings and endings that are kept, and their bytes
# Where an engine repeats its answer behind a text, and where an opening has nothing of it.
ANSWERED, EMPTY = (b'"logprobs":{', b'"logprobs":[{', b'"token_ids":['), b'"content":""'


class KnownEvents:
    """What was found of the streams of one endpoint. These differ in what comes before the choices, and in the texts.

    `before_text` is what the last event with a text had between both. `endings` is by what follows the quotation mark
    after a text: its finish reason, and if it has none what ends a chunk of HTTP that has it. `openings` is what
    follows the beginning of the choices in events that open a stream and have no output.
    """

    __slots__ = ("before_text", "endings", "openings")

    def __init__(self) -> None:
        self.before_text = b""
        self.endings: dict[bytes, tuple[str, bytes]] = {}
        self.openings: dict[bytes, None] = {}

    def first(self, event: bytes) -> tuple[bytes, bool]:
        """What precedes the texts of the stream that begins with this event, if known; whether that is an opening.

        Empty where the event has something to note before its choices, or might.
        """
        if not self.before_text:
            return b"", False
        before, found, after = event.partition(CHOICES)
        if not found:
            return self.before_text, False
        if not before.startswith(CHUNK) or before.find(b"{", len(CHUNK)) >= 0 or before.find(b'_reason"') >= 0:
            return b"", False
        return before + found + self.before_text, after in self.openings

    def add_text(self, before: bytes, after: bytes, reason: str) -> bytes:
        """Notes what is around a text, after which there is this finish reason; returns what ends such a chunk."""
        _, found, begun = before.partition(CHOICES)
        self.before_text = begun if found else before
        ends = b"" if reason else b'"%b\n\n\r\n' % after.rstrip(b"\n")
        if not any(after.find(answered) >= 0 for answered in ANSWERED):
            _keep(self.endings, after, (reason, ends))
        return ends

    def add_opening(self, event: bytes) -> None:
        """Notes an event that opens a stream, if its choices say so."""
        choices = event.partition(CHOICES)[2]
        if choices.find(ROLE) >= 0 and choices.find(EMPTY) >= 0:
            _keep(self.openings, choices, None)


def _keep(kept: dict[bytes, T], key: bytes, value: T) -> None:
    if len(key) <= LONGEST:
        if len(kept) == MOST:
            kept.clear()
        kept[key] = value
