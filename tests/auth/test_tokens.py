"""Tokens of users: which are accepted, why others are not, and whom they stand for."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from service.auth.jwks import parse
from service.auth.keys import Key
from service.auth.sign_on import SignOn, is_token
from service.auth.tokens import MAX_BYTES, TokenError, user_id, verify
from tests.support.each import each
from tests.support.issuers import AUDIENCE, NAME, claims, jwk, key_set, private_key, token

KEYS = parse(key_set(jwk("a"), jwk("b"), jwk("a", "EC"), jwk("a", "OKP")))
SIGN_ON = SignOn.model_validate(
    {"issuer": NAME, "audience": [AUDIENCE, "api://rh"], "tenants": {"ml": {"tenant": "acme", "models": ["m"]}}}
)
ALICE = user_id(NAME, "alice")
PEM = private_key("a").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def part(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def made(header: Any, payload: Any, signature: bytes | None = None) -> str:
    """A token of these parts, rightly signed with the key `a` if no `signature` is given."""
    signed = f"{part(header)}.{part(payload)}"
    if signature is None:
        return signed + "." + token_signature(signed)
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def token_signature(signed: str) -> str:
    raw = private_key("a").sign(signed.encode(), PKCS1v15(), SHA256())
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed_with_the_public_key() -> str:
    """A token whose HMAC has the text of the public key as its secret."""
    signed = f"{part({'alg': 'HS256', 'kid': 'a'})}.{part(claims())}"
    return made({"alg": "HS256", "kid": "a"}, claims(), hmac.new(PEM, signed.encode(), hashlib.sha256).digest())


def reason(text: str) -> str:
    assert is_token(text.encode())
    with pytest.raises(TokenError) as caught:
        verify(text.encode(), KEYS, SIGN_ON)
    assert caught.value.__cause__ is None
    return caught.value.reason


def now() -> int:
    """When the test runs, which is long after its module was read."""
    return int(time.time())


def changed(text: str) -> str:
    """The token with another end of its signature."""
    return text[:-8] + ("AAAAAAAA" if text[-8:] != "AAAAAAAA" else "BBBBBBBB")


def with_payload(text: str, payload: Any) -> str:
    head, _, signature = text.split(".")
    return f"{head}.{part(payload)}.{signature}"


HEAD = {"alg": "RS256", "kid": "a"}


@each(
    "make",
    [
        token,
        lambda: token(algorithm="PS256"),
        lambda: token(algorithm="ES256"),
        lambda: token(algorithm="EdDSA"),
        lambda: token(None, "ES256", key=private_key("a", "EC")),
        lambda: token(head={"typ": "at+jwt"}),
        lambda: token(head={"typ": "application/AT+JWT"}),
        lambda: token(aud=["account", "api://rh"]),
        lambda: token(groups="ml"),
        lambda: token(groups=["x", 3, "ml"]),
        lambda: token(exp=now() - 30),
        lambda: token(nbf=now() + 30, iat=now() + 30),
        lambda: token(iat=1.5, jti="x", azp="y", cnf=None),
        lambda: made(HEAD, claims()),
    ],
    ids=lambda make: f"line {make.__code__.co_firstlineno}",
)
def test_it_is_accepted(make: Callable[[], str]) -> None:
    key = verify(make().encode(), KEYS, SIGN_ON)
    assert (key.id, key.tenant, key.models, key.proxy) == (ALICE, "acme", frozenset({"m"}), False)


@each(
    ("expected", "make"),
    [
        ("algorithm", lambda: made({"alg": "none"}, claims(), b"")),
        ("algorithm", lambda: made({"alg": "None", "kid": "a"}, claims())),
        ("algorithm", lambda: made({"kid": "a"}, claims())),
        ("algorithm", lambda: made({"alg": ["RS256"], "kid": "a"}, claims())),
        ("algorithm", lambda: signed_with_the_public_key()),
        ("algorithm", lambda: token(key=private_key("a"), head={"alg": "RS512"})),
        ("signature", lambda: token(key=private_key("b"))),
        ("signature", lambda: changed(token())),
        ("signature", lambda: token().rpartition(".")[0] + "."),
        ("signature", lambda: with_payload(token(), claims(groups=["admin"]))),
        ("unknown_key", lambda: token("c")),
        ("unknown_key", lambda: token("b", "ES256")),
        ("unknown_key", lambda: token(None)),  # there are two such keys
        ("malformed", lambda: token(head={"crit": ["exp"], "exp": 1})),
        ("malformed", lambda: token(head={"crit": []})),
        ("malformed", lambda: made({**HEAD, "b64": False, "crit": ["b64"]}, claims())),
        ("malformed", lambda: made({**HEAD, "kid": 3}, claims())),
        ("malformed", lambda: token(head={"typ": "logout+jwt"})),
        ("malformed", lambda: token(head={"typ": "dpop+jwt"})),
        ("malformed", lambda: token(groups=["x" * MAX_BYTES])),
        ("malformed", lambda: made(HEAD, json.dumps(claims())[:-1] + ', "sub": "bob"}')),
        ("malformed", lambda: made('{"alg": "RS256", "kid": "a", "kid": "b"}', claims())),
        ("malformed", lambda: made(HEAD, '{"a": {"b": 1, "b": 2}, ' + json.dumps(claims())[1:])),
        ("malformed", lambda: made(HEAD, ["x"])),
        ("malformed", lambda: made(HEAD, "[" * 10_000)),
        ("malformed", lambda: "a.b.c"),
        ("issuer", lambda: token(iss="https://id.example/realms/other")),
        ("issuer", lambda: token(iss=NAME + "/")),
        ("issuer", lambda: made(HEAD, claims(iss=[NAME]))),
        ("issuer", lambda: token(iss=None)),
        ("audience", lambda: token(aud="other")),
        ("audience", lambda: token(aud=["roundhouse-2", "Roundhouse"])),
        ("audience", lambda: token(aud={AUDIENCE: 1})),
        ("claims", lambda: token(aud=None)),
        ("claims", lambda: token(aud=[])),
        ("expired", lambda: token(exp=now() - 62)),
        ("expired", lambda: token(exp=0)),
        ("claims", lambda: token(exp=None)),
        ("malformed", lambda: token(exp="soon")),
        ("malformed", lambda: made(HEAD, json.dumps(claims(exp=0)).replace('"exp": 0', '"exp": Infinity'))),
        ("not_yet_valid", lambda: token(nbf=now() + 3600)),
        ("not_yet_valid", lambda: token(iat=now() + 3600)),
        ("claims", lambda: token(sub=None)),
        ("claims", lambda: token(sub="")),
        ("claims", lambda: token(sub=3)),
        ("claims", lambda: token(cnf={"jkt": "x"})),
    ],
    ids=lambda part: part if isinstance(part, str) else f"line {part.__code__.co_firstlineno}",
)
def test_it_is_refused_for_a_reason(expected: str, make: Callable[[], str]) -> None:
    assert reason(make()) == expected


def test_a_user_without_a_group_that_has_a_tenant_may_do_nothing() -> None:
    for groups in (["other"], [], "ML", None, {"ml": 1}, ["ml "]):
        ends = now() + 9
        key = verify(token(groups=groups, exp=ends).encode(), KEYS, SIGN_ON)
        assert key == Key(ALICE, "", ends + 60.0, endpoints=frozenset())


def test_a_user_is_known_by_a_pseudonym_of_issuer_and_subject() -> None:
    expected = hashlib.sha256(f"{NAME} alice".encode()).hexdigest()[:16]
    assert user_id(NAME, "alice") == f"user-{expected}" != user_id("https://other.example", "alice")
    assert verify(token(sub="\ud800").encode(), KEYS, SIGN_ON).id == user_id(NAME, "\ud800")


def test_keys_of_the_command_have_another_shape() -> None:
    assert is_token(token().encode()) and is_token(b"a.b.")
    for secret in (b"rh_0123456789-abcdef_x", b"a.b", b"a.b.c.d", b"a.b=.c", b"a.b.c\n", b"", b"..", b"\xc3\xa4.b.c"):
        assert not is_token(secret)


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=80))
def test_whatever_is_sent_is_refused_and_nothing_else(head: bytes, payload: bytes, signature: bytes) -> None:
    text = b".".join(base64.urlsafe_b64encode(one).rstrip(b"=") for one in (head, payload, signature))
    with pytest.raises(TokenError):
        verify(text, KEYS, SIGN_ON)
    with pytest.raises(TokenError):
        verify(made(HEAD, claims(), signature).encode(), KEYS, SIGN_ON)
