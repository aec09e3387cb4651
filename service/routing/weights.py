"""Which of the models under one alias a request goes to: by their weights, and always the same for one key. Pure."""

from collections.abc import Mapping
from hashlib import blake2b

SCALE = 2**64


def choose(weights: Mapping[str, int], key: int, alias: str) -> str:
    """The model for the requests with this key: of all keys it gets its part of the weights, which must not all be 0.

    A key stays where it is while the part of the models before it does not change, and of two models the one whose part
    grows keeps what it has. Keys are spread anew for each alias.
    """
    digest = blake2b(b"%d %b" % (key, alias.encode()), digest_size=8).digest()
    point = int.from_bytes(digest) * sum(weights.values()) // SCALE
    below = 0
    for id, weight in weights.items():
        below += weight
        if point < below:
            return id
    raise ValueError("no model has a weight")
