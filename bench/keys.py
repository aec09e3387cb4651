"""What API keys and tokens cost a request: `python -m bench.keys` compares none with 10,000 keys of 500 tenants."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from service.auth.jwks import SigningKeys, parse
from service.auth.keys import Key, Keys, caller_of, digest
from service.auth.sign_on import SignOn
from service.auth.tenants import Tenant
from service.auth.tokens import verify
from service.config.settings import Settings
from service.gateway.authentication import KeyMiddleware
from service.gateway.sign_on import SignedOnUsers
from service.observability.log import open_log
from service.observability.metrics import Metrics
from service.server.asgi import HEADERS_BY_NAME

Call = Callable[[], object]
KEYS, TENANTS = 10_000, 500
ROUNDS, REQUESTS, NEW_TOKENS = 9, 20_000, 200
ISSUER = "https://id.example/realms/acme"
SIGN_ON = SignOn.model_validate({"issuer": ISSUER, "audience": "roundhouse", "tenants": {"group-9": "t9"}})


def request(keys: Keys | None, secret: str, tenants: dict[str, Tenant], users: SignedOnUsers | None) -> Call:
    """What finds out whose request it is."""
    headers = {b"host": b"localhost", b"authorization": f"Bearer {secret}".encode()}
    scope: dict[str, Any] = {
        "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions", "headers": list(headers.items()),
        HEADERS_BY_NAME: headers,
    }  # fmt: skip
    nothing: Any = lambda *_: None  # the rest of the gateway  # noqa: E731
    middleware: Any = KeyMiddleware(nothing, keys, users)

    def find() -> None:
        middleware(scope, None, None)
        caller_of(scope["key"], None, tenants)

    return find


def microseconds(calls: Sequence[Call], count: int) -> list[float]:
    """The CPU time of each, the least of some rounds; they take turns, so that the machine is the same for all."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, taken in zip(calls, times, strict=True):
            started = time.process_time()
            for _ in range(count):
                call()
            taken.append((time.process_time() - started) / count)
    return [min(taken) * 1e6 for taken in times]


def token(private: Any, algorithm: str) -> str:
    """A token such as providers issue: ten groups, about a kilobyte."""
    claims = {
        "iss": ISSUER, "aud": ["account", "roundhouse"], "sub": "f:1d3c:alice", "exp": int(time.time()) + 3600,
        "iat": int(time.time()), "jti": "9b74c989-7bac-770f-fc02-9102a200c5de", "azp": "chat", "scope": "openid email",
        "name": "Alice Example", "email": "alice@example.com", "groups": [f"group-{number}" for number in range(10)],
    }  # fmt: skip
    return jwt.encode(claims, private, algorithm, headers={"kid": "a"})


def key_set(private: Any, algorithm: str) -> SigningKeys:
    """The public key, as its issuer publishes it."""
    row = jwt.PyJWS().get_algorithm_by_name(algorithm).to_jwk(private.public_key(), as_dict=True)
    return parse(json.dumps({"keys": [{**row, "key_ops": ["verify"], "kid": "a"}]}).encode())


def known_user(text: str, keys: SigningKeys) -> SignedOnUsers:
    """Users who sign on, of whom one has sent this token before."""
    users = SignedOnUsers(SIGN_ON, Metrics(), open_log(Settings()))
    users._verifier._issuer.keys = keys
    asyncio.run(users.key_of([text.encode()], None))  # type: ignore[arg-type]  # no refusal to record
    return users


def main() -> None:
    """Prints each, and the difference."""
    secrets = [f"rh_{number:043d}" for number in range(KEYS)]
    keys = {digest(one.encode()): Key(one, f"t{number % TENANTS}") for number, one in enumerate(secrets)}
    tenants = {f"t{number}": Tenant(f"t{number}") for number in range(TENANTS)}
    private = rsa.generate_private_key(65537, 2048)
    users = known_user(text := token(private, "RS256"), key_set(private, "RS256"))
    rows = {
        f"{KEYS:,}": request(keys, secrets[-1], tenants, None),
        f"{KEYS:,} where users sign on": request(keys, secrets[-1], tenants, users),
        f"a known token of {len(text)} bytes": request(keys, text, tenants, users),
    }
    without, *others = microseconds([request(None, secrets[0], tenants, None), *rows.values()], REQUESTS)
    for name, found in zip(rows, others, strict=True):
        print(f"without keys {without:.2f} µs, with {name} {found:.2f} µs: {found - without:.2f} µs a request")
    pairs = (
        ("RS256", private), ("PS256", private), ("ES256", ec.generate_private_key(ec.SECP256R1())),
        ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
    )  # fmt: skip
    calls = [partial(verify, token(key, name).encode(), key_set(key, name), SIGN_ON) for name, key in pairs]
    for (name, _), found in zip(pairs, microseconds(calls, NEW_TOKENS), strict=True):
        print(f"a new token, {name}: {found:.0f} µs, once")


if __name__ == "__main__":
    main()
