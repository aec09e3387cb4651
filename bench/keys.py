"""What API keys cost a request: `python -m bench.keys` compares none with 10,000 keys of 500 tenants."""

import time
from typing import Any

from service.auth.keys import Key, Keys, caller_of, digest
from service.auth.tenants import Tenant
from service.gateway.authentication import KeyMiddleware
from service.server.asgi import HEADERS_BY_NAME

KEYS, TENANTS = 10_000, 500
ROUNDS, REQUESTS = 9, 20_000


def microseconds(keys: Keys | None, secret: str, tenants: dict[str, Tenant]) -> float:
    """The time for finding out whose request it is: the least of some rounds."""
    headers = {b"host": b"localhost", b"authorization": f"Bearer {secret}".encode()}
    scope: dict[str, Any] = {
        "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions", "headers": list(headers.items()),
        HEADERS_BY_NAME: headers,
    }  # fmt: skip
    nothing: Any = lambda *_: None  # the rest of the gateway  # noqa: E731
    middleware: Any = KeyMiddleware(nothing, keys)
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(REQUESTS):
            middleware(scope, None, None)
            caller_of(scope["key"], None, tenants)
        times.append((time.process_time() - started) / REQUESTS)
    return min(times) * 1e6


def main() -> None:
    """Prints both, and the difference."""
    secrets = [f"rh_{number:043d}" for number in range(KEYS)]
    keys = {digest(one.encode()): Key(one, f"t{number % TENANTS}") for number, one in enumerate(secrets)}
    tenants = {f"t{number}": Tenant(f"t{number}") for number in range(TENANTS)}
    without, with_keys = microseconds(None, secrets[0], tenants), microseconds(keys, secrets[-1], tenants)
    print(f"without keys {without:.2f} µs, with {KEYS:,} {with_keys:.2f} µs: {with_keys - without:.2f} µs a request")


if __name__ == "__main__":
    main()
