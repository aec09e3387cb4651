"""A ledger of requests and responses, and the invariants that must hold for it."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from service.server.asgi import Message, Scope
from tests.fake_engine import Seen

ERRORS = (b'data: {"error"', b"event: error")
ENDS = (b"data: [DONE]", b"event: response.completed", b"event: response.incomplete", b"event: message_stop")
TOKENS = re.compile(rb'"(?:completion|output)_tokens":(\d+)(?=[,}])')
Line = dict[str, Any]


@dataclass(eq=False)
class Given:
    """What the server was told to send for one request. `late` is what came after the end of the answer."""

    scope: Scope
    status: int = 0
    starts: int = 0
    sent: bytearray = field(default_factory=bytearray)
    ended: bool = False
    late: int = 0

    def take(self, message: Message) -> None:
        self.late += self.ended
        if message["type"] == "http.response.start":
            self.starts += 1
            self.status = message["status"]
        else:
            self.sent += message.get("body", b"")
            self.ended |= not message.get("more_body", False)

    @property
    def body(self) -> bytes:
        return bytes(self.sent)

    @property
    def id(self) -> str:
        return str(self.scope["record"].request_id)

    @property
    def events(self) -> list[bytes]:
        """The events of a stream, without the comments of one that waits."""
        return [event for event in self.body.split(b"\n\n") if event and not event.startswith(b":")]


def check(given: Sequence[Given], lines: Sequence[Line], seen: Sequence[Seen], *, broken: int) -> None:
    """Each request has one ending and one line, its client got what an engine said, and that was counted once.

    `broken` answers at most ended with their connection, because something failed that must not.
    """
    by_id = {line["request_id"]: line for line in lines}
    assert len(by_id) == len(lines) == len(given)
    engines = {one: [each for each in seen if asked_by(each) == one] for one in {asked_by(each) for each in seen}}
    assert engines.keys() <= by_id.keys()
    assert sum(not one.ended and by_id[one.id]["outcome"] != "cancelled" for one in given) <= broken
    for one in given:
        line, asked = by_id[one.id], engines.get(one.id, [])
        assert len(asked) <= line["attempts"] <= 2, line
        if b'"background":true' in one.body[:4096]:
            continue  # its client got an answer before the engine did
        _check_ending(one, line)
        if asked and one.status == 200:
            _check_text(one, line, asked)
        if line["replayed"]:
            generated = [other.body for other in given if not by_id[other.id]["replayed"]]
            assert one.body in generated and not line["attempts"], line


def asked_by(seen: Seen) -> str:
    """The id of the request that an engine got; none if the gateway asked for itself, as it asks guards."""
    id = seen.headers.get("x-request-id", "")
    return "" if "-" in id else id


def unseen(lines: Sequence[Line], seen: Sequence[Seen]) -> Counter[str]:
    """For each request the attempts that no engine knows of, as far as its client stayed to see what came of them."""
    counts = Counter(asked_by(each) for each in seen)
    settled = (line for line in lines if line["outcome"] != "cancelled" and line["code"] != "shutting_down")
    return Counter({line["request_id"]: line["attempts"] - counts[line["request_id"]] for line in settled})


def _check_ending(one: Given, line: Line) -> None:
    """Exactly one of an answer with its end, an error, and an error event as the last one of a stream."""
    assert one.starts <= 1 and not one.late, line
    if line["outcome"] == "cancelled":
        return
    assert one.starts == 1 and one.status == line["status"], line
    errors = [event for event in one.events if event.startswith(ERRORS)]
    if line["outcome"] == "complete":
        assert one.ended and not (line["streamed"] and errors), line
        assert not line["streamed"] or any(event.startswith(ENDS) for event in one.events), line
        assert not line["streamed"] or line["finish_reason"], line
    elif one.status == 200 and one.ended:
        assert errors == one.events[-1:], line
        assert not any(event.startswith(ENDS) for event in one.events), line


def _check_text(one: Given, line: Line, asked: list[Seen]) -> None:
    """The client's text is the beginning of what one engine said, all of it if that was complete; so is the bill."""
    got, said = text(one.body), [text(dechunked(each.answer)) for each in asked]
    assert any(every.startswith(got) for every in said), (got, said)
    if line["outcome"] == "complete" and line["finish_reason"] != "content_filter":  # that has the beginning alone
        assert got in said, (got, said)
        if counts := TOKENS.findall(dechunked(asked[-1].answer)):
            assert line["completion_tokens"] == int(counts[-1]), line


def dechunked(raw: bytes) -> bytes:
    """The body of an answer as far as it came, without its head and framing."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head.lower():
        return rest
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        if not re.fullmatch(rb"[0-9a-f]+", size):
            break
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body


def text(body: bytes) -> str:
    """All that a whole answer, or the events of a stream, say."""
    return "".join(word for value in _values(body) if isinstance(value, dict) for word in _words(value))


def _values(body: bytes) -> Iterator[Any]:
    rows = [body] if body.startswith(b"{") else re.findall(rb"^data: (.*)$", body, re.MULTILINE)
    for row in rows:
        with suppress(ValueError):
            yield json.loads(row)


def _words(value: dict[str, Any]) -> Iterator[str]:
    with suppress(KeyError, IndexError, TypeError, AttributeError):
        match value:
            case {"choices": [choice, *_]}:
                yield (choice.get("delta") or choice.get("message") or {}).get("content") or choice.get("text") or ""
            case {"type": "response.output_text.delta", "delta": str(delta)}:
                yield delta
            case {"type": "content_block_delta", "delta": {"text": str(delta)}}:
                yield delta
            case {"object": "response", "output": [{"content": [{"text": str(said)}, *_]}, *_]}:
                yield said
            case {"type": "message", "content": [{"text": str(said)}, *_]}:
                yield said
