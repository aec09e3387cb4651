"""The headers by which a response says who answered, why, and what was ignored."""

import string
from urllib.parse import quote

from service.protocol.fields import header_value
from service.relay.call import Call
from service.upstreams.replica import Replica


def answer_headers(call: Call, replica: Replica | None) -> list[tuple[bytes, bytes]]:
    """The headers of the response to a request; the replica is None while none has been chosen."""
    headers = [(b"x-roundhouse-model", _in_ascii(call.target.name))]
    if replica:
        headers.append((b"x-roundhouse-replica", _in_ascii(replica.id)))
    headers.append((b"x-roundhouse-route-reason", _in_ascii(call.target.reason)))
    if call.ignored_fields:
        headers.append((b"x-roundhouse-ignored-fields", header_value(call.ignored_fields)))
    return headers


def _in_ascii(text: str) -> bytes:
    """A header's value: percent-encoded as in a path, where it is not ASCII."""
    return text.encode() if text.isascii() else quote(text, safe=string.punctuation + " ").encode()
