"""Tokens of users: which are accepted, why others are not, and whom they stand for."""

import base64
import hashlib
import hmac
import json
import time
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
NOW = int(time.time())
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


GOOD = token()
HEAD = {"alg": "RS256", "kid": "a"}


@each(
    "text",
    [
        GOOD,
        token(algorithm="PS256"),
        token(algorithm="ES256"),
        token(algorithm="EdDSA"),
        token(None, "ES256", key=private_key("a", "EC")),
        token(head={"typ": "at+jwt"}),
        token(head={"typ": "application/AT+JWT"}),
        token(aud=["account", "api://rh"]),
        token(groups="ml"),
        token(groups=["x", 3, "ml"]),
        token(exp=NOW - 30),
        token(nbf=NOW + 30, iat=NOW + 30),
        token(iat=1.5, jti="x", azp="y", cnf=None),
        made(HEAD, claims()),
    ],
    ids=lambda text: text[-12:],
)
def test_it_is_accepted(text: str) -> None:
    key = verify(text.encode(), KEYS, SIGN_ON)
    assert (key.id, key.tenant, key.models, key.proxy) == (ALICE, "acme", frozenset({"m"}), False)


@each(
    ("expected", "text"),
    [
        ("algorithm", made({"alg": "none"}, claims(), b"")),
        ("algorithm", made({"alg": "None", "kid": "a"}, claims())),
        ("algorithm", made({"kid": "a"}, claims())),
        ("algorithm", made({"alg": ["RS256"], "kid": "a"}, claims())),
        ("algorithm", signed_with_the_public_key()),
        ("algorithm", token(key=private_key("a"), head={"alg": "RS512"})),
        ("signature", token(key=private_key("b"))),
        ("signature", GOOD[:-8] + ("AAAAAAAA" if GOOD[-8:] != "AAAAAAAA" else "BBBBBBBB")),
        ("signature", GOOD.rpartition(".")[0] + "."),
        ("signature", f"{GOOD.split('.')[0]}.{part(claims(groups=['admin']))}.{GOOD.split('.')[2]}"),
        ("unknown_key", token("c")),
        ("unknown_key", token("b", "ES256")),
        ("unknown_key", token(None)),  # there are two such keys
        ("malformed", token(head={"crit": ["exp"], "exp": 1})),
        ("malformed", token(head={"crit": []})),
        ("malformed", made({**HEAD, "b64": False, "crit": ["b64"]}, claims())),
        ("malformed", made({**HEAD, "kid": 3}, claims())),
        ("malformed", token(head={"typ": "logout+jwt"})),
        ("malformed", token(head={"typ": "dpop+jwt"})),
        ("malformed", token(groups=["x" * MAX_BYTES])),
        ("malformed", made(HEAD, json.dumps(claims())[:-1] + ', "sub": "bob"}')),
        ("malformed", made('{"alg": "RS256", "kid": "a", "kid": "b"}', claims())),
        ("malformed", made(HEAD, '{"a": {"b": 1, "b": 2}, ' + json.dumps(claims())[1:])),
        ("malformed", made(HEAD, ["x"])),
        ("malformed", made(HEAD, "[" * 10_000)),
        ("malformed", "a.b.c"),
        ("issuer", token(iss="https://id.example/realms/other")),
        ("issuer", token(iss=NAME + "/")),
        ("issuer", made(HEAD, claims(iss=[NAME]))),
        ("issuer", token(iss=None)),
        ("audience", token(aud="other")),
        ("audience", token(aud=["roundhouse-2", "Roundhouse"])),
        ("audience", token(aud={AUDIENCE: 1})),
        ("claims", token(aud=None)),
        ("claims", token(aud=[])),
        ("expired", token(exp=NOW - 62)),
        ("expired", token(exp=0)),
        ("claims", token(exp=None)),
        ("malformed", token(exp="soon")),
        ("malformed", made(HEAD, json.dumps(claims(exp=0)).replace('"exp": 0', '"exp": Infinity'))),
        ("not_yet_valid", token(nbf=NOW + 3600)),
        ("not_yet_valid", token(iat=NOW + 3600)),
        ("claims", token(sub=None)),
        ("claims", token(sub="")),
        ("claims", token(sub=3)),
        ("claims", token(cnf={"jkt": "x"})),
    ],
    ids=lambda part: part[-20:],
)
def test_it_is_refused_for_a_reason(expected: str, text: str) -> None:
    assert reason(text) == expected


def test_a_user_without_a_group_that_has_a_tenant_may_do_nothing() -> None:
    for groups in (["other"], [], "ML", None, {"ml": 1}, ["ml "]):
        key = verify(token(groups=groups, exp=NOW + 9).encode(), KEYS, SIGN_ON)
        assert key == Key(ALICE, "", NOW + 9 + 60.0, endpoints=frozenset())


def test_a_user_is_known_by_a_pseudonym_of_issuer_and_subject() -> None:
    expected = hashlib.sha256(f"{NAME} alice".encode()).hexdigest()[:16]
    assert user_id(NAME, "alice") == f"user-{expected}" != user_id("https://other.example", "alice")
    assert verify(token(sub="\ud800").encode(), KEYS, SIGN_ON).id == user_id(NAME, "\ud800")


def test_keys_of_the_command_have_another_shape() -> None:
    assert is_token(GOOD.encode()) and is_token(b"a.b.")
    for secret in (b"rh_0123456789-abcdef_x", b"a.b", b"a.b.c.d", b"a.b=.c", b"a.b.c\n", b"", b"..", b"\xc3\xa4.b.c"):
        assert not is_token(secret)


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=80))
def test_whatever_is_sent_is_refused_and_nothing_else(head: bytes, payload: bytes, signature: bytes) -> None:
    text = b".".join(base64.urlsafe_b64encode(one).rstrip(b"=") for one in (head, payload, signature))
    with pytest.raises(TokenError):
        verify(text, KEYS, SIGN_ON)
    with pytest.raises(TokenError):
        verify(made(HEAD, claims(), signature).encode(), KEYS, SIGN_ON)
