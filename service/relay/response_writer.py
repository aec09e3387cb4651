"""The response to one client: sent whole, or as an event stream."""

import json
from collections.abc import Awaitable, Callable

from service.errors import ApiError, anthropic_body, openai_body
from service.observability.record import Record
from service.protocol.streams import Dialect
from service.server.asgi import JSON, Headers, Send, ServerExtension, respond

# Proxies must neither keep events (`cache-control`) nor collect them before they pass them on (nginx's own header).
STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


class ResponseWriter:
    """Writes one response. Once `started`, its status has been sent, and an error can only become an event of a stream;
    once `ended`, nothing more can be sent.

    `write_now` sends events of a stream synchronously and returns whether it can take more; if not, await `flush`. With
    a server that has no such extension (`extra` is None) it buffers them for `flush`. `next_sequence_number` numbers
    the error event of the Responses API; it is 0 before any other event.
    """

    def __init__(self, send: Send, dialect: Dialect, extra: ServerExtension | None = None) -> None:
        self._send, self._dialect, self._extra = send, dialect, extra
        self._buffered = b""
        self.write_now = extra.write_now if extra else self._buffer
        self.next_sequence_number: Callable[[], int] = int
        self.started = self.ended = False

    def respond(self, body: bytes, headers: Headers) -> Awaitable[None]:
        """Sends a whole JSON response with status 200, unless one was sent."""
        if self._extra and not self.ended:
            return self._extra.respond(200, (JSON, *headers), body)
        return self._respond_in_messages(body, headers)

    async def _respond_in_messages(self, body: bytes, headers: Headers) -> None:
        if not self.ended:
            self.started = self.ended = True  # it takes two messages: what interrupts them cannot send an error
            await respond(self._send, 200, body, (JSON, *headers))

    async def respond_early(self, body: bytes, headers: Headers) -> None:
        """Sends a whole response; what comes after it is for nobody."""
        await self.respond(body, headers)
        self.started = self.ended = True

    async def open(self, headers: Headers = ()) -> None:
        """Sends the status and headers of a stream, unless that was done."""
        if not self.started:
            self.started = True
            start = [*STREAM_HEADERS, *headers]
            await self._send({"type": "http.response.start", "status": 200, "headers": start})

    def send_events(self, events: bytes) -> Awaitable[None]:
        """Sends complete events of a stream that is open."""
        return self._send({"type": "http.response.body", "body": events, "more_body": True})

    def _buffer(self, events: bytes) -> bool:
        self._buffered += events
        return False

    async def flush(self) -> None:
        """Sends what is buffered, and waits until `write_now` can take more."""
        buffered, self._buffered = self._buffered, b""
        await self.send_events(buffered)

    def chunk_writer(self, on_full: Callable[[], None]) -> Callable[[bytes], object] | None:
        """What writes whole chunks of HTTP until `on_full` is called (see ServerExtension); None if nothing does."""
        return self._extra.chunk_writer(on_full) if self._extra else None

    async def comment(self, text: str) -> None:
        """Sends an SSE comment, which clients ignore, so that no proxy on the way times the stream out."""
        await self.open()
        await self.send_events(f": {text}\n\n".encode())

    def close(self, events: bytes = b"") -> Awaitable[None]:
        """Ends the stream, with its last events."""
        self.ended = True
        return self._send({"type": "http.response.body", "body": events})

    async def fail(self, error: ApiError, record: Record) -> None:
        """Ends a stream with one error event; raises `error` if nothing has been sent yet.

        A response that was interrupted at its end stays as it is, and its server closes the connection.
        """
        if not self.started:
            raise error
        record.fail(error)
        if self.ended:
            return
        await self.send_events(error_event(error, self._dialect, self.next_sequence_number()))
        await self.close()


def error_event(error: ApiError, dialect: Dialect, sequence_number: int) -> bytes:
    """The event that ends a failed stream, in the dialect of its endpoint."""
    if dialect == "openai":
        return b"data: " + openai_body(error) + b"\n\n"
    if dialect == "messages":
        return b"event: error\ndata: " + anthropic_body(error) + b"\n\n"
    fields = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
    return b"event: error\ndata: " + json.dumps({**fields, "sequence_number": sequence_number}).encode() + b"\n\n"
