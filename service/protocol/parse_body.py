"""A body is parsed once; what the engine gets are the client's own bytes with a few fields set anew at the end."""

import json
from collections.abc import Collection
from functools import cache
from typing import Any

import msgspec

from service.protocol import validation_errors
from service.protocol.requests import Body


def parse_body(kind: type[Body], body: bytes, extra_fields: Collection[str] = ()) -> Body:
    """The body as a `kind`; raises the 400 that says which field is wrong and how.

    `extra_fields` are names the fleet lets through to the engine unread.
    """
    try:
        if not body.isascii():
            body.decode()  # what is only passed on is not looked at closely
        if extra_fields and any(f'"{name}"'.encode() in body for name in extra_fields):
            fields = json.loads(body)
            if isinstance(fields, dict):
                unread = set(extra_fields) - set(kind.__struct_fields__)
                body = json.dumps({key: value for key, value in fields.items() if key not in unread}).encode()
        return _decoder(kind).decode(body)
    except (ValueError, RecursionError) as error:
        raise validation_errors.api_error(error, kind) from None


def with_fields(body: bytes, fields: dict[str, Any]) -> bytes:
    """The JSON object in `body` with `fields` set anew, the client's own bytes otherwise untouched.

    The fields are appended: every JSON reader in use here takes the last of two members with one name.
    """
    if not fields:
        return body
    return body.rstrip()[:-1] + b"," + json.dumps(fields).encode()[1:]


@cache
def _decoder(kind: type[Body]) -> msgspec.json.Decoder[Body]:
    return msgspec.json.Decoder(kind)
