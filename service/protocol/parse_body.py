"""Parses a body once; engines get the client's own bytes, with a few fields appended that replace earlier ones."""

import json
from collections.abc import Collection
from functools import cache
from typing import Any

import msgspec

from service.protocol import validation_errors
from service.protocol.requests import Body

MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def parse_body(kind: type[Body], body: bytes, extra_fields: Collection[str] = ()) -> Body:
    """The body as a `kind`; raises the 400 that names the field which is wrong.

    `extra_fields` are fields that the fleet file allows beyond those of `kind`; they are forwarded unread.
    """
    try:
        if not body.isascii():
            body.decode()  # msgspec does not check the UTF-8 of what it skips
        if extra_fields and any(f'"{name}"'.encode() in body for name in extra_fields):
            fields = json.loads(body)
            if isinstance(fields, dict):
                unread = set(extra_fields) - set(kind.__struct_fields__)
                body = json.dumps({key: value for key, value in fields.items() if key not in unread}).encode()
        return _decoder(kind).decode(body)
    except (ValueError, RecursionError) as error:
        raise validation_errors.api_error(error, kind) from None


def engine_body(body: bytes, request: Body, rewritten: dict[str, Any], streams: bool) -> bytes:
    """The body that an engine gets for `request`, which was parsed from `body`.

    `rewritten` are fields that it gets otherwise than the client sent them. Members that are null are left out, because
    to OpenAI and Anthropic null means absent and to vLLM not always; so is what identifies a person, and `stream` where
    the endpoint has none.
    """
    dropped = {name for name in request.private_fields if getattr(request, name) is not None}
    if request.stream is not None and not streams:
        dropped.add("stream")
    opened = rewritten.keys() - set(request.__struct_fields__)
    if dropped or b"null" in body or any(f'"{name}"'.encode() in body for name in opened):
        members = MEMBERS.decode(body)
        rewritten = rewritten | {name: _merged(members.get(name), rewritten[name]) for name in opened}
        kept = {name: raw for name, raw in members.items() if name not in dropped and bytes(raw) != b"null"}
        if len(kept) < len(members):
            body = msgspec.json.encode(kept)
    return with_fields(body, rewritten)


def with_fields(body: bytes, fields: dict[str, Any]) -> bytes:
    """The JSON object `body` with `fields` replaced or added, and the client's bytes otherwise untouched.

    The fields are appended: every JSON parser in use here takes the last of two members with the same name.
    """
    if not fields:
        return body
    return body.rstrip()[:-1] + b"," + json.dumps(fields).encode()[1:]


def _merged(sent: msgspec.Raw | None, ours: Any) -> Any:
    """Our value of a field that the client has set as well, with what it holds of the client's."""
    theirs = msgspec.json.decode(sent) if sent is not None else None
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return theirs | ours
    if isinstance(ours, list) and theirs is not None:
        theirs = theirs if isinstance(theirs, list) else [theirs]
        return [*theirs, *(item for item in ours if item not in theirs)]
    return ours


@cache
def _decoder(kind: type[Body]) -> msgspec.json.Decoder[Body]:
    return msgspec.json.Decoder(kind)
