"""Server-sent events of a streamed response: framed and observed, and forwarded unchanged."""

import re
from typing import Any, Literal

import msgspec

from service.observability.record import Record, Usage
from service.protocol.known_events import CHUNK, ROLE, KnownEvents
from service.protocol.responses import is_death
from service.transport.chunks import size_line

Dialect = Literal["openai", "responses", "messages"]

FINISH_REASON = re.compile(rb'_reason": ?"([a-z_]+)"')  # and `stop_reason`
# What stands before the text in events that are only text.
TEXTS: dict[Dialect, tuple[bytes, ...]] = {
    "openai": (b'"delta":{"content":"', b'"delta":{"reasoning":"', b'"text":"'),
    "responses": (),  # its events are numbered
    "messages": (b'"text_delta","text":"', b'"thinking_delta","thinking":"'),
}
QUOTE, END_OF_CHUNK = ord('"'), b"\n\n\r\n"
OPENINGS = 16  # sizes of chunks for which their beginning is kept
PATTERNS = 8  # how often what is around a stream's texts may change before they are all looked through
USAGE = b'"usage":{'
END_EVENTS = {
    "openai": (b"data: [DONE]",),
    "responses": (b"event: response.completed", b"event: response.incomplete"),
    "messages": (b"event: message_stop",),
}
ERROR_EVENTS = (b'data: {"error"', b"event: error", b"event: response.failed", b'data: {"type":"error"')
# vLLM's own code, which is an HTTP status; in the Messages API it stands within the text of a validation report.
ERROR_CODE = re.compile(rb"""['"]code['"]: ?(\d{3})\b""")
REJECTED = (400, 413, 422)
SEQUENCE_NUMBER = re.compile(rb'"sequence_number": ?(\d+)')
MAX_EVENT_BYTES = 16 * 2**20


class Counted(msgspec.Struct):
    """The members of an event that are read where it has a usage, or of the answer within it."""

    usage: Usage | None = None
    status: Any = None


class CountedEvent(Counted):
    """An event with a usage: Anthropic's first one and the last of the Responses API have it one level down."""

    response: Counted | None = None
    message: Counted | None = None


DECODER = msgspec.json.Decoder(CountedEvent)


class BrokenStreamError(Exception):
    """A stream failed. `passed` holds the complete events that arrived together with the error, but before it.

    `event` is the error event that ended it, if one did. `status` is the HTTP status that the engine would have sent
    had it not begun to stream, as far as the event says so. `dead` says that the engine core has died.
    """

    def __init__(self, event: bytes = b"") -> None:
        super().__init__()
        self.event, self.dead = event, is_death(event)
        codes = ERROR_CODE.findall(event)
        self.status = int(codes[-1]) if codes else None
        self.passed = b""

    @property
    def rejected(self) -> bool:
        """Whether the engine says that the request is at fault."""
        return self.status in REJECTED


