"""Conversations that are continued on `/v1/responses`: bodies with stored items in them, and the objects of the API.

Pure. An item is one element of `input` or `output`, as JSON.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from service.errors import ApiError, ErrorCode
from service.protocol.parse_body import ITEMS, MEMBERS
from service.protocol.requests import Item, ResponsesRequest

Json = dict[str, Any]
NewId = Callable[[], str]

# The events that hold the response as a whole; the last one of a stream is one of FINAL.
LIFECYCLE = re.compile(rb"^event: response\.(?:created|queued|in_progress|completed|incomplete|failed)\n", re.MULTILINE)
FINAL = (b"event: response.completed\n", b"event: response.incomplete\n")
# What a response shows of its request before an engine has said anything, and as what if the request does not say it.
SHOWN: Mapping[str, Any] = {
    "instructions": None, "max_output_tokens": None, "max_tool_calls": None, "parallel_tool_calls": True,
    "reasoning": None, "temperature": None, "text": None, "tool_choice": "auto", "tools": [], "top_p": None,
    "truncation": "disabled",
}  # fmt: skip


def references(request: ResponsesRequest) -> list[str]:
    """The ids of the stored items that the input refers to."""
    items = request.input if isinstance(request.input, list) else []
    return [item.id for item in items if item.id is not None and is_reference(item)]


def is_reference(item: Item) -> bool:
    """Whether an item of an input stands for a stored one."""
    return item.type == "item_reference" or (item.type is None and item.role is None and item.id is not None)


def new_items(request: ResponsesRequest, body: bytes, stored: Mapping[str, bytes]) -> list[bytes]:
    """The items of the request's own input, with `stored` ones in place of references to them.

    Raises the 404 for a reference to an item that is not stored.
    """
    given = bytes(MEMBERS.decode(body)["input"])
    if isinstance(request.input, str):
        return [b'{"type":"message","role":"user","content":%b}' % given]
    items = []
    for index, (item, raw) in enumerate(zip(request.input, ITEMS.decode(given), strict=True)):
        if item.id is None or not is_reference(item):
            items.append(bytes(raw))
        elif item.id in stored:
            items.append(stored[item.id])
        else:
            raise not_found(item.id, f"input[{index}]", "item")
    return items


def continued(body: bytes, history: Sequence[bytes], items: Sequence[bytes]) -> bytes:
    """The body of a request that stands for itself: the whole conversation, and nothing that needs a store."""
    members = MEMBERS.decode(body)
    for name in ("previous_response_id", "background"):
        members.pop(name, None)
    sendable = [item for item in history if not _is_empty(item)]
    members["input"] = msgspec.Raw(b"[" + b",".join([*sendable, *items]) + b"]")
    return msgspec.json.encode(members)


def with_ids(items: Sequence[bytes], new_id: NewId) -> list[tuple[str, bytes]]:
    """Each item with its id: the client's own, or a new one for a message that has none."""
    ids = [msgspec.json.decode(item, type=Item).id for item in items]
    return [(id or f"msg_{new_id()}", item) for id, item in zip(ids, items, strict=True)]


def unfinished(body: bytes, model: str, created: int, status: str) -> Json:
    """The response to the request `body` while there is no output; `created` is in seconds since the epoch."""
    members = msgspec.json.decode(body)
    shown = {name: default if members.get(name) is None else members[name] for name, default in SHOWN.items()}
    head = {"object": "response", "created_at": created, "status": status, "model": model, "output": []}
    return {**head, "error": None, "incomplete_details": None, "usage": None, **shown}


def split_events(events: bytes, fields: Json) -> tuple[bytes, tuple[bytes, Json] | None]:
    """Complete events with `fields` in every response that they hold, without the last event of a stream.

    That one comes as the line of its name and its data, if it is among them.
    """
    if not LIFECYCLE.search(events):
        return events, None
    passed, final = [], None
    for event in events.split(b"\n\n")[:-1]:
        if not LIFECYCLE.match(event):
            passed.append(event + b"\n\n")
            continue
        name, _, data = event.partition(b"\n")
        payload = json.loads(data.removeprefix(b"data: "))
        payload["response"] |= fields
        if event.startswith(FINAL):
            final = name, payload
        else:
            passed.append(join_event(name, payload))
    return b"".join(passed), final


def join_event(name: bytes, payload: Json) -> bytes:
    """An event of a stream, from the line of its name and its data."""
    return name + b"\ndata: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


def page(items: Sequence[tuple[str, bytes]], query: Mapping[str, str]) -> Json:
    """The page of `items`, given in the order of the conversation, that the parameters of a URL ask for.

    `limit` is 1 to 100 and 20 by default, `order` is `asc` or `desc`, which is the default, and `after` is the id of
    the last item on the page before. Raises the 400 that names a parameter with another value.
    """
    limit, order, after = query.get("limit", "20"), query.get("order", "desc"), query.get("after")
    if not limit.isascii() or not limit.isdecimal() or not 1 <= int(limit[:4]) <= 100:
        raise _wrong("limit", "it should be an integer of at least 1 and at most 100")
    if order not in ("asc", "desc"):
        raise _wrong("order", "it should be 'asc' or 'desc'")
    ordered = list(items if order == "asc" else reversed(items))
    if after is not None:
        place = next((place for place, (id, _) in enumerate(ordered) if id == after), None)
        if place is None:
            raise _wrong("after", "it should be the id of an item of this response's input")
        ordered = ordered[place + 1 :]
    data = [_listed(id, json.loads(body)) for id, body in ordered[: int(limit)]]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": len(ordered) > len(data)}


def not_found(id: str, param: str | None = None, what: str = "response") -> ApiError:
    """The 404 for a response or item: the same for one that does not exist and for one of another tenant."""
    text = f"No {what} '{id[:128]}' is stored here."
    if param:
        text += " Send the whole conversation instead of what refers to it."
    return ApiError(ErrorCode.RESPONSE_NOT_FOUND, text, param)


def _wrong(name: str, reason: str) -> ApiError:
    return ApiError(ErrorCode.INVALID_VALUE, f"'{name}' is invalid: {reason}.", name)


def _listed(id: str, item: Json) -> Json:
    """An item of an input as the API lists it: with its id, its type, and its text in parts."""
    if item.get("type", "message") != "message":
        return {**item, "id": id}
    content = item.get("content")
    if isinstance(content, str):
        kind = "output_text" if item.get("role") == "assistant" else "input_text"
        extra: Json = {"annotations": []} if kind == "output_text" else {}
        content = [{"type": kind, "text": content, **extra}]
    return {"status": "completed", **item, "id": id, "type": "message", "content": content}


def _is_empty(item: bytes) -> bool:
    """Whether it is a message without any text, as the end of an answer that was cut off can be: vLLM fails on it."""
    read = msgspec.json.decode(item, type=Item)
    return read.type in (None, "message") and read.role is not None and read.content in ([], None)
