"""The small vocabulary of ASGI that the gateway speaks: types, reading a body, sending a whole answer."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from service.errors import too_large

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")


class ClientGoneError(Exception):
    """The client closed its connection before it had its answer."""


async def read_body(receive: Receive, limit: int, patience: float) -> bytes:
    """The whole request body, at most `limit` bytes, each wait for more of it at most `patience` seconds."""
    parts: list[bytes] = []
    size = 0
    while True:
        try:
            async with asyncio.timeout(patience):
                message = await receive()
        except TimeoutError:
            text = f"The rest of the body did not come within {patience:g} s."
            raise too_large(text, "request_timeout", 408) from None
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise too_large(f"The body is larger than {limit} bytes.")
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def respond(send: Send, status: int, body: bytes, headers: Headers = (JSON,)) -> None:
    """Sends a whole answer."""
    lines = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


async def respond_json(send: Send, value: Any, headers: Headers = ()) -> None:
    """Sends `value` as JSON with status 200."""
    await respond(send, 200, json.dumps(value, ensure_ascii=False).encode(), (JSON, *headers))


class UntilGone:
    """A context that cancels what runs in it when the client leaves, and then raises ClientGoneError."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task
        self._task = task
        self._watch = asyncio.create_task(self._wait())

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._watch.cancel()
        if self._gone and kind is asyncio.CancelledError and self._task.uncancel() == 0:
            raise ClientGoneError from None

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()
