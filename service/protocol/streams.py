"""Server-sent events of a streamed response: framed and observed, and forwarded unchanged."""

import json
import re
from typing import Literal

from service.observability.record import Record
from service.protocol.responses import is_death

Dialect = Literal["openai", "responses", "messages"]

FINISH_REASON = re.compile(rb'_reason": ?"([a-z_]+)"')  # and `stop_reason`
# How chunks begin in the OpenAI dialect, and in no other; and what those contain that are more than a piece of text.
CHUNK = b'data: {"id":'
USAGE, ROLE, FINISH, SPACED = b'"usage":{', b'"delta":{"role"', b'_reason":"', b'_reason": "'
END_EVENTS = {
    "openai": (b"data: [DONE]",),
    "responses": (b"event: response.completed", b"event: response.incomplete"),
    "messages": (b"event: message_stop",),
}
ERROR_EVENTS = (b'data: {"error"', b"event: error", b"event: response.failed", b'data: {"type":"error"')
MAX_EVENT_BYTES = 16 * 2**20


class BrokenStreamError(Exception):
    """A stream failed. `passed` holds the complete events that arrived together with the error, but before it.

    `dead` says that the engine core has died.
    """

    def __init__(self, *, dead: bool = False) -> None:
        super().__init__()
        self.dead = dead
        self.passed = b""


class StreamWatcher:
    """Observes one streamed response of an engine.

    It splits the bytes into events, records the times of output, the usage and the finish reason, and detects whether
    the stream ended properly: then `finished` is true. With `hide_usage` it drops the usage event, which a client that
    did not set `include_usage` does not expect.
    """

    __slots__ = ("_dialect", "_end_events", "_hide_usage", "_note_output", "_record", "_rest", "finished")

    def __init__(self, record: Record, dialect: Dialect, hide_usage: bool) -> None:
        self._record, self._dialect, self._hide_usage = record, dialect, hide_usage
        self._end_events, self._note_output = END_EVENTS[dialect], record.output_times.append
        self._rest = b""
        self.finished = False

    def feed(self, data: bytes, now: float) -> bytes:
        """Takes the bytes that arrived at `now`, in monotonic seconds; returns the complete events to forward.

        Raises BrokenStreamError at an error event, an aborted response, or an event over `MAX_EVENT_BYTES`.
        """
        if self._rest:
            data = self._rest + data
        elif 0 < data.find(b"\n\n") == len(data) - 2:
            return data if self._forwards(data, now) else b""
        end = data.rfind(b"\n\n") + 2
        if end == 1:
            if len(data) > MAX_EVENT_BYTES:
                raise BrokenStreamError
            self._rest = data
            return b""
        self._rest = data[end:]
        passed = b""
        for event in data[: end - 2].split(b"\n\n"):
            try:
                if self._forwards(event, now):
                    passed += event + b"\n\n"
            except BrokenStreamError as error:
                error.passed = passed
                raise
        return passed

    @property
    def started(self) -> bool:
        """Whether there has been any output, or the end of the stream."""
        return bool(self._record.output_times) or self.finished

    def _forwards(self, event: bytes, now: float) -> bool:
        # The common case first: in the OpenAI dialect all but the first and the last few chunks are only text.
        # `find` is faster than `in`, which for bytes first tries whether the pattern is an integer.
        find = event.find
        if event.startswith(CHUNK) and find(USAGE) < 0 and find(FINISH) < 0 and find(ROLE) < 0 and find(SPACED) < 0:
            self._note_output(now)
            return True
        if event.startswith(b":"):
            return True
        if event.startswith(ERROR_EVENTS):
            raise BrokenStreamError(dead=is_death(event))
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
            payload = json.loads(event[event.index(b"data: ") + 6 :])
            # In Anthropic's first event and the last one of the Responses API it is one level down.
            holder = payload.get("response") or payload.get("message") or payload
            self._record.update_usage(holder.get("usage") or {})
            if self._dialect == "responses":
                self._record.finish_reason = holder.get("status")
        except (ValueError, AttributeError):
            raise BrokenStreamError from None
