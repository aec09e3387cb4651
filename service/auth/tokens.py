"""Whether a token of an identity provider (a JWT, RFC 7519) is valid, and whose it is. Pure, but for the clock."""

import json
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Literal

import jwt

from service.auth.jwks import ALGORITHMS, SigningKeys
from service.auth.keys import Key
from service.auth.sign_on import SignOn

MAX_BYTES = 2**14
# Issuers sign other things as well, some for the same audience, such as the notice that a user has signed off.
TYPES = ("jwt", "at+jwt", "application/at+jwt")
REQUIRED = ["iss", "sub", "aud", "exp"]
CONFIRMATION = "cnf"  # binds a token to a key that its bearer has to show as well, which nobody here asks for

Reason = Literal[
    "malformed", "algorithm", "unknown_key", "signature", "issuer", "audience", "expired", "not_yet_valid", "claims",
    "unavailable",
]  # fmt: skip
REASONS: tuple[tuple[type[Exception], Reason], ...] = (
    (jwt.InvalidSignatureError, "signature"),
    (jwt.ExpiredSignatureError, "expired"),
    (jwt.ImmatureSignatureError, "not_yet_valid"),
    (jwt.InvalidAudienceError, "audience"),
    (jwt.InvalidIssuerError, "issuer"),
    (jwt.DecodeError, "malformed"),
    (Exception, "claims"),
)


class TokenError(Exception):
    """A token that is not accepted. `reason` is for who runs the service: its bearer is told nothing of it."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


def verify(token: bytes, keys: SigningKeys, sign_on: SignOn) -> Key:
    """Whom the token stands for, until it expires; raises TokenError where it is not valid.

    A user whose groups have no tenant gets a key for no endpoint. The reason `unknown_key` says that the token may be
    valid by another set of keys; whatever is wrong without looking at a key is found before.
    """
    if len(token) > MAX_BYTES:
        raise TokenError("malformed")
    header, unverified = map(_decoded, token.split(b".")[:2])
    algorithm, kid = header.get("alg"), header.get("kid")
    if algorithm not in ALGORITHMS:
        raise TokenError("algorithm")
    if "crit" in header or not _is_type(header.get("typ", "JWT")) or not (kid is None or isinstance(kid, str)):
        raise TokenError("malformed")
    if unverified.get("iss") != sign_on.issuer:
        raise TokenError("issuer")
    if (key := keys.get((kid, algorithm))) is None:
        raise TokenError("unknown_key")
    try:
        claims = jwt.decode(
            token, key, [algorithm], {"require": REQUIRED}, audience=sign_on.audience, issuer=sign_on.issuer,
            leeway=sign_on.clock_skew,
        )  # fmt: skip
    except jwt.PyJWTError as error:
        raise TokenError(next(reason for kind, reason in REASONS if isinstance(error, kind))) from None
    if CONFIRMATION in claims or not claims["sub"]:
        raise TokenError("claims")
    return _key(claims, sign_on)


def _key(claims: Mapping[str, Any], sign_on: SignOn) -> Key:
    name, expires = user_id(sign_on.issuer, claims["sub"]), int(claims["exp"]) + sign_on.clock_skew
    access = sign_on.access(claims)
    if access is None:
        return Key(name, "", expires, endpoints=frozenset())
    models = None if access.models is None else frozenset(access.models)
    return Key(name, access.tenant, expires, models, frozenset(access.endpoints))


def user_id(issuer: str, subject: str) -> str:
    """By what a user is known here: a pseudonym, for a subject is often a name or an address of mail."""
    return "user-" + sha256(f"{issuer} {subject}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _is_type(value: object) -> bool:
    return isinstance(value, str) and value.lower() in TYPES


def _decoded(part: bytes) -> dict[str, Any]:
    """A part of a token; raises TokenError, also for a name that stands twice: readers differ in which one counts."""
    try:
        found = json.loads(urlsafe_b64decode(part + b"=" * (-len(part) % 4)), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise TokenError("malformed") from None
    if not isinstance(found, dict):
        raise TokenError("malformed")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found
