"""The small vocabulary of ASGI that the gateway speaks: types, reading a body, sending a whole answer."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Protocol

from service.errors import ApiError, ErrorCode

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

# ASGI's name for what a server can do beside it: an object that is a ServerExtension.
EXTENSION = "roundhouse"


class ServerExtension(Protocol):
    """What our server offers a request beside ASGI. `extra_headers` gives further response headers for a status."""

    extra_headers: Callable[[int], Headers] | None

    def buffered_body(self) -> bytes | None:
        """The body, once, if all of it is here."""

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends a whole answer, beside whose headers there is its length."""

    def write_now(self, piece: bytes) -> bool:
        """Sends a piece of a stream at once; returns whether there is room for more."""

    def on_disconnect(self, leave: Callable[[], None] | None) -> None:
        """Has `leave` called when the client leaves; None for nothing any more."""


JSON = (b"content-type", b"application/json")


class ClientDisconnectedError(Exception):
    """The client closed its connection before it had its answer."""


def extension_of(scope: Scope) -> ServerExtension | None:
    """What the server can do beside ASGI, if it is ours."""
    found: ServerExtension | None = scope.get("extensions", {}).get(EXTENSION)
    return found


async def read_body(scope: Scope, receive: Receive, limit: int, patience: float) -> bytes:
    """The whole request body, at most `limit` bytes, each wait for more of it at most `patience` seconds."""
    extra = extension_of(scope)
    body = extra.buffered_body() if extra else None
    if body is None:
        body = b"".join([part async for part in _parts(receive, limit, patience)])
    if len(body) > limit:
        raise ApiError(ErrorCode.REQUEST_TOO_LARGE, f"The body is larger than {limit} bytes.")
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
            raise ApiError(ErrorCode.REQUEST_TIMEOUT, text) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        yield part


async def respond(send: Send, status: int, body: bytes, headers: Headers = (JSON,)) -> None:
    """Sends a whole answer."""
    lines = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


async def respond_json(send: Send, value: Any, headers: Headers = ()) -> None:
    """Sends `value` as JSON with status 200."""
    await respond(send, 200, json.dumps(value, ensure_ascii=False).encode(), (JSON, *headers))


class CancelOnDisconnect:
    """A context that cancels the current task when the client disconnects, and then raises ClientDisconnectedError.

    `task` is the task that runs in it. Without our server's extension a second task has to wait for the disconnect.
    """

    def __init__(self, receive: Receive, extra: ServerExtension | None = None) -> None:
        self._receive, self._extra = receive, extra
        self._gone = False
        self._listening: asyncio.Task[None] | None = None

    def __enter__(self) -> "CancelOnDisconnect":
        task = asyncio.current_task()
        assert task
        self.task = task
        if self._extra:
            self._extra.on_disconnect(self.leave)
        else:
            self._listening = asyncio.create_task(self._listen())
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._extra:
            self._extra.on_disconnect(None)
        if self._listening:
            self._listening.cancel()
        if self._gone and kind is asyncio.CancelledError and self.task.uncancel() == 0:
            raise ClientDisconnectedError from None

    def leave(self) -> None:
        """Ends it as if the client had left."""
        self._gone = True
        self.task.cancel()

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.leave()
