"""What surrounds every request: its id and record, the bounds on its size, and the rendering of errors."""

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable
from itertools import chain
from typing import Any

from service.errors import ApiError, ErrorCode, anthropic_body, openai_body
from service.observability.metrics import Metrics
from service.observability.record import Record, log_line
from service.server.asgi import (
    JSON,
    App,
    ClientDisconnectedError,
    Headers,
    Message,
    Receive,
    Scope,
    Send,
    extension_of,
    respond,
)

log = logging.getLogger("roundhouse")

CLIENT_ID = re.compile(rb"^[A-Za-z0-9._-]{1,64}\Z")
MAX_HEADERS = 100
CLOSE = (b"connection", b"close")
CLIENT_LEFT = 499  # in logs only


class RecordMiddleware:
    """Gives each request an id and a Record in `scope["record"]`, and observes the record once at its end.

    While `closing`, each answer asks its client for a new connection next time.
    """

    def __init__(self, app: App, metrics: Metrics, name_of: Callable[[str], str], write: Callable[[str], None]) -> None:
        self._app, self._metrics, self._name_of, self._write = app, metrics, name_of, write
        self.closing = False
        self._second, self._stamp = 0, ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        record = Record(random.randbytes(16).hex(), self._name_of(scope["path"]), time.monotonic())
        scope["record"] = record
        extra = extension_of(scope)
        for name, value in scope["headers"]:
            if name == b"x-request-id" and CLIENT_ID.match(value):
                record.client_request_id = value.decode()

        def extra_headers(status: int) -> Headers:
            record.status = status
            own = (b"x-request-id", record.request_id.encode())
            return (own, CLOSE) if self.closing else (own,)

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].extend(extra_headers(message["status"]))
            await send(message)

        if extra:
            extra.extra_headers = extra_headers
        try:
            await self._app(scope, receive, send if extra else noting)
        except ClientDisconnectedError:
            record.outcome, record.status, record.code = "cancelled", CLIENT_LEFT, None
        except asyncio.CancelledError:  # the server stops
            record.outcome = "failed"
            raise
        finally:
            record.ended = time.monotonic()
            self._metrics.observe(record)
            self._write(log_line(record, self._now()))

    def _now(self) -> str:
        """The time of day, to the second."""
        second = int(time.time())
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))
        return self._stamp


class ErrorMiddleware:
    """Turns an error into its answer, in the shape that the endpoint's clients expect."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except ClientDisconnectedError:
            raise
        except ApiError as error:
            await _render(error, scope, send)
        except Exception:
            log.exception("request %s failed", scope["record"].request_id)
            message = "Something went wrong here. The request id finds it in our log."
            await _render(ApiError(ErrorCode.INTERNAL_ERROR, message), scope, send)


class LimitsMiddleware:
    """Refuses what is too large or not JSON before any of its body is read."""

    def __init__(self, app: App, max_header_bytes: int, max_body_bytes: int) -> None:
        self._app, self._max_header_bytes, self._max_body_bytes = app, max_header_bytes, max_body_bytes

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        headers = scope["headers"]
        if len(headers) > MAX_HEADERS or sum(map(len, chain.from_iterable(headers))) > self._max_header_bytes:
            limit = f"{MAX_HEADERS} headers or {self._max_header_bytes} bytes of them"
            raise ApiError(ErrorCode.HEADERS_TOO_LARGE, f"There are more than {limit}.")
        if scope["method"] == "POST":
            self._check_body(dict(headers))
        return self._app(scope, receive, send)

    def _check_body(self, headers: dict[bytes, bytes]) -> None:
        media = headers.get(b"content-type", b"application/json")
        if media != b"application/json" and media.split(b";")[0].strip().lower() != b"application/json":
            text = "Send the body as JSON, with the header 'Content-Type: application/json'."
            raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, text)
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            text = "Send the body uncompressed, without 'Content-Encoding'."
            raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, text)
        if b"content-length" in headers and b"transfer-encoding" in headers:
            text = "A request has either 'Content-Length' or 'Transfer-Encoding', not both."
            raise ApiError(ErrorCode.INVALID_REQUEST, text)
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_body_bytes:
            raise ApiError(ErrorCode.REQUEST_TOO_LARGE, f"The body is larger than {self._max_body_bytes} bytes.")


async def _render(error: ApiError, scope: Scope, send: Send) -> None:
    record: Record = scope["record"]
    record.fail(error)
    if record.status:
        return  # the answer has begun; the connection's early end is all that can still be said
    anthropic = scope["path"].startswith("/v1/messages")
    body = anthropic_body(error) if anthropic else openai_body(error)
    headers: list[Any] = [JSON, *((name.encode(), value.encode()) for name, value in error.headers.items())]
    await respond(send, error.status, body, headers)
