"""Connections to replicas, kept for the next request, and the requests as bytes."""

import asyncio
import math

from service.transport.connect import DeadlineError, RefusedError, TransportError
from service.transport.exchange import Deadlines, Exchange

__all__ = ["DeadlineError", "Deadlines", "Exchange", "RefusedError", "Transport", "TransportError", "get", "post"]

IDLE_POOL = 30.0  # seconds; engines keep idle connections for longer, so a pooled one is rarely dead


class Transport:
    """Connections to replicas, pooled by address. An address is a Unix socket's path, or `host:port`."""

    def __init__(self) -> None:
        self._idle: dict[str, list[Exchange]] = {}

    async def send(self, address: str, request: bytes, deadlines: Deadlines, left: float = math.inf) -> Exchange:
        """Sends `request` to the replica, for an answer within `left` seconds at most, whatever else the deadlines say.

        The answer is read from the Exchange. Give it back with `release`.
        """
        loop = asyncio.get_running_loop()
        idle = self._idle.get(address)
        while idle:
            exchange = idle.pop()
            if _is_fresh(exchange, loop.time()):
                exchange.reused = True
                exchange.start(request, deadlines, left)
                return exchange
            exchange.close()
        exchange, began = Exchange(loop, address), loop.time()
        await exchange.connect(min(deadlines.connect, left))
        exchange.start(request, deadlines, max(0.0, left + began - loop.time()))
        return exchange

    def idle(self, address: str) -> int:
        """How many connections to this replica could take the next request."""
        return sum(exchange.reusable for exchange in self._idle.get(address, ()))

    def release(self, address: str, exchange: Exchange) -> None:
        """Takes the connection back for the next request, or closes it when the answer was not read to its end."""
        if exchange.rest():
            self._idle.setdefault(address, []).append(exchange)
        else:
            exchange.close()

    async def refuses(self, address: str, limit: float = 1.0) -> bool:
        """Whether nobody listens there; not known within `limit` seconds means that somebody may."""
        exchange = Exchange(asyncio.get_running_loop(), address)
        try:
            await exchange.connect(limit)
        except TransportError as error:
            return isinstance(error, RefusedError)
        finally:
            exchange.close()
        return False

    def expire(self) -> None:
        """Closes connections that were idle for too long, and forgets those that the other side has closed."""
        now = asyncio.get_running_loop().time()
        for address, idle in list(self._idle.items()):
            kept = self._idle[address] = []
            for exchange in idle:
                if _is_fresh(exchange, now):
                    kept.append(exchange)
                else:
                    exchange.close()
            if not kept:
                del self._idle[address]

    def close(self) -> None:
        """Closes every idle connection."""
        for idle in self._idle.values():
            for exchange in idle:
                exchange.close()
        self._idle.clear()


def _is_fresh(exchange: Exchange, now: float) -> bool:
    return exchange.reusable and now - exchange.idle_since < IDLE_POOL


def post(path: str, body: bytes, request_id: str = "") -> bytes:
    """A POST request of JSON, ready to send, with its `x-request-id` if it has one."""
    own = f"x-request-id: {request_id}\r\n" if request_id else ""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: engine\r\n{own}"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def get(path: str) -> bytes:
    """A GET request, ready to send."""
    return f"GET {path} HTTP/1.1\r\nhost: engine\r\n\r\n".encode()
