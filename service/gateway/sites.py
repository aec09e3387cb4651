"""Which names a gateway is served under, and which web pages may use it.

Every page in a browser on this machine can send requests to a loopback address: directly, or under a name of its own
that it lets resolve to 127.0.0.1 (DNS rebinding), and then it can read the responses as well.
"""

from collections.abc import Awaitable
from functools import lru_cache

from service.config.loopback import is_loopback
from service.errors import ApiError, ErrorCode
from service.gateway.cors import ORIGIN_ALLOWED
from service.server.asgi import App, Receive, Scope, Send, headers_by_name

ANY = "*"
SAFE = ("GET", "HEAD", "OPTIONS")  # they change nothing, and the browser keeps their responses from other sites' pages


def allowed_hosts(listen: str, names: frozenset[str]) -> frozenset[str]:
    """The names that are allowed beside loopback ones; those that allow all where nothing is to be checked.

    `listen` is the address that the gateway listens on, `names` is what the operator allows.
    """
    return names if names or is_loopback(listen.lower()) else frozenset({ANY})


def check_site(
    method: str, headers: dict[bytes, bytes], allowed: frozenset[str], page_allowed: bool = False
) -> None:  # fmt: skip
    """Raises ApiError (403) unless `Host` and the page that sent the request, if any, have an allowed name.

    `page_allowed` says that the fleet file allows the page by its origin.
    """
    host = headers.get(b"host")
    if host is not None and not _is_allowed(host, allowed):
        text = f"The gateway is not served as '{_shown(host)}'. Use localhost, or allow it in ROUNDHOUSE_ALLOWED_HOSTS."
        raise ApiError(ErrorCode.HOST_NOT_ALLOWED, text)
    if method in SAFE or page_allowed:
        return
    origin = headers.get(b"origin")
    if origin is not None:
        if not _is_allowed(origin.partition(b"://")[2], allowed):
            text = f"Pages of '{_shown(origin)}' may not use this gateway. 'cors' in the fleet file can allow it."
            raise ApiError(ErrorCode.CROSS_SITE_REQUEST, text)
    elif headers.get(b"sec-fetch-site") == b"cross-site":
        raise ApiError(ErrorCode.CROSS_SITE_REQUEST, "Pages of other sites may not use this gateway.")


@lru_cache
def _is_allowed(authority: bytes, allowed: frozenset[str]) -> bool:
    name = host_name(authority.decode("latin-1"))
    return is_loopback(name) or name in allowed


def host_name(authority: str) -> str:
    """The host of `host:port`, in lower case and without the brackets of an IPv6 address."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0].lower()
    return authority.partition(":")[0].lower().rstrip(".")


def _shown(value: bytes) -> str:
    return value[:128].decode("latin-1")


class SiteMiddleware:
    """Refuses requests to names, and from web pages, that are not allowed; `allowed` is that of `allowed_hosts`."""

    def __init__(self, app: App, allowed: frozenset[str]) -> None:
        self._app, self._allowed = app, allowed

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        check_site(scope["method"], headers_by_name(scope), self._allowed, ORIGIN_ALLOWED in scope)
        return self._app(scope, receive, send)
