"""Checks a response: exactly one ending, and only the requested words, in order."""

import json
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from bench.soaking.requests import CHAT, Ask

Ending = Literal["complete", "failed", "quota", "running", "left", "lost", "duplicated"]
DONE = "[DONE]"


@dataclass
class Told:
    """What a client got. No answer has `status` 0. `whole` says that its framing ended, `left` that the client left."""

    status: int = 0
    body: bytearray = field(default_factory=bytearray)
    whole: bool = False
    left: bool = False


@dataclass(frozen=True)
class Verdict:
    """How a request ended, and why in a word or two; `id` is that of its answer, where it has one.

    *quota* and *running* are refusals that ask to come again later: a budget is used up, or the first request with the
    same key is still running.
    """

    ending: Ending
    why: str = ""
    id: str | None = None


@dataclass
class _Stream:
    """The events of a stream as far as they came."""

    words: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    done: int = 0
    finish: str | None = None
    id: str | None = None


def judged(ask: Ask, told: Told) -> Verdict:
    """How a request ended."""
    if told.status == 0:
        return Verdict("left") if told.left else Verdict("lost", "no answer")
    if told.status != 200:
        return _refused(told)
    return _streamed(ask, told) if ask.streamed else _whole(ask, told)


def same(verdicts: list[Verdict]) -> bool:
    """Whether requests with one key that were answered whole have one and the same answer."""
    return len({one.id for one in verdicts if one.ending == "complete"}) <= 1


def availability(endings: Counter[str]) -> float:
    """The share of requests that did not fail, of all but those that were asked to come again later."""
    counted = endings.total() - endings["quota"] - endings["running"]
    return (endings["complete"] + endings["left"]) / counted if counted else 1.0


def _refused(told: Told) -> Verdict:
    try:
        code = str(json.loads(told.body)["error"]["code"])
    except (ValueError, LookupError, TypeError):
        return Verdict("left") if told.left else Verdict("lost", f"status {told.status} without an error")
    if told.status == 409:
        return Verdict("running", code)
    return Verdict("quota" if told.status == 429 else "failed", code)


def _whole(ask: Ask, told: Told) -> Verdict:
    if not told.whole:
        return Verdict("left") if told.left else Verdict("lost", "an answer without its end")
    try:
        answer = json.loads(told.body)
        choice = answer["choices"][0]
        text = choice["message"]["content"] if ask.path == CHAT else choice["text"]
    except (ValueError, LookupError, TypeError):
        return Verdict("lost", "an answer that is none")
    wrong = _compared(ask, text.split())
    return wrong or _finished(ask, text.split(), choice["finish_reason"], answer["id"])


def _streamed(ask: Ask, told: Told) -> Verdict:
    found = _read(told)
    if found is None:
        return Verdict("lost", "an event that is none")
    if wrong := _compared(ask, found.words):
        return wrong
    endings = found.done + len(found.errors)
    if endings > 1:
        return Verdict("lost", f"{endings} endings")
    if found.errors:
        return Verdict("failed", f"{found.errors[0]} in the stream")
    if not endings or not told.whole:
        return Verdict("left") if told.left else Verdict("lost", "a stream without an end")
    return _finished(ask, found.words, found.finish, found.id)


def _read(told: Told) -> _Stream | None:
    found = _Stream()
    *events, rest = told.body.decode(errors="replace").split("\n\n")
    if rest and told.whole:
        return None
    for event in events:
        if event.startswith(":"):
            continue  # a comment, while it waits
        payload = event.removeprefix("data: ")
        if payload == DONE:
            found.done += 1
            continue
        try:
            _note(found, json.loads(payload))
        except (ValueError, LookupError, TypeError, AttributeError):
            return None
    return found


def _note(found: _Stream, event: dict[str, Any]) -> None:
    if "error" in event:
        found.errors.append(str(event["error"]["code"]))
        return
    found.id = event["id"]
    for choice in event["choices"]:
        text = choice["delta"].get("content") if "delta" in choice else choice["text"]
        found.words += (text or "").split()
        found.finish = choice["finish_reason"] or found.finish


def _compared(ask: Ask, words: list[str]) -> Verdict | None:
    """What is wrong with the words, if they are not the first ones of what was asked for."""
    if tuple(words) == ask.wanted[: len(words)]:
        return None
    places = {word: number for number, word in enumerate(ask.words)}
    order = [places.get(word, -1) for word in words]
    if -1 in order:
        return Verdict("lost", "words that nobody asked for")
    if any(later <= earlier for earlier, later in pairwise(order)):
        return Verdict("duplicated", "words again or out of order")
    return Verdict("lost", "words are missing")


def _finished(ask: Ask, words: list[str], finish: str | None, identity: str | None) -> Verdict:
    if len(words) < len(ask.wanted) or finish not in ("stop", "length"):
        return Verdict("lost", f"{finish} before its last word" if finish else "an end without a reason")
    return Verdict("complete", id=identity)
