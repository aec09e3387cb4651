"""The part of ASGI that the gateway uses: types, reading a body, sending a response, noticing a disconnect."""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Protocol, TypeVar

from service.errors import ApiError, ErrorCode

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]
T = TypeVar("T")

# The key of our ServerExtension in the scope's `extensions`.
EXTENSION = "roundhouse"
HEADERS_BY_NAME = "roundhouse.headers"  # the key of what `headers_by_name` returns
DERIVED = "roundhouse.derived"  # the key of what `derived` has returned, by what it was given


class ServerExtension(Protocol):
    """What our server offers beside ASGI: shortcuts that spare the event loop work on the hot path.

    `extra_headers`, if set, is called with the response's status and returns headers to add to it.
    """

    extra_headers: Callable[[int], Headers] | None

    def buffered_body(self) -> bytes | None:
        """The whole request body if it has been received and not been read yet, else None."""

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends a complete response; adds `content-length` to its headers."""

    def write_now(self, chunk: bytes) -> bool:
        """Writes a chunk of a streamed response without awaiting; returns False when the write buffer is full."""

    def chunk_writer(self, on_full: Callable[[], None]) -> Callable[[bytes], object] | None:
        """What writes whole chunks of HTTP, with their size and line ends, as they are; None where that cannot be done.

        Once `on_full` has been called it must not be used until the write buffer has room again.
        """

    def on_disconnect(self, callback: Callable[[], None] | None) -> None:
        """Sets the function that is called when the client disconnects; None removes it."""


JSON = (b"content-type", b"application/json")


class ClientDisconnectedError(Exception):
    """The client closed its connection before the response was complete."""


def extension_of(scope: Scope) -> ServerExtension | None:
    """Our server's extension; None under any other ASGI server."""
    extensions = scope.get("extensions")
    return extensions.get(EXTENSION) if extensions else None


def headers_by_name(scope: Scope) -> dict[bytes, bytes]:
    """The request's headers by their names, of equal ones the last; our server has made it already."""
    return scope.get(HEADERS_BY_NAME) or dict(scope["headers"])


def derived(scope: Scope, derive: Callable[[list[tuple[bytes, bytes]]], T]) -> T:
    """What `derive` makes of the headers: once for all requests of a connection that have the same ones.

    These differ in their `Content-Length`, on which it must not depend. What it raises is raised each time.
    """
    try:
        known: T = scope[DERIVED][derive]
        return known
    except KeyError:
        others = scope.get(DERIVED)
    found = derive(scope["headers"])
    if others is not None:
        others[derive] = found
    return found


async def read_body(
    scope: Scope, receive: Receive, limit: int, chunk_timeout: float, total_timeout: float
) -> bytes:  # fmt: skip
    """Reads the request body, at most `limit` bytes of it.

    Each chunk must arrive within `chunk_timeout` seconds, and all of them within `total_timeout`. Raises ApiError (413,
    408, or 400 for a body that is not valid HTTP) and ClientDisconnectedError.
    """
    body = buffered_body(extension_of(scope), limit)
    if body is None:
        body = b"".join(await _chunks(receive, limit, chunk_timeout, total_timeout))
        if len(body) > limit:
            raise too_large(limit)
    return body


def buffered_body(extension: ServerExtension | None, limit: int) -> bytes | None:
    """The request body if it is there already, and None otherwise. Raises the 413 if it has more than `limit` bytes."""
    body = extension.buffered_body() if extension else None
    if body is not None and len(body) > limit:
        raise too_large(limit)
    return body


def too_large(limit: int) -> ApiError:
    """The error of a body that is larger than `limit` bytes."""
    return ApiError(ErrorCode.REQUEST_TOO_LARGE, f"The body is larger than {limit} bytes.")


async def _chunks(receive: Receive, limit: int, chunk_timeout: float, total_timeout: float) -> list[bytes]:
    """The body as it arrives, in chunks; no further than `limit` bytes and the chunk that exceeds them."""
    chunks: list[bytes] = []
    size, more_body, clock = 0, True, asyncio.get_running_loop().time
    deadline = clock() + total_timeout
    while more_body and size <= limit:
        until = min(clock() + chunk_timeout, deadline)
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            waited = f"The body did not arrive within {total_timeout:g} s."
            if until < deadline:
                waited = f"The next part of the body did not arrive within {chunk_timeout:g} s."
            raise ApiError(ErrorCode.REQUEST_TIMEOUT, waited) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError
        chunk, more_body = message.get("body", b""), message.get("more_body", False)
        size += len(chunk)
        chunks.append(chunk)
    return chunks


async def respond(send: Send, status: int, body: bytes, headers: Headers = (JSON,)) -> None:
    """Sends a complete response."""
    all_headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body})


async def respond_json(send: Send, value: Any, headers: Headers = ()) -> None:
    """Sends `value` as JSON with status 200."""
    await respond(send, 200, json.dumps(value, ensure_ascii=False).encode(), (JSON, *headers))


class CancelOnDisconnect:
    """A context that cancels the current task when the client disconnects, and then raises ClientDisconnectedError.

    `task` is the task to cancel. Without our server's extension a second task waits for the disconnect message.
    """

    def __init__(self, receive: Receive, extension: ServerExtension | None = None) -> None:
        self._receive, self._extension = receive, extension
        self._disconnected = False
        self._listener: asyncio.Task[None] | None = None

    def __enter__(self) -> "CancelOnDisconnect":
        task = asyncio.current_task()
        assert task
        self.task = task
        if self._extension:
            self._extension.on_disconnect(self.disconnect)
        else:
            self._listener = asyncio.create_task(self._wait_for_disconnect())
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.detach()
        if self._disconnected and kind is asyncio.CancelledError and self.task.uncancel() == 0:
            raise ClientDisconnectedError from None

    def detach(self) -> None:
        """From now on a disconnect changes nothing."""
        if self._extension:
            self._extension.on_disconnect(None)
        if self._listener:
            self._listener.cancel()

    def disconnect(self) -> None:
        """Cancels the task as if the client had disconnected."""
        self._disconnected = True
        self.task.cancel()

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.disconnect()
