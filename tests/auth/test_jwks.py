"""Key sets: which of their members may verify tokens, and for which algorithms."""

import json
from typing import Any

import jwt
import pytest

from service.auth.jwks import parse
from tests.support.each import each
from tests.support.issuers import jwk, key_set, private_key

A = jwk("a")
PRIVATE = jwt.PyJWS().get_algorithm_by_name("ES256").to_jwk(private_key("a", "EC"), as_dict=True)


@each(
    ("row", "algorithms"),
    [
        (A, ["PS256", "RS256"]),
        (jwk("a", alg="RS256"), ["RS256"]),
        (jwk("a", alg="PS256", use=None), ["PS256"]),
        (jwk("a", key_ops=["verify"]), ["PS256", "RS256"]),
        (jwk("a", "EC"), ["ES256"]),
        (jwk("a", "OKP"), ["EdDSA"]),
        (jwk("a", use="enc"), []),
        (jwk("a", key_ops=["encrypt"]), []),
        (jwk("a", alg="RS512"), []),
        (jwk("a", alg="HS256"), []),
        (jwk("a", size=1024), []),
        (jwk("a", "EC", crv="P-384"), []),
        (jwk("a", "EC", x="!!"), []),
        (jwk("a", n=None), []),
        ({**PRIVATE, "key_ops": ["verify"], "kid": "a"}, []),
        ({"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0", "kid": "a"}, []),
        ({"kty": ["RSA"], "kid": "a"}, []),
        ("a", []),
    ],
    ids=lambda part: json.dumps(part)[:60],
)
def test_a_key_is_for_its_algorithms_alone(row: Any, algorithms: list[str]) -> None:
    found = parse(key_set(row, jwk("other"), jwk("another")))
    assert sorted(algorithm for kid, algorithm in found if kid == "a") == algorithms


def test_a_token_without_an_id_means_the_one_key_there_is() -> None:
    assert (None, "RS256") in parse(key_set(A)) and (None, "RS256") in parse(key_set(jwk(None)))
    two = parse(key_set(A, jwk("b"), jwk("c", "EC")))
    assert (None, "RS256") not in two and (None, "ES256") in two


def test_a_thousand_keys_are_all_found() -> None:
    found = parse(key_set(*({**A, "kid": str(number)} for number in range(1000))))
    assert all((str(number), "RS256") in found for number in range(1000)) and len(found) == 2000


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "no JSON Web Key Set"),
        (b"<html>", "no JSON Web Key Set"),
        (b"[]", "no JSON Web Key Set"),
        (b'{"keys": {}}', "no JSON Web Key Set"),
        (b'{"keys": ' + b"[" * 100_000, "no JSON Web Key Set"),
        (b'{"keys": []}', "no key that can be used"),
        (key_set(jwk("a", use="enc")), "no key that can be used"),
    ],
    ids=range(7),
)
def test_what_is_no_set_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(body)
