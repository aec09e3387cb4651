"""How a connection to a replica is opened, and what can be wrong with one."""

import asyncio
import os
import socket

# A peer that vanished without a word is given up after half a minute, in silence as in the middle of a request.
# Not every system has all of these options.
KEEP_ALIVE = tuple(
    (level, getattr(socket, name), value)
    for level, name, value in (
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 15),  # seconds
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 5),  # seconds
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 30_000),  # milliseconds
    )
    if hasattr(socket, name)
)


class TransportError(Exception):
    """The exchange broke: no connection, a reset, or an answer that is not HTTP."""


class RefusedError(TransportError):
    """Nobody listens at the address."""


class DeadlineError(TransportError):
    """The replica was silent for too long."""


async def dial(loop: asyncio.AbstractEventLoop, address: str, protocol: asyncio.Protocol, limit: float) -> None:
    """Connects `protocol` to an address, a socket's path or `host:port`, within `limit` seconds.

    Raises RefusedError or TransportError.
    """
    try:
        async with asyncio.timeout(limit):
            if address.startswith("/"):
                await loop.create_unix_connection(lambda: protocol, address)
            else:
                host, port = address.rsplit(":", 1)
                opened, _ = await loop.create_connection(lambda: protocol, host.strip("[]"), int(port))
                for option in KEEP_ALIVE:
                    opened.get_extra_info("socket").setsockopt(*option)
    except TimeoutError:
        raise TransportError(f"no connection within {limit:g} s") from None
    except (ConnectionRefusedError, FileNotFoundError) as error:
        raise RefusedError(f"no connection: {os.strerror(error.errno or 0)}") from None
    except OSError as error:
        raise TransportError(f"no connection: {os.strerror(error.errno) if error.errno else 'failed'}") from None
