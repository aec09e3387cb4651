"""The signing keys of an issuer, read from a JSON Web Key Set (RFC 7517). Pure."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import jwt

ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")  # never `none`, and none with a secret that both sides would share
BY_TYPE = {"RSA": ("RS256", "PS256"), "EC": ("ES256",), "OKP": ("EdDSA",)}
CURVES = {"RSA": None, "EC": "P-256", "OKP": "Ed25519"}
PRIVATE = "d"  # the member that only a private key has

# By key id and algorithm. Without an id stands the one key that there is for an algorithm, if there is just one.
SigningKeys = Mapping[tuple[str | None, str], Any]


def parse(body: bytes) -> SigningKeys:
    """The keys of a set that can check signatures; those of other kinds, too short or not understood are left out.

    Raises ValueError where it is no set, or has no such key.
    """
    try:
        rows = json.loads(body)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        rows = None
    if not isinstance(rows, list):
        raise ValueError("it is no JSON Web Key Set")
    found: dict[tuple[str | None, str], Any] = {}
    alone: dict[str, list[Any]] = {name: [] for name in ALGORITHMS}
    for row in rows:
        for algorithm, key in _usable(row):
            alone[algorithm].append(key)
            if isinstance(kid := row.get("kid"), str):
                found.setdefault((kid, algorithm), key)
    found.update({(None, name): keys[0] for name, keys in alone.items() if len(keys) == 1})
    if not found:
        raise ValueError(f"it has no key that can be used: of an id of its own, for one of {', '.join(ALGORITHMS)}")
    return found


def _usable(row: Any) -> Iterator[tuple[str, Any]]:
    """The algorithms for which a member of the set is a key, each with that key."""
    if not isinstance(row, dict) or row.get("use", "sig") != "sig" or PRIVATE in row:
        return
    if not isinstance(operations := row.get("key_ops", ["verify"]), list) or "verify" not in operations:
        return
    kind = row.get("kty")
    if not isinstance(kind, str) or kind not in BY_TYPE or row.get("crv") != CURVES[kind]:
        return
    algorithms = [name for name in BY_TYPE[kind] if row.get("alg", name) == name]
    try:
        made = [jwt.PyJWK(row, name) for name in algorithms[:1]]
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, OverflowError):
        return
    for one in made:
        if one.Algorithm.check_key_length(one.key) is None:
            yield from ((name, one.key) for name in algorithms)
