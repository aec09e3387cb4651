"""The app of the server itself, beside the gateway's: BentoML's probes, and the start and stop of the process."""

from collections.abc import Awaitable, Callable

from service.gateway.authentication import PROBES
from service.server.asgi import Receive, Scope, Send

Hook = Callable[[], Awaitable[None]]


class Probes:
    """`/livez` and `/healthz` answer 200 as long as the process answers, `/readyz` only while `is_ready` says so.

    `start` is awaited before the server accepts requests, and `stop` after the last one.
    """

    def __init__(self, is_ready: Callable[[], bool], start: Hook, stop: Hook) -> None:
        self._is_ready, self._start, self._stop = is_ready, start, stop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            status, text = self._answer(scope["path"], scope["method"])
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(text))]
            headers += [(b"allow", b"GET, HEAD")] if status == 405 else []
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else text})

    def _answer(self, path: str, method: str) -> tuple[int, bytes]:
        if path not in PROBES:
            return 404, b"Not Found"
        if method not in ("GET", "HEAD"):
            return 405, b"Method Not Allowed"
        if path == "/readyz" and not self._is_ready():
            return 503, b"Service is not ready: it is draining, or no model is ready."
        return 200, b"\n"

    async def _live(self, receive: Receive, send: Send) -> None:
        """ASGI's lifespan protocol. Raises what a hook raises, which the server logs before it ends."""
        await receive()
        await self._start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stop()
        await send({"type": "lifespan.shutdown.complete"})
