"""What API keys and tokens cost a request: `python -m bench.keys` compares none with 10,000 keys of 500 tenants."""

import asyncio
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from service.auth.jwks import parse
from service.auth.keys import Key, Keys, caller_of, digest
from service.auth.sign_on import SignOn
from service.auth.tenants import Tenant
from service.auth.tokens import verify
from service.gateway.authentication import KeyMiddleware
from service.gateway.sign_on import SignedOnUsers
from service.observability.metrics import Metrics
from service.server.asgi import HEADERS_BY_NAME

KEYS, TENANTS = 10_000, 500
ROUNDS, REQUESTS, NEW_TOKENS = 9, 20_000, 1000
ISSUER = "https://id.example/realms/acme"
SIGN_ON = SignOn.model_validate({"issuer": ISSUER, "audience": "roundhouse", "tenants": {"group-9": "t9"}})


def microseconds(keys: Keys | None, secret: str, tenants: dict[str, Tenant], users: SignedOnUsers | None) -> float:
    """The time for finding out whose request it is: the least of some rounds."""
    headers = {b"host": b"localhost", b"authorization": f"Bearer {secret}".encode()}
    scope: dict[str, Any] = {
        "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions", "headers": list(headers.items()),
        HEADERS_BY_NAME: headers,
    }  # fmt: skip
    nothing: Any = lambda *_: None  # the rest of the gateway  # noqa: E731
    middleware: Any = KeyMiddleware(nothing, keys, users)
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(REQUESTS):
            middleware(scope, None, None)
            caller_of(scope["key"], None, tenants)
        times.append((time.process_time() - started) / REQUESTS)
    return min(times) * 1e6


def token(private: Any, algorithm: str) -> str:
    """A token such as providers issue: ten groups, about a kilobyte."""
    claims = {
        "iss": ISSUER, "aud": ["account", "roundhouse"], "sub": "f:1d3c:alice", "exp": int(time.time()) + 3600,
        "iat": int(time.time()), "jti": "9b74c989-7bac-770f-fc02-9102a200c5de", "azp": "chat", "scope": "openid email",
        "name": "Alice Example", "email": "alice@example.com", "groups": [f"group-{number}" for number in range(10)],
    }  # fmt: skip
    return jwt.encode(claims, private, algorithm, headers={"kid": "a"})


def new_token(private: Any, algorithm: str) -> tuple[float, str]:
    """The microseconds that a token takes which was not seen before, the least of some rounds; and the token."""
    row = jwt.PyJWS().get_algorithm_by_name(algorithm).to_jwk(private.public_key(), as_dict=True)
    keys = parse(json.dumps({"keys": [{**row, "key_ops": ["verify"], "kid": "a"}]}).encode())
    text, times = token(private, algorithm), []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(NEW_TOKENS):
            verify(text.encode(), keys, SIGN_ON)
        times.append((time.process_time() - started) / NEW_TOKENS)
    return min(times) * 1e6, text


def known_user(text: str, keys: Any) -> SignedOnUsers:
    """Users who sign on, of whom one has sent this token before."""
    users = SignedOnUsers(SIGN_ON, Metrics(), print)
    users._verifier._issuer.keys = keys
    asyncio.run(users.key_of([text.encode()], None))  # type: ignore[arg-type]  # no refusal to record
    return users


def main() -> None:
    """Prints each, and the difference."""
    secrets = [f"rh_{number:043d}" for number in range(KEYS)]
    keys = {digest(one.encode()): Key(one, f"t{number % TENANTS}") for number, one in enumerate(secrets)}
    tenants = {f"t{number}": Tenant(f"t{number}") for number in range(TENANTS)}
    private = rsa.generate_private_key(65537, 2048)
    _, text = new_token(private, "RS256")
    row = jwt.algorithms.RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    users = known_user(text, parse(json.dumps({"keys": [{**row, "kid": "a"}]}).encode()))
    without = microseconds(None, secrets[0], tenants, None)
    for name, secret, asked in (
        (f"{KEYS:,} keys", secrets[-1], None),
        (f"{KEYS:,} keys, and users sign on", secrets[-1], users),
        (f"a known token of {len(text)} bytes", text, users),
    ):
        found = microseconds(keys, secret, tenants, asked)
        print(f"without keys {without:.2f} µs, with {name} {found:.2f} µs: {found - without:.2f} µs a request")
    for kind, key in (
        ("RS256", private),
        ("PS256", private),
        ("ES256", ec.generate_private_key(ec.SECP256R1())),
        ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
    ):
        print(f"a new token, {kind}: {new_token(key, kind)[0]:.0f} µs, once")


if __name__ == "__main__":
    main()
