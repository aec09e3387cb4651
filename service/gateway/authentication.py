"""Asks every request for an API key before anything else is done or said; probes alone need none."""

import time
from collections.abc import Awaitable, Callable

from service.auth.keys import ANYONE, EndpointGroup, Keys, authenticate, check_scope
from service.server.asgi import App, Receive, Scope, Send, headers_by_name

# Load balancers and kubelets ask these, and can send no key. The answer is whether the gateway is ready, and no more.
PROBES = ("/livez", "/readyz", "/healthz")  # BentoML's
OPEN_PATHS = frozenset(path.encode() for path in (*PROBES, "/health", "/ping"))


def group_of(path: str) -> EndpointGroup:
    """The group of endpoints that a path belongs to. What is not listed belongs to the most valuable one."""
    if path == "/metrics" or path.startswith("/metrics/"):
        return "metrics"
    return "models" if path in ("/", "/version", "/v1/models") or path.startswith("/v1/models/") else "inference"


class KeyMiddleware:
    """Sets `scope["key"]` to the caller's key, or raises ApiError: 401 without a valid one, 403 outside its scope.

    It looks at headers and at the path as it was sent, so that no other spelling of a probe's path passes for one.
    `keys` is None where none is asked for, and may be replaced. `clock` is in Unix seconds.
    """

    def __init__(self, app: App, keys: Keys | None, clock: Callable[[], float] = time.time) -> None:
        self._app, self.keys, self._clock = app, keys, clock

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if self.keys is None or scope["raw_path"] in OPEN_PATHS:
            scope["key"] = ANYONE
        else:
            scope["key"] = key = authenticate(self.keys, headers_by_name(scope), self._clock())
            check_scope(key, group_of(scope["path"]))
        return self._app(scope, receive, send)
