"""The small vocabulary of ASGI that the gateway speaks: types, reading a body, sending a whole answer."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from service.errors import too_large

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

# ASGI's names for what a server can do beside it, as functions. Our own sends a piece of a stream at once, and returns
# whether there is room for more; and it gives the whole body of a request, or None where that is not here yet.
PUSH, BODY = "roundhouse.push", "roundhouse.body"
Push = Callable[[bytes], bool]

JSON = (b"content-type", b"application/json")
LISTEN_AFTER = 0.05  # seconds in which it is not noticed that a client leaves


class ClientGoneError(Exception):
    """The client closed its connection before it had its answer."""


async def read_body(scope: Scope, receive: Receive, limit: int, patience: float) -> bytes:
    """The whole request body, at most `limit` bytes, each wait for more of it at most `patience` seconds."""
    take = scope.get("extensions", {}).get(BODY)
    body: bytes | None = take() if take else None
    if body is None:
        body = b"".join([part async for part in _parts(receive, limit, patience)])
    if len(body) > limit:
        raise too_large(f"The body is larger than {limit} bytes.")
    return body


async def _parts(receive: Receive, limit: int, patience: float) -> AsyncIterator[bytes]:
    """The body as it comes; no more of it is asked for once it is longer than `limit`."""
    size, more = 0, True
    while more and size <= limit:
        try:
            async with asyncio.timeout(patience):
                message = await receive()
        except TimeoutError:
            text = f"The rest of the body did not come within {patience:g} s."
            raise too_large(text, "request_timeout", 408) from None
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        yield part


async def respond(send: Send, status: int, body: bytes, headers: Headers = (JSON,)) -> None:
    """Sends a whole answer."""
    lines = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


async def respond_json(send: Send, value: Any, headers: Headers = ()) -> None:
    """Sends `value` as JSON with status 200."""
    await respond(send, 200, json.dumps(value, ensure_ascii=False).encode(), (JSON, *headers))


class UntilGone:
    """A context that cancels what runs in it when the client leaves, and then raises ClientGoneError.

    `task` is what runs in it.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "UntilGone":
        task = asyncio.current_task()
        assert task
        self.task = task
        # To listen takes a task, which costs more than most of what a short answer needs; those do without.
        self._timer = asyncio.get_running_loop().call_later(LISTEN_AFTER, self._listen)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        if self._listening:
            self._listening.cancel()
        if self._gone and kind is asyncio.CancelledError and self.task.uncancel() == 0:
            raise ClientGoneError from None

    def leave(self) -> None:
        """Ends it as if the client had left."""
        self._gone = True
        self.task.cancel()

    def _listen(self) -> None:
        self._listening = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.leave()
