"""A pool of connections to replicas, and requests serialised to bytes."""

import asyncio
import math

from service.transport.connect import DeadlineError, Deadlines, RefusedError, TooLargeError, TransportError
from service.transport.exchange import Exchange

__all__ = [
    "ConnectionPool",
    "DeadlineError",
    "Deadlines",
    "Exchange",
    "RefusedError",
    "TooLargeError",
    "TransportError",
    "get_request",
    "post_request",
    "with_headers",
]

IDLE_TIMEOUT = 30.0  # seconds; shorter than the engines' own keep-alive, so that a pooled connection is rarely stale


class ConnectionPool:
    """Connections to replicas, pooled by address. An address is a Unix socket's path, or `host:port`.

    `engine_key` is sent with every request, for the engines that ask for one; empty sends none.
    """

    def __init__(self, engine_key: str = "") -> None:
        self._authorization = f"authorization: Bearer {engine_key}\r\n".encode() if engine_key else b""
        self._idle: dict[str, list[Exchange]] = {}

    def send_now(
        self, address: str, request: bytes, deadlines: Deadlines, remaining: float = math.inf
    ) -> Exchange | None:
        """As `send`, on a pooled connection; None where there is none."""
        if self._authorization:
            request = with_headers(request, self._authorization)
        idle = self._idle.get(address)
        while idle:
            exchange = idle.pop()
            try:
                if asyncio.get_running_loop().time() - exchange.idle_since < IDLE_TIMEOUT:
                    exchange.start(request, deadlines, remaining)
                    return exchange
            except TransportError:  # the replica has closed it
                continue
            exchange.close()
        return None

    async def send(self, address: str, request: bytes, deadlines: Deadlines, remaining: float = math.inf) -> Exchange:
        """Sends `request` to the replica on a pooled or a new connection.

        `remaining` bounds the whole exchange, in seconds, beside the deadlines. Read the response from the Exchange and
        give that back with `release`. Raises TransportError.
        """
        if exchange := self.send_now(address, request, deadlines, remaining):
            return exchange
        if self._authorization:
            request = with_headers(request, self._authorization)
        loop = asyncio.get_running_loop()
        exchange, started = Exchange(loop, address), loop.time()
        await exchange.connect(min(deadlines.connect, remaining))
        exchange.start(request, deadlines, max(0.0, remaining + started - loop.time()))
        return exchange

    def idle(self, address: str) -> int:
        """How many connections to this replica could take the next request."""
        return sum(exchange.is_reusable() for exchange in self._idle.get(address, ()))

    def release(self, address: str, exchange: Exchange) -> None:
        """Returns the connection to the pool, or closes it if the response was not read to its end."""
        if exchange.finish():
            self._idle.setdefault(address, []).append(exchange)
        else:
            exchange.close()

    async def refuses(self, address: str, connect_timeout: float = 1.0) -> bool:
        """Whether the address refuses connections; False if that is not known within `connect_timeout` seconds."""
        exchange = Exchange(asyncio.get_running_loop(), address)
        try:
            await exchange.connect(connect_timeout)
        except TransportError as error:
            return isinstance(error, RefusedError)
        finally:
            exchange.close()
        return False

    def expire(self) -> None:
        """Closes connections that were idle for too long, and removes those that the replica has closed."""
        now = asyncio.get_running_loop().time()
        for address, idle in list(self._idle.items()):
            fresh = self._idle[address] = []
            for exchange in idle:
                if _is_fresh(exchange, now):
                    fresh.append(exchange)
                else:
                    exchange.close()
            if not fresh:
                del self._idle[address]

    def close(self) -> None:
        """Closes every idle connection."""
        for idle in self._idle.values():
            for exchange in idle:
                exchange.close()
        self._idle.clear()


def _is_fresh(exchange: Exchange, now: float) -> bool:
    return exchange.is_reusable() and now - exchange.idle_since < IDLE_TIMEOUT


def post_request(path: str, body: bytes, request_id: str = "") -> bytes:
    """A POST request with a JSON body as bytes; with an `x-request-id` header if `request_id` is given."""
    request_id_header = f"x-request-id: {request_id}\r\n" if request_id else ""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\n{request_id_header}"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def with_headers(request: bytes, lines: bytes) -> bytes:
    """The request with more header lines, each with its line end."""
    first_line, end, rest = request.partition(b"\r\n")
    return b"".join((first_line, end, lines, rest))


def get_request(path: str) -> bytes:
    """A GET request as bytes."""
    return f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
