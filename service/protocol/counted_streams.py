"""Streams whose events all have the usage so far, which is for us and not for the client."""

import json
import re

from service.observability.record import Record
from service.protocol.known_events import CHUNK, ROLE, KnownEvents
from service.protocol.streams import FINISH_REASON, Dialect, StreamWatcher

# The usage behind the choices of an event; within generated text every quotation mark is escaped.
COUNTED = b'}],"usage":{'
UNCOUNTED = b"}]\n\n\r\n"  # in its place, in what is remembered of an event
COUNTS = re.compile(rb'\}\],"usage":(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')


class CountedStream(StreamWatcher):
    """Observes a stream of OpenAI's dialect whose events all have the usage so far, and takes it out of them.

    A stream that breaks off has been counted then, up to the last event.
    """

    __slots__ = ("_latest",)

    def __init__(self, record: Record, dialect: Dialect, hide_usage: bool, known: KnownEvents | None = None) -> None:
        super().__init__(record, dialect, hide_usage, known)
        self._latest = b""

    def feed(self, data: bytes, now: float) -> bytes:
        """As of every stream, without the usage of single events."""
        at, find = data.rfind(COUNTED), data.find
        # The common case first, as in `_forwards`: one event, only text, and the usage its last member.
        if (
            at > 0 and not self._pieces and data.startswith(CHUNK) and find(b"}", at + len(COUNTED)) == len(data) - 4
            and find(b"\n\n") == len(data) - 2
            and find(ROLE, 0, at) < 0 and not FINISH_REASON.search(data, 0, at)
        ):  # fmt: skip
            self._note_output(now)
            self._latest = data
            if self._patterns:
                self._learn(data[: at + 2])
            return data[: at + 2] + b"}\n\n"
        events = super().feed(data, now)
        return COUNTS.sub(b"}]", events) if events.find(COUNTED) >= 0 else events

    def take_chunk(self, chunk: bytes, now: float) -> bytes | None:
        """As of every stream, without the usage of the event."""
        before, _, counts = chunk.rpartition(COUNTED)
        opening = self._openings.get(len(chunk)) or self._opening(len(chunk))
        rest = before.removeprefix(opening)
        if (
            rest is before or b"".join(rest.partition(b'"')[1:]) + UNCOUNTED != self._ends or self._pieces
            or counts.partition(b"}")[2] != b"}\n\n\r\n"
        ):  # fmt: skip
            return None
        self._note_output(now)
        self._latest = chunk
        event = self._begins + rest
        return b"%x\r\n%b}]}\n\n\r\n" % (len(event) + 5, event)

    def settle(self) -> None:
        """Notes the usage of the last event where the engine has not said that of the whole."""
        if not self._record.completion_tokens and (found := COUNTS.search(self._latest)):
            usage = json.loads(found[1])
            self._record.streamed_usage = usage["prompt_tokens"], usage["completion_tokens"]

    def _forwards(self, event: bytes, now: float) -> bool:
        at = event.find(COUNTED)
        if at < 0:
            return super()._forwards(event, now)
        self._latest = event
        return super()._forwards(event[: at + 2], now)


def watch(record: Record, dialect: Dialect, hide_usage: bool, counted: bool, known: KnownEvents) -> StreamWatcher:
    """What observes a stream; `counted` says that each of its events has the usage so far."""
    return (CountedStream if counted else StreamWatcher)(record, dialect, hide_usage, known)
