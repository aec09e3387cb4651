"""A stream of which nothing passes that was not judged: its events are held back, and their text is collected. Pure."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from service.guardrails.chunks import Chunk, as_chunk, chunk_of
from service.guardrails.repeated import Pattern, pattern_of
from service.guardrails.stream_endings import Progress
from service.guardrails.texts import NO_TEXT, texts_within
from service.protocol.streams import Dialect

Json = dict[str, Any]
Lane = tuple[object, ...]  # whose text an event continues: a choice's content, thoughts or calls; a block; an item
# What events hold beside pieces of text: whole parts, items and blocks, which repeat text or bring one at once.
WHOLES = ("choices", "item", "part", "text", "arguments", "content_block")

NOTHING_NEW: tuple[None, ...] = (None,)  # in an event, but for its text


class StreamGate:
    """Holds the events of one response. `window` is how many characters of text make it `full`.

    Each text is judged together with the `window` characters before it in its lane, so that nothing is hidden by lying
    where two texts meet.
    """

    def __init__(self, dialect: Dialect, window: int) -> None:
        self._window = window
        self._held: list[bytes] = []
        self._values: list[Chunk | Json | None] = []  # of the events that are held
        self._opening: list[bytes] | None = []  # the events before the first text, while nothing has passed
        self._fresh: dict[Lane, str] = {}
        self._size = 0  # characters in it
        self._said: dict[Lane, str] = {}  # all that was judged
        self._pattern: Pattern | None = None  # of most of the events
        self._progress = Progress(dialect)

    def take(self, events: bytes) -> None:
        """Holds complete events."""
        self._held.append(events)
        pattern = self._pattern
        if pattern is not None and (text := pattern.only(events)) and self._add_run(pattern, text, 1):
            return
        at, size, runs = 0, len(events), True
        while at < size:
            if runs and self._pattern:
                text, count, end = self._pattern.run(events, at)
                if count and self._add_run(self._pattern, text, count):
                    at = end
                    continue
                runs = count == 0 and not events.startswith(self._pattern.before, at)  # escapes: not for all the rest
            end = events.find(b"\n\n", at) + 2
            if end > at + 2:
                self._read(events[at : end - 2])
            at = max(end, at + 2) if end > 1 else size

    def _add_run(self, pattern: Pattern, text: bytes, count: int) -> bool:
        """Adds the text of events of which nothing else is new, to us or to a client; not if it is no text."""
        try:
            said = text.decode()
        except UnicodeDecodeError:
            return False
        self._fresh[pattern.lane] = self._fresh.get(pattern.lane, "") + said
        self._size += len(said)
        self._values += NOTHING_NEW if count == 1 else NOTHING_NEW * count
        return True

    @property
    def full(self) -> bool:
        """Whether it is time to judge."""
        return self._size >= self._window

    def texts(self) -> list[str]:
        """The texts to judge before the events that are held may pass."""
        return [self._said.get(lane, "")[-self._window :] + fresh for lane, fresh in self._fresh.items() if fresh]

    def release(self) -> bytes:
        """The events that were held, whose text has passed."""
        for lane, fresh in self._fresh.items():
            self._said[lane] = self._said.get(lane, "") + fresh
        self._fresh, self._size, self._opening = {}, 0, None
        self._note(len(self._values))
        held, self._held, self._values = b"".join(self._held), [], []
        return held

    def end_blocked(self) -> bytes:
        """The events that end the stream when a text is blocked: what opens it, if the client has not had that."""
        opening = self._opening or []
        self._note(len(opening))
        return b"".join(event + b"\n\n" for event in opening) + self._progress.ending()

    def next_sequence_number(self) -> int:
        """The number of the next event in a stream of the Responses API."""
        return self._progress.next_number

    def _note(self, count: int) -> None:
        for value in self._values[:count]:
            self._progress.note(value)

    def _read(self, event: bytes) -> None:
        payload = event[5:] if event.startswith(b"data:") else event.partition(b"\ndata:")[2]
        size = self._size
        value: Chunk | Json | None = chunk_of(payload) if b'"choices"' in payload else None
        if value is None and payload and payload.strip() != b"[DONE]":
            value = _decoded(payload)
            if isinstance(value, dict) and "choices" in value:
                value = as_chunk(value) or value
        if isinstance(value, Chunk):
            self._read_chunk(value)
            self._pattern = self._pattern or pattern_of(event, value)
        elif isinstance(value, dict):
            for lane, text in self._texts_of(value):
                self._add(lane, text)
        self._values.append(value)
        if self._opening is not None and len(self._opening) == len(self._values) - 1 and self._size == size:
            self._opening.append(event)

    def _read_chunk(self, chunk: Chunk) -> None:
        for choice in chunk.choices:
            for name, each in (choice.delta or {}).items():
                if name not in NO_TEXT:
                    self._add((choice.index, name), each if isinstance(each, str) else texts_within(each))
            if choice.text:
                self._add((choice.index, "text"), texts_within(choice.text))

    def _add(self, lane: Lane, text: str) -> None:
        if text:
            self._fresh[lane] = self._fresh.get(lane, "") + text
            self._size += len(text)

    def _texts_of(self, value: Json) -> Iterator[tuple[Lane, str]]:
        here = value.get("output_index", value.get("index")), value.get("content_index", value.get("summary_index"))
        if "delta" in value and value.get("type") != "message_delta":
            yield here, texts_within(value["delta"])
        wholes = [value[name] for name in WHOLES if name in value]
        if response := value.get("response"):
            wholes.append(response.get("output"))
        for whole in wholes:
            for text in texts_apart(whole):
                if not self._heard(text):
                    yield (*here, "whole"), text

    def _heard(self, text: str) -> bool:
        """Whether the pieces of some lane have said the text already."""
        lanes = self._fresh.keys() | self._said.keys()
        return any(text in self._said.get(lane, "") + self._fresh.get(lane, "") for lane in lanes)


def _decoded(payload: bytes) -> Any:
    """The JSON of an event; what is none is text as a whole."""
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError):
        text = payload.decode(errors="replace")
    try:  # half a surrogate pair, which is no reason to see less of the rest
        return json.loads(json.dumps(json.loads(text), ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError):
        return {"text": text}


def texts_apart(value: Any) -> list[str]:
    """The texts within a whole part, item or output, one by one."""
    if isinstance(value, list):
        return [text for each in value for text in texts_apart(each)]
    if isinstance(value, dict):
        return [text for name, each in value.items() if name not in NO_TEXT for text in texts_apart(each)]
    return [value] if isinstance(value, str) and value else []
