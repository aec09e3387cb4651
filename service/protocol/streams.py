"""Server-sent events as they pass: framed, watched, and otherwise left alone."""

import json
import re
from typing import Literal

from service.observability.record import Record
from service.protocol.answers import is_death

Dialect = Literal["openai", "responses", "messages"]

FINISH_REASON = re.compile(rb'_reason": ?"([a-z_]+)"')  # and `stop_reason`
# How events begin in the OpenAI dialect, and in no other, but for errors and ends; and what makes them more than text.
TEXT = b'data: {"id":'
USAGE, ROLE, REASON, SPACED = b'"usage":{', b'"delta":{"role"', b'_reason":"', b'_reason": "'
ENDS = {
    "openai": (b"data: [DONE]",),
    "responses": (b"event: response.completed", b"event: response.incomplete"),
    "messages": (b"event: message_stop",),
}
ERRORS = (b'data: {"error"', b"event: error", b"event: response.failed", b'data: {"type":"error"')


LARGEST_EVENT = 16 * 2**20


class BrokenStreamError(Exception):
    """The engine could not finish its stream. `passed` holds the whole events that came with the one that says so.

    `dead` says that the engine's core is no more.
    """

    def __init__(self, *, dead: bool = False) -> None:
        super().__init__()
        self.dead = dead
        self.passed = b""


class Watch:
    """Follows one streamed answer of an engine.

    It cuts the bytes at event boundaries, notes in the record when output came and what was used, and tells whether
    the stream ended as it should. With `hide_usage` the usage event is kept from a client that did not ask for it.
    """

    __slots__ = ("_dialect", "_ends", "_hide_usage", "_output", "_record", "_rest", "finished")

    def __init__(self, record: Record, dialect: Dialect, hide_usage: bool) -> None:
        self._record, self._dialect, self._hide_usage = record, dialect, hide_usage
        self._ends, self._output = ENDS[dialect], record.output_times.append
        self._rest = b""
        self.finished = False

    def feed(self, data: bytes, now: float) -> bytes:
        """The whole events in `data` that the client should get; raises BrokenStreamError at an error of the engine."""
        if self._rest:
            data = self._rest + data
        elif 0 < data.find(b"\n\n") == len(data) - 2:
            return data if self._passes(data, now) else b""
        end = data.rfind(b"\n\n") + 2
        if end == 1:
            if len(data) > LARGEST_EVENT:
                raise BrokenStreamError
            self._rest = data
            return b""
        self._rest = data[end:]
        passed = b""
        for event in data[: end - 2].split(b"\n\n"):
            try:
                if self._passes(event, now):
                    passed += event + b"\n\n"
            except BrokenStreamError as error:
                error.passed = passed
                raise
        return passed

    @property
    def begun(self) -> bool:
        """Whether there was any output, or an end without one."""
        return bool(self._record.output_times) or self.finished

    def _passes(self, event: bytes, now: float) -> bool:
        # All but the first and the last few events of the OpenAI dialect are text and no more.
        # `in` would first try each pattern as a number.
        find = event.find
        if event.startswith(TEXT) and find(USAGE) < 0 and find(REASON) < 0 and find(ROLE) < 0 and find(SPACED) < 0:
            self._output(now)
            return True
        if event.startswith(b":"):
            return True
        if event.startswith(ERRORS):
            raise BrokenStreamError(dead=is_death(event))
        if event.startswith(self._ends):
            if USAGE in event:
                self._note_usage(event)
            # An engine that was told to stop ends a stream so: without a reason, or with nothing said.
            said = self._record.output_times or self._record.completion_tokens
            if self._record.finish_reason is None if self._dialect == "openai" else not said:
                raise BrokenStreamError
            self.finished = True
            return True
        if USAGE in event:
            self._note_usage(event)
            if self._dialect == "openai" and b'"choices":[]' in event:
                return not self._hide_usage
        if self._is_output(event):
            self._output(now)
        reason = FINISH_REASON.search(event)
        if reason:
            self._record.finish_reason = reason[1].decode()
            # vLLM ends requests so when it is told to stop; it is no answer.
            if self._record.finish_reason in ("abort", "error"):
                raise BrokenStreamError
        return True

    def _is_output(self, event: bytes) -> bool:
        """Whether the event carries text: the opening events come together with the first token, not before it."""
        if self._dialect == "openai":
            return ROLE not in event
        # Anthropic's message_delta closes a message: it carries why it ended and what was used, and no text.
        return b"delta\n" in event[:64] and not event.startswith(b"event: message_delta")

    def _note_usage(self, event: bytes) -> None:
        try:
            payload = json.loads(event[event.index(b"data: ") + 6 :])
            # Anthropic's first event and the last one of the Responses API carry it one level down.
            holder = payload.get("response") or payload.get("message") or payload
            self._record.update_usage(holder.get("usage") or {})
            if self._dialect == "responses":
                self._record.finish_reason = holder.get("status")
        except (ValueError, AttributeError):
            raise BrokenStreamError from None
