"""Tells browsers which pages of other sites may use the gateway (CORS, in the Fetch standard).

No answer allows credentials, so that `*` means every name of a header, and no page acts with what a browser keeps.
"""

from collections.abc import Awaitable

from service.fleet.cors import ANY, Cors
from service.server.asgi import App, Headers, Message, Receive, Scope, Send, extension_of, headers_by_name, respond

ORIGIN_ALLOWED = "origin_allowed"  # the key in the scope of a request that an allowed page has sent
VARY = (b"vary", b"Origin")  # what is cached for one page must not be served to another
EXPOSED = (b"access-control-expose-headers", b"*")
# The same for every path, whether it exists or not. `*` does not stand for Authorization.
PREFLIGHT = (
    (b"access-control-allow-methods", b"GET, HEAD, POST, DELETE"),
    (b"access-control-allow-headers", b"Authorization, *"),
    (b"access-control-max-age", b"600"),
)
REQUESTED_METHOD = b"access-control-request-method"


class CorsMiddleware:
    """Adds the headers of CORS to every response, errors included, and answers preflights of allowed pages itself.

    `policy` says which pages are allowed, and may be replaced. Those of other pages go on like any request.
    """

    def __init__(self, app: App, policy: Cors) -> None:
        self._app, self.policy = app, policy

    @property
    def policy(self) -> Cors:
        """Which pages are allowed."""
        return self._policy

    @policy.setter
    def policy(self, policy: Cors) -> None:
        self._policy, self._origins = policy, frozenset(origin.encode() for origin in policy.origins)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if not self._origins:
            return self._app(scope, receive, send)
        request = headers_by_name(scope)
        headers = cors_headers(self._origins, request.get(b"origin"))
        send = _adding(headers, scope, send)
        if EXPOSED in headers and b"origin" in request:
            scope[ORIGIN_ALLOWED] = True
            if scope["method"] == "OPTIONS" and REQUESTED_METHOD in request:
                return respond(send, 200, b"", PREFLIGHT)
        return self._app(scope, receive, send)


def cors_headers(origins: frozenset[bytes], origin: bytes | None) -> Headers:
    """The headers of a response to a page of this origin, None where it is no page; EXPOSED is among them if it is one
    of the allowed `origins`."""
    if ANY.encode() in origins:
        return ((b"access-control-allow-origin", b"*"), EXPOSED)
    if origin is None or origin not in origins:
        return (VARY,)
    return ((b"access-control-allow-origin", origin), EXPOSED, VARY)


def _adding(headers: Headers, scope: Scope, send: Send) -> Send:
    """A `send` that adds the headers; where the server is ours, its extension is told of them instead."""
    extension = extension_of(scope)
    if extension:
        others = extension.extra_headers
        extension.extra_headers = lambda status: (*(others(status) if others else ()), *headers)
        return send

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"].extend(headers)
        await send(message)

    return sending
