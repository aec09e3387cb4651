"""Server-sent events of a streamed response: framed and observed, and forwarded unchanged."""

import re
from typing import Any, Literal

import msgspec

from service.observability.record import Record, Usage
from service.protocol.responses import is_death
from service.transport.chunks import size_line

Dialect = Literal["openai", "responses", "messages"]

FINISH_REASON = re.compile(rb'_reason": ?"([a-z_]+)"')  # and `stop_reason`
# How chunks begin in the OpenAI dialect, and in no other; and what those contain that are more than a piece of text.
CHUNK = b'data: {"id":'
# What stands before the text in events that are only text.
TEXTS: dict[Dialect, tuple[bytes, ...]] = {
    "openai": (b'"delta":{"content":"', b'"delta":{"reasoning":"', b'"text":"'),
    "responses": (),  # its events are numbered
    "messages": (b'"text_delta","text":"', b'"thinking_delta","thinking":"'),
}
QUOTE = ord('"')
OPENINGS = 16  # sizes of chunks for which their beginning is kept
PATTERNS = 8  # how often a stream's events of text may change before they are all looked through
USAGE, ROLE, FINISH, SPACED = b'"usage":{', b'"delta":{"role"', b'_reason":"', b'_reason": "'
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
    did not set `include_usage` does not expect.
    """

    __slots__ = (
        "_begins",
        "_dialect",
        "_end_events",
        "_ends",
        "_hide_usage",
        "_last",
        "_note_output",
        "_openings",
        "_patterns",
        "_pieces",
        "_record",
        "_size",
        "finished",
    )

    def __init__(self, record: Record, dialect: Dialect, hide_usage: bool) -> None:
        self._record, self._dialect, self._hide_usage = record, dialect, hide_usage
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
        passed: list[bytes] = []
        for event in data[: end - 2].split(b"\n\n"):
            try:
                if self._forwards(event, now):
                    passed += (event, b"\n\n")
                    self._last = event
            except BrokenStreamError as error:
                error.passed = b"".join(passed)
                raise
        return b"".join(passed)

    def take_chunk(self, chunk: bytes, now: float) -> bytes | None:
        """The chunk of HTTP to forward in place of this one, with its size and line ends; None if it has to be fed.

        It must be one event, like an earlier one but for a text without quotation marks.
        """
        try:
            opening = self._openings[len(chunk)]
        except KeyError:
            opening = self._opening(len(chunk))
        # The quickest of all ways to compare: where there is nothing to remove, Python gives back the same object.
        rest = chunk.removeprefix(opening)
        text = rest.removesuffix(self._ends)
        if rest is chunk or text is rest or QUOTE in text or self._pieces:
            return None
        note_output = self._note_output
        note_output(now)
        return chunk

    def _opening(self, size: int) -> bytes:
        """What a chunk of `size` bytes has before its text; what is longer than it where none has a text."""
        line = size_line(size)
        if not (line and self._begins):
            return bytes(size + 1)
        if len(self._openings) == OPENINGS:
            self._openings.clear()
        opening = self._openings[size] = line + self._begins
        return opening

    def _learn(self, event: bytes) -> None:
        """Remembers what is around the text of an event that has nothing else to note."""
        for before in TEXTS[self._dialect]:
            if (at := event.find(before) + len(before)) >= len(before):
                text, quote, after = event[at:].rstrip(b"\n").partition(b'"')
                learned = event[:at], b"%b%b\n\n\r\n" % (quote, after)
                is_plain = after.count(b'_reason":') == after.count(b'_reason":null') and text[-1:] != b"\\"
                if is_plain and learned != (self._begins, self._ends):
                    self._begins, self._ends = learned
                    self._openings = {}
                    self._patterns -= 1
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
        # The common case first: in the OpenAI dialect all but the first and the last few chunks are only text.
        # `find` is faster than `in`, which for bytes first tries whether the pattern is an integer.
        find, begins = event.find, self._begins
        if begins and self._dialect == "openai" and event.startswith(begins):
            at = len(begins)
            if find(USAGE, at) < 0 and find(FINISH, at) < 0 and find(SPACED, at) < 0:
                self._note_output(now)
                if self._patterns and find(self._ends[:-4], at) < 0:
                    self._learn(event)
                return True
        elif event.startswith(CHUNK) and find(USAGE) < 0 and find(FINISH) < 0 and find(ROLE) < 0 and find(SPACED) < 0:
            self._note_output(now)
            if self._patterns:
                self._learn(event)
            return True
        if event.startswith(b":"):
            return True
        if event.startswith(ERROR_EVENTS):
            raise BrokenStreamError(event)
        if event.startswith(self._end_events):
            if USAGE in event:
                self._note_usage(event)
            # An engine that is shutting down ends a stream like this, without a finish reason or without output.
            produced = self._record.output_times or self._record.completion_tokens
            if self._record.finish_reason is None if self._dialect == "openai" else not produced:
                raise BrokenStreamError
            self.finished = True
            return True
        if USAGE in event:
            self._note_usage(event)
            if self._dialect == "openai" and b'"choices":[]' in event:
                return not self._hide_usage
        if self._is_output(event):
            self._note_output(now)
            if self._patterns and self._dialect == "messages":
                self._learn(event)
        reason = FINISH_REASON.search(event)
        if reason:
            self._record.finish_reason = reason[1].decode()
            # vLLM ends running requests with these when it shuts down or fails.
            if self._record.finish_reason in ("abort", "error"):
                raise BrokenStreamError
        return True

    def _is_output(self, event: bytes) -> bool:
        """Whether the event carries output. Opening events do not; vLLM sends them together with the first token."""
        if self._dialect == "openai":
            return ROLE not in event
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
