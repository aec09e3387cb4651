"""What one client is sent: a whole answer, or a stream of which each step is known."""

import json

from service.errors import ApiError, anthropic_body, openai_body
from service.observability.record import Record
from service.protocol.streams import Dialect
from service.server.asgi import JSON, Headers, Send, ServerExtension, respond

EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")


class ResponseWriter:
    """A client's end of a request. Once `begun`, its status is sent, and what fails from there on becomes an event.

    `write_now` sends a piece of a stream at once where the server is ours, which `extra` says.
    """

    def __init__(self, send: Send, dialect: Dialect, extra: ServerExtension | None = None) -> None:
        self._send, self._dialect, self._extra = send, dialect, extra
        self._held = b""
        self.write_now = extra.write_now if extra else self._hold
        self.begun = False

    async def answer(self, body: bytes, headers: Headers) -> None:
        """Sends a whole answer."""
        if self._extra:
            await self._extra.respond(200, (JSON, *headers), body)
        else:
            await respond(self._send, 200, body, (JSON, *headers))

    async def open(self, headers: Headers = ()) -> None:
        """Sends the status of a stream, unless that was done."""
        if not self.begun:
            self.begun = True
            start = [EVENT_STREAM, (b"cache-control", b"no-cache"), *headers]
            await self._send({"type": "http.response.start", "status": 200, "headers": start})

    async def pass_on(self, events: bytes) -> None:
        """Sends whole events."""
        await self._send({"type": "http.response.body", "body": events, "more_body": True})

    def _hold(self, events: bytes) -> bool:
        self._held += events
        return False

    async def flush(self) -> None:
        """Waits until `write_now` has room for more."""
        held, self._held = self._held, b""
        await self.pass_on(held)

    async def comment(self, text: str) -> None:
        """Sends a line that every reader of events skips, so that nothing on the way takes the stream for dead."""
        await self.open()
        await self.pass_on(f": {text}\n\n".encode())

    async def close(self) -> None:
        """Ends the stream."""
        await self._send({"type": "http.response.body", "body": b""})

    async def fail(self, error: ApiError, record: Record) -> None:
        """Ends a stream with the one event that says why; raises the error where nothing has been sent yet."""
        if not self.begun:
            raise error
        record.fail(error)
        await self.pass_on(error_event(error, self._dialect))
        await self.close()


def error_event(error: ApiError, dialect: Dialect) -> bytes:
    """The one event that ends a broken stream, in the dialect of its endpoint."""
    if dialect == "openai":
        return b"data: " + openai_body(error) + b"\n\n"
    if dialect == "messages":
        return b"event: error\ndata: " + anthropic_body(error) + b"\n\n"
    fields = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
    return b"event: error\ndata: " + json.dumps(fields).encode() + b"\n\n"
