"""The middleware around every request: its id and record, rendering of errors, and limits on its size."""

import asyncio
import json
import logging
import random
import re
import time
import traceback
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

CLIENT_REQUEST_ID = re.compile(rb"^[A-Za-z0-9._-]{1,64}\Z")
MAX_HEADERS = 100
CONNECTION_CLOSE = (b"connection", b"close")
ANTHROPIC_VERSION = b"anthropic-version"
CLIENT_CLOSED_REQUEST = 499  # nginx's status for it; appears in logs only


def request_id_headers(request_id: str, path: str = "") -> Headers:
    """The headers that tell a client its request id; the libraries for Anthropic's API look for a second name of it."""
    value = request_id.encode()
    own = (b"x-request-id", value)
    return (own, (b"request-id", value)) if path.startswith("/v1/messages") else (own,)


class RecordMiddleware:
    """Gives each request an id and a Record, in `scope["record"]`; observes and logs the record once at the end.

    `on_end` is told of it then, too, and `account` of requests to models.
    While `draining`, each response closes its connection, so that the client opens a new one elsewhere.
    """

    def __init__(
        self, app: App, metrics: Metrics, name_of: Callable[[str], str], write: Callable[[str], None],
        on_end: Callable[[Scope, Record], object] | None = None,
        account: Callable[[Record], None] | None = None,
    ) -> None:  # fmt: skip
        self._app, self._metrics, self._name_of, self._write, self._on_end = app, metrics, name_of, write, on_end
        self._account = account
        self.draining = False
        self._timestamp_second, self._timestamp = 0, ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        record = Record(random.randbytes(16).hex(), self._name_of(scope["path"]), time.monotonic())
        scope["record"] = record
        extension = extension_of(scope)
        for name, value in scope["headers"]:
            if name == b"x-request-id" and CLIENT_REQUEST_ID.match(value):
                record.client_request_id = value.decode()

        def extra_headers(status: int) -> Headers:
            record.status = status
            headers: Headers = request_id_headers(record.request_id, scope["path"])
            return (*headers, CONNECTION_CLOSE) if self.draining else headers

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].extend(extra_headers(message["status"]))
            await send(message)

        if extension:
            extension.extra_headers = extra_headers
        try:
            await self._app(scope, receive, send if extension else send_with_headers)
            if not record.status:  # nothing was sent: the client left while its answer was made
                record.outcome, record.status = "cancelled", CLIENT_CLOSED_REQUEST
        except ClientDisconnectedError:
            record.outcome, record.status, record.code = "cancelled", CLIENT_CLOSED_REQUEST, None
        except asyncio.CancelledError:  # the server is stopping
            record.outcome = "failed"
            raise
        finally:
            record.ended = time.monotonic()
            if key := scope.get("key"):
                record.key = key.id
            self._metrics.observe(record)
            if self._account and record.requested:
                self._account(record)
            self._write(log_line(record, self._now()))
            if self._on_end:
                self._on_end(scope, record)

    def record_invalid(self, error: ApiError) -> Headers:
        """Counts and logs what a client sent that is no request; returns the headers of the response to it."""
        request_id = random.randbytes(16).hex()
        self._metrics.invalid_requests.labels(error.code).inc()
        fields = {
            "time": self._now(),
            "event": "invalid_request",
            "request_id": request_id,
            "status": error.status,
            "code": error.code,
            "message": error.message,
        }
        self._write(json.dumps(fields))
        return request_id_headers(request_id)

    def _now(self) -> str:
        """The UTC time in ISO 8601, formatted once per second."""
        second = int(time.time())
        if second != self._timestamp_second:
            self._timestamp_second, self._timestamp = second, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))
        return self._timestamp


class ErrorMiddleware:
    """Renders an error as a response, in OpenAI's or Anthropic's format depending on the endpoint."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except ClientDisconnectedError:
            raise
        except ApiError as error:
            await _render(error, scope, send)
        except Exception as error:  # noqa: BLE001 - it is logged, without what it says
            log.error("request %s failed:\n%s", scope["record"].request_id, without_messages(error))
            message = "Internal error. The gateway's log has the details, by request id."
            await _render(ApiError(ErrorCode.INTERNAL_ERROR, message), scope, send)


def without_messages(error: BaseException) -> str:
    """The traceback of an exception and of those before it, without their messages: these may quote the request."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and cause not in causes:
        causes.append(cause)
    shown = ("".join([*traceback.format_tb(one.__traceback__), type(one).__name__]) for one in reversed(causes))
    return "\n".join(shown)


class LimitsMiddleware:
    """Refuses a request with too many headers, or too many bytes of them."""

    def __init__(self, app: App, max_header_bytes: int) -> None:
        self._app, self._max_header_bytes = app, max_header_bytes

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        headers = scope["headers"]
        if len(headers) > MAX_HEADERS or sum(map(len, chain.from_iterable(headers))) > self._max_header_bytes:
            limits = f"{MAX_HEADERS} headers or {self._max_header_bytes} bytes of them"
            raise ApiError(ErrorCode.HEADERS_TOO_LARGE, f"There are more than {limits}.")
        return self._app(scope, receive, send)


def is_anthropic(scope: Scope) -> bool:
    """Whether the client speaks Anthropic's API: by the path, or by a header where both APIs have the same path."""
    path: str = scope["path"]
    if path.startswith("/v1/models"):
        return any(name == ANTHROPIC_VERSION for name, _ in scope["headers"])
    return path.startswith("/v1/messages")


async def _render(error: ApiError, scope: Scope, send: Send) -> None:
    record: Record = scope["record"]
    record.fail(error)
    if record.status:
        return  # the response has started: closing the connection early is all that is left
    body = anthropic_body(error) if is_anthropic(scope) else openai_body(error)
    headers: list[Any] = [JSON, *((name.encode(), value.encode()) for name, value in error.headers.items())]
    await respond(send, error.status, body, headers)
