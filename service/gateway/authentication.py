"""Asks every request for an API key or a token before anything else is done or said; probes alone need none."""

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from service.auth.keys import ANYONE, EndpointGroup, Key, Keys, authenticate, check_scope, presented
from service.errors import ApiError
from service.gateway.console import page
from service.gateway.console.page import CLIENT_SETTINGS, LOAD, STATE, asks_for_page
from service.server.asgi import App, Receive, Scope, Send, headers_by_name

if TYPE_CHECKING:
    from service.gateway.sign_on import SignedOnUsers

# Load balancers and kubelets ask these, and can send no key. The answer is whether the gateway is ready, and no more.
PROBES = ("/livez", "/readyz", "/healthz")  # BentoML's
OPEN_PATHS = frozenset(path.encode() for path in (*PROBES, "/health", "/ping"))
ABOUT_MODELS = ("/", "/version", "/v1/models", "/openapi.json", STATE, CLIENT_SETTINGS)


def group_of(path: str) -> EndpointGroup:
    """The group of endpoints that a path belongs to. What is not listed belongs to the most valuable one."""
    if path == "/metrics" or path.startswith("/metrics/") or path == LOAD:
        return "metrics"
    return "models" if path in ABOUT_MODELS or path.startswith("/v1/models/") else "inference"


class KeyMiddleware:
    """Sets `scope["key"]` to the caller's key, or raises ApiError: 401 without a valid one, 403 outside its scope.

    It looks at headers and at the path as it was sent, so that no other spelling of a probe's path passes for one.
    `keys` is None where none is asked for, and may be replaced. `users` tells whom tokens stand for, where users sign
    on. Where there is a `console`, its page is open, which has no data. `clock` is in Unix seconds.
    """

    def __init__(
        self, app: App, keys: Keys | None, users: "SignedOnUsers | None" = None,
        clock: Callable[[], float] = time.time, console: bool = True,
    ) -> None:  # fmt: skip
        self._app, self.keys, self._users, self._clock, self._console = app, keys, users, clock, console
        self._open = OPEN_PATHS | page.OPEN_PATHS if console else OPEN_PATHS
        self._known = None if users is None else users.known

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if self.keys is None or scope["raw_path"] in self._open:
            scope["key"] = ANYONE
            return self._app(scope, receive, send)
        headers = headers_by_name(scope)
        try:
            key = authenticate(self.keys, headers, self._clock(), self._known)
        except ApiError:
            if self._console and asks_for_page(scope):
                scope["key"] = ANYONE
                return self._app(scope, receive, send)
            if self._users is None:
                raise
            return self._verify(self._users, headers, scope, receive, send)
        return self._go_on(key, scope, receive, send)

    async def _verify(
        self, users: "SignedOnUsers", headers: dict[bytes, bytes], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Goes on with a token that is not known yet."""
        key = await users.key_of(presented(headers), scope["record"])
        await self._go_on(key, scope, receive, send)

    def _go_on(self, key: Key, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope["key"] = key
        check_scope(key, group_of(scope["path"]))
        return self._app(scope, receive, send)