class StreamWatcher:
    """Observes one streamed response of an engine.

    It splits the bytes into events, records the times of output, the usage and the finish reason, and detects whether
    the stream ended properly: then `finished` is true. With `hide_usage` it drops the usage event, which a client that
    did not set `include_usage` does not expect. `known` is what it shares with other streams of the endpoint.
    """

    __slots__ = (
        "_begins", "_dialect", "_end_events", "_ends", "_hide_usage", "_known", "_last", "_note_output", "_openings",
        "_patterns", "_pieces", "_record", "_size", "finished",
    )  # fmt: skip

    def __init__(self, record: Record, dialect: Dialect, hide_usage: bool, known: KnownEvents | None = None) -> None:
        self._record, self._dialect, self._hide_usage, self._known = record, dialect, hide_usage, known or KnownEvents()
        self._end_events, self._note_output = END_EVENTS[dialect], record.output_times.append
        self._pieces: list[bytes] = []  # of an event that is not complete, `_size` bytes
        self._size = 0
        self._last = b""
        # What stands before and after the text of the last event that was only text, in a chunk of HTTP.
        self._begins = self._ends = b""
        self._openings: dict[int, bytes] = {}
        self._patterns = PATTERNS if TEXTS[dialect] else 0
        self.finished = False

    def feed(self, data: bytes, now: float) -> bytes:
        """Takes the bytes that arrived at `now`, in monotonic seconds; returns the complete events to forward.

        Raises BrokenStreamError at an error event, an aborted response, or an event over `MAX_EVENT_BYTES`.
        """
        if self._pieces:
            # Only where the pieces meet can the end of an event be that is in none of them.
            ends = data.rfind(b"\n\n") >= 0 or (data[:1] == b"\n" and self._pieces[-1][-1:] == b"\n")
            if not ends:
                return self._keep(data)
            data = b"".join((*self._pieces, data))
            self._pieces, self._size = [], 0
        elif 0 < data.find(b"\n\n") == len(data) - 2:
            if not self._forwards(data, now):
                return b""
            self._last = data
            return data
        end = data.rfind(b"\n\n") + 2
        if end == 1:
            return self._keep(data)
        if end < len(data):
            self._keep(data[end:])
        events = data[: end - 2].split(b"\n\n")
        passed: list[bytes] = []
        try:
            for event in events:
                if self._forwards(event, now):
                    passed.append(event)
        except BrokenStreamError as error:
            error.passed = _joined(passed)
            raise
        finally:
            if passed:
                self._last = passed[-1]
        return data if len(passed) == len(events) and end == len(data) else _joined(passed)

    def take_chunk(self, chunk: bytes, now: float) -> bytes | None:
        """The chunk of HTTP to forward in place of this one, with its size and line ends; None if it has to be fed.

        It must be one event, like an earlier one but for its text; or be several such chunks, which arrived together.
        """
        try:
            opening = self._openings[len(chunk)]
        except KeyError:
            opening = self._opening(len(chunk))
        # The quickest of all ways to compare: where there is nothing to remove, Python gives back the same object.
        rest = chunk.removeprefix(opening)
        if rest is chunk:
            return self._take_several(chunk, now)
        text = rest.removesuffix(self._ends)
        if text is rest or self._pieces or (QUOTE in text and not _are_escaped(text)):
            return None
        note_output = self._note_output
        note_output(now)
        return chunk

    def _take_several(self, chunks: bytes, now: float) -> bytes | None:
        """Several chunks, each of which is one to take; None if one is not."""
        if chunks.removesuffix(self._ends) is chunks:
            return None
        at, known = 0, len(self._record.output_times)
        while at < len(chunks):
            after = chunks.find(END_OF_CHUNK, at) + len(END_OF_CHUNK)
            if after - at == len(chunks) or self.take_chunk(chunks[at:after], now) is None:
                del self._record.output_times[known:]
                return None
            at = after
        return chunks

    def _opening(self, size: int) -> bytes:
        """What a chunk of `size` bytes has before its text; what is longer than it where none has a text."""
        line = size_line(size)
        if not (line and self._begins):
            return bytes(size + 1)
        if len(self._openings) == OPENINGS:
            self._openings.clear()
        opening = self._openings[size] = line + self._begins
        return opening

    def _learn(self, event: bytes, reason: "re.Match[bytes] | None" = None) -> None:
        """Remembers what is around the text of an event that has nothing else to note but its finish reason."""
        for before in TEXTS[self._dialect]:
            if (at := event.find(before) + len(before)) >= len(before):
                text, _, after = event[at:].partition(b'"')
                ends_there = text[-1:] != b"\\" and after[:1] in (b"}", b",")
                if ends_there and not (reason and reason.start() < at):
                    ends = self._known.add_text(event[:at], after, reason[1].decode() if reason else "")
                    self._patterns -= 1
                    if not reason:
                        self._begins, self._ends, self._openings = event[:at], ends, {}
                return

    def _keep(self, piece: bytes) -> bytes:
        """Keeps a piece of an event until the rest arrives; nothing is forwarded."""
        self._size += len(piece)
        if self._size > MAX_EVENT_BYTES:
            raise BrokenStreamError
        if piece:
            self._pieces.append(piece)
        return b""

    def next_sequence_number(self) -> int:
        """The number of the next event in a stream of the Responses API, whose events are numbered from 0."""
        found = SEQUENCE_NUMBER.findall(self._last)
        return int(found[-1]) + 1 if found else 0

    def settle(self) -> None:
        """The exchange has ended, perhaps before the engine said what it used."""

    @property
    def started(self) -> bool:
        """Whether there has been any output, or the end of the stream."""
        return bool(self._record.output_times) or self.finished

    def _forwards(self, event: bytes, now: float) -> bool:
        # `find` is faster than `in`, which for bytes first tries whether the pattern is an integer.
        begins = self._begins
        if not begins:
            begins, opens = self._known.first(event)
            self._begins = begins
            if opens:
                return True
        rest = event.removeprefix(begins)
        is_text = rest is not event
        if is_text:
            ending = self._known.endings.get(rest.partition(b'"')[2])
            if ending is not None:
                self._note_output(now)
                reason, ends = ending
                if reason:
                    self._note_reason(reason)
                else:
                    self._ends = ends
                return True
        elif not event.startswith(CHUNK):
            if event.startswith(self._end_events):
                self._end(event)
                return True
            if event[:1] == b":":
                return True
            if event.startswith(ERROR_EVENTS):
                raise BrokenStreamError(event)
        at = len(begins) if is_text else 0
        counted = event.find(USAGE, at) >= 0
        if counted:
            self._note_usage(event)
            if self._dialect == "openai" and event.find(b'"choices":[]') >= 0:
                return not self._hide_usage
        found = FINISH_REASON.search(event, at)
        if is_text or self._is_output(event):
            self._note_output(now)
            if self._patterns and not counted:
                self._learn(event, found)
        elif self._dialect == "openai" and not (counted or found):
            self._known.add_opening(event)
        if found:
            self._note_reason(found[1].decode())
        return True

    def _end(self, event: bytes) -> None:
        if event.find(USAGE) >= 0:
            self._note_usage(event)
        # An engine that is shutting down ends a stream like this, without a finish reason or without output.
        produced = self._record.output_times or self._record.completion_tokens
        if self._record.finish_reason is None if self._dialect == "openai" else not produced:
            raise BrokenStreamError
        self.finished = True

    def _note_reason(self, reason: str) -> None:
        self._record.finish_reason = reason
        # vLLM ends running requests with these when it shuts down or fails.
        if reason in ("abort", "error"):
            raise BrokenStreamError

    def _is_output(self, event: bytes) -> bool:
        """Whether the event carries output. Opening events do not; vLLM sends them together with the first token."""
        if self._dialect == "openai":
            return event.find(ROLE) < 0
        # Anthropic's message_delta ends a message: it has the stop reason and usage, but no text.
        return b"delta\n" in event[:64] and not event.startswith(b"event: message_delta")

    def _note_usage(self, event: bytes) -> None:
        try:
            decoded = DECODER.decode(event[event.index(b"data: ") + 6 :])
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise BrokenStreamError from None
        answer = decoded.response or decoded.message or decoded
        if answer.usage:
            self._record.update_usage(answer.usage)
        if self._dialect == "responses":
            self._record.finish_reason = answer.status


def _are_escaped(text: bytes) -> bool:
    """Whether none of its quotation marks ends a string of JSON."""
    return QUOTE not in text.replace(rb"\\", b"").replace(rb"\"", b"")


def _joined(events: list[bytes]) -> bytes:
    return b"\n\n".join((*events, b"")) if events else b""
