"""A response as it is stored: its items, its object, and the conversation that it belongs to."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

RUNNING = ("queued", "in_progress")

Body = dict[str, Any]


class Item(NamedTuple):
    """One item of a conversation, as JSON, and the id by which it can be referred to."""

    id: str
    body: bytes


@dataclass(frozen=True)
class NewResponse:
    """A response to store. `previous` is the number of the one that it continues; `body` is the object of the API.

    `items` are those that its request added, and then its output.
    """

    tenant: str
    id: str
    previous: int | None
    prefix_key: int
    body: Body
    items: Sequence[Item]

    @property
    def outputs(self) -> list[Item]:
        """The items of its output."""
        return [Item(item.get("id") or "", encode(item)) for item in self.body["output"]]

    @property
    def size(self) -> int:
        """Bytes, about."""
        return len(encode(self.body)) + sum(len(item.body) for item in [*self.items, *self.outputs])


@dataclass(frozen=True)
class Conversation:
    """All items up to the output of a response, in order. `complete` is false if the first ones have been deleted.

    `size` is the sum of their bytes; over the limit of the question there are no `items`.
    """

    number: int
    status: str
    prefix_key: int
    complete: bool
    size: int
    items: Sequence[Item]


class TooLargeError(Exception):
    """A response is larger than all that may be stored."""


def encode(value: Any) -> bytes:
    """JSON without spaces."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, from an escape
        return json.dumps(value, separators=(",", ":")).encode()


def failed(body: Body, code: str, message: str) -> Body:
    """The response as one that has failed."""
    return body | {"status": "failed", "error": {"code": code, "message": message}}
