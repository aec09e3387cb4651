"""A stream of which nothing passes that was not judged: its events are held back, and their text is collected. Pure."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from service.guardrails.stream_endings import Progress
from service.guardrails.texts import NO_TEXT, texts_within
from service.protocol.streams import Dialect

Json = dict[str, Any]
Lane = tuple[object, ...]  # whose text an event continues: a choice's content, thoughts or calls; a block; an item
# What events hold beside pieces of text: whole parts, items and blocks, which repeat text or bring one at once.
WHOLES = ("item", "part", "text", "arguments", "content_block")


class Held(NamedTuple):
    """An event that waits for the verdict on its text; `value` is its JSON, None for one without."""

    event: bytes
    value: Json | None
    has_text: bool


class StreamGate:
    """Holds the events of one response. `window` is how many characters of text make it `full`.

    Each text is judged together with the `window` characters before it in its lane, so that nothing is hidden by lying
    where two texts meet.
    """

    def __init__(self, dialect: Dialect, window: int) -> None:
        self._window = window
        self._held: list[Held] = []
        self._fresh: dict[Lane, str] = {}
        self._size = 0  # characters in it
        self._said: dict[Lane, str] = {}  # all that was judged
        self._progress = Progress(dialect)

    def take(self, events: bytes) -> None:
        """Holds complete events."""
        for event in events.split(b"\n\n"):
            if event:
                self._hold(event)

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
        self._fresh, self._size = {}, 0
        held, self._held = self._held, []
        return self._pass(held)

    def end_blocked(self) -> bytes:
        """The events that end the stream when a text is blocked: what opens it, if the client has not had that."""
        first = next((index for index, held in enumerate(self._held) if held.has_text), len(self._held))
        opening = self._held[:first] if not self._progress.begun else []
        return self._pass(opening) + self._progress.ending()

    def next_sequence_number(self) -> int:
        """The number of the next event in a stream of the Responses API."""
        return self._progress.next_number

    def _pass(self, held: list[Held]) -> bytes:
        for one in held:
            self._progress.note(one.value)
        return b"".join(one.event + b"\n\n" for one in held)

    def _hold(self, event: bytes) -> None:
        payload = event[5:] if event.startswith(b"data:") else event.partition(b"\ndata:")[2]
        value = None
        if payload and payload.strip() != b"[DONE]":
            value = _decoded(payload)
        found = [(lane, text) for lane, text in self._texts_of(value) if text] if isinstance(value, dict) else []
        for lane, text in found:
            self._fresh[lane] = self._fresh.get(lane, "") + text
            self._size += len(text)
        self._held.append(Held(event, value, bool(found)))

    def _texts_of(self, value: Json) -> Iterator[tuple[Lane, str]]:
        if isinstance(choices := value.get("choices"), list):
            for choice in choices:
                members = {**choice.get("delta", {}), "text": choice.get("text")}
                for name, each in members.items():
                    if name not in NO_TEXT:
                        yield (choice.get("index"), name), texts_within(each)
            return
        here = value.get("output_index", value.get("index")), value.get("content_index", value.get("summary_index"))
        if "delta" in value and value.get("type") != "message_delta":
            yield here, texts_within(value["delta"])
        wholes = [value.get(name) for name in WHOLES]
        wholes.append((value.get("response") or {}).get("output"))
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
