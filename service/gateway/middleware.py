"""The middleware around every request: its id and record, rendering of errors, and limits on its size."""

import asyncio
import logging
import math
import random
import re
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain
from typing import Any

from service.errors import ApiError, ErrorCode, anthropic_body, openai_body
from service.observability.log import Log
from service.observability.metrics import Metrics
from service.observability.record import Record
from service.observability.tracer import Tracer
from service.server.asgi import (
    JSON,
    App,
    ClientDisconnectedError,
    Headers,
    Message,
    Receive,
    Scope,
    Send,
    derived,
    extension_of,
    headers_by_name,
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

    Those in `on_end` are told of it then, too, and `account` of requests to models. Without traces `tracer` is None.
    While `draining`, each response closes its connection, so that the client opens a new one elsewhere.
    """

    def __init__(
        self, app: App, metrics: Metrics, name_of: Callable[[str], str], log: Log,
        on_end: Iterable[Callable[[Scope, Record], object]] = (),
        account: Callable[[Record], None] | None = None, tracer: Tracer | None = None,
    ) -> None:  # fmt: skip
        self._app, self._metrics, self._name_of, self._log, self._on_end = app, metrics, name_of, log, tuple(on_end)
        self._account, self._tracer = account, tracer
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        record = Record(
            random.getrandbits(128).to_bytes(16, "big").hex(), self._name_of(scope["path"]), time.monotonic()
        )
        scope["record"] = record
        if self._tracer:
            self._tracer.begin(record, scope["method"], scope["headers"])
        named = headers_by_name(scope).get(b"x-request-id")
        if named and CLIENT_REQUEST_ID.match(named):
            record.client_request_id = named.decode()

        def extra_headers(status: int) -> Headers:
            record.status = status
            headers: Headers = request_id_headers(record.request_id, scope["path"])
            return (*headers, CONNECTION_CLOSE) if self.draining else headers

        if extension := extension_of(scope):
            extension.extra_headers = extra_headers
        else:
            send = _with_headers(send, extra_headers)
        try:
            await self._app(scope, receive, send)
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
            self._log.request(record)
            for tell in self._on_end:
                tell(scope, record)
            if self._tracer and record.trace:
                self._tracer.end(record, record.trace)

    def record_invalid(self, error: ApiError) -> Headers:
        """Counts and logs what a client sent that is no request; returns the headers of the response to it."""
        request_id = random.randbytes(16).hex()
        self._metrics.invalid_requests.labels(error.code).inc()
        fields = {"request_id": request_id, "status": error.status, "code": error.code, "message": error.message}
        self._log.event("invalid_request", "warning", **fields)
        return request_id_headers(request_id)


def _with_headers(send: Send, headers: Callable[[int], Headers]) -> Send:
    """A `send` that adds headers to the response, by its status."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"].extend(headers(message["status"]))
        await send(message)

    return send_with_headers


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
        length = headers_by_name(scope).get(b"content-length", b"")
        if derived(scope, _size) + len(length) > self._max_header_bytes:
            limits = f"{MAX_HEADERS} headers or {self._max_header_bytes} bytes of them"
            raise ApiError(ErrorCode.HEADERS_TOO_LARGE, f"There are more than {limits}.")
        return self._app(scope, receive, send)


def _size(headers: list[tuple[bytes, bytes]]) -> float:
    """The bytes of all names and values but that of `Content-Length`, of which there is one at most.

    It is infinite for more headers than are allowed.
    """
    if len(headers) > MAX_HEADERS:
        return math.inf
    return sum(map(len, chain.from_iterable(headers))) - len(dict(headers).get(b"content-length", b""))


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
