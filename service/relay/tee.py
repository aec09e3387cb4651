"""A response on its way to a client, and a copy of it for the idempotency cache."""

from collections.abc import Awaitable, Callable

from service.observability.prompt_log import PromptLog
from service.observability.record import Record
from service.server.asgi import Headers, Message, Send, ServerExtension


class Tee:
    """Forwards a response and copies it. It stands in for ASGI's `send` and for the server's extension.

    `reserve(copied, more)` is asked for memory before each chunk, in bytes. Once it refuses, the copy is given up and
    `body` is None.
    """

    extra_headers: Callable[[int], Headers] | None = None

    def __init__(self, send: Send, extra: ServerExtension | None, reserve: Callable[[int, int], bool]) -> None:
        self._send, self._extra, self._reserve = send, extra, reserve
        self.status = 0
        self.headers: Headers = ()
        self.body: bytearray | None = bytearray()
        self.complete = False

    @property
    def extra(self) -> "Tee | None":
        """The stand-in for the server's extension, if it has one."""
        return self if self._extra else None

    async def send(self, message: Message) -> None:
        """Sends and copies an ASGI message."""
        if message["type"] == "http.response.start":
            self._begin(message["status"], message["headers"])
        else:
            self._copy(message.get("body", b""))
            self.complete = not message.get("more_body", False)
        await self._send(message)

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Sends and copies a whole response."""
        assert self._extra
        self._begin(status, headers)
        self._copy(body)
        self.complete = True
        await self._extra.respond(status, headers, body)

    def write_now(self, piece: bytes) -> bool:
        """Sends and copies a chunk of a stream."""
        assert self._extra
        self._copy(piece)
        return self._extra.write_now(piece)

    def chunk_writer(self, on_full: Callable[[], None]) -> None:
        """None: what is copied is written with `write_now`."""

    def buffered_body(self) -> bytes | None:
        """The request body of the extension."""
        return self._extra.buffered_body() if self._extra else None

    def on_disconnect(self, leave: Callable[[], None] | None) -> None:
        """Registers `leave` for when the client disconnects."""
        assert self._extra
        self._extra.on_disconnect(leave)

    def _begin(self, status: int, headers: Headers) -> None:
        # The middleware appends this request's own id to the message's list. A length is added when the copy is sent.
        self.status, self.headers = status, tuple(row for row in headers if row[0] != b"content-length")

    def _copy(self, piece: bytes) -> None:
        if self.body is None:
            return
        if self._reserve(len(self.body), len(piece)):
            self.body += piece
        else:
            self.body = None


async def logged(log: PromptLog, serving: Awaitable[None], record: Record, body: bytes, tee: Tee) -> None:
    """Serves a request, and logs it with what its client got, however far that came."""
    try:
        await serving
    finally:
        log.write(record, body, None if tee.body is None else bytes(tee.body))
