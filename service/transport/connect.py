"""Opening a connection to a replica; the deadlines and the errors of an exchange with one."""

import asyncio
import os
import socket
import ssl
from dataclasses import dataclass, field
from functools import lru_cache

# Detects within 30 s a peer that vanished without closing, whether the connection is idle or has data in flight.
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


TLS = "tls:"


@dataclass(frozen=True)
class Deadlines:
    """Time limits of one exchange, in float seconds.

    `connect` bounds the opening of the connection, `first_byte` the wait for the first byte of the response's body,
    `idle` each gap within the body, `total` the whole exchange, and `client_write` a time in which its reader takes
    nothing of the response, such as the relay for a client that does not read.
    """

    connect: float
    first_byte: float
    idle: float
    total: float
    client_write: float = 60.0
    shortest: float = field(init=False)  # of all but `connect`

    def __post_init__(self) -> None:
        object.__setattr__(self, "shortest", min(self.first_byte, self.idle, self.total, self.client_write))


class TransportError(Exception):
    """The exchange failed: no connection, a reset, or a response that is not HTTP."""


class RefusedError(TransportError):
    """The connection was refused: nothing listens at the address."""


class DeadlineError(TransportError):
    """The exchange exceeded one of its deadlines."""


class TooLargeError(TransportError):
    """The response is larger than the caller takes."""


@lru_cache
def verifying_context() -> ssl.SSLContext:
    """What checks a server's certificate, by the system's authorities; it takes 20 ms to read them."""
    return ssl.create_default_context()


async def dial(
    loop: asyncio.AbstractEventLoop, address: str, protocol: asyncio.Protocol, connect_timeout: float
) -> None:
    """Connects `protocol` to an address, a socket's path, `host:port` or `tls:host:port`.

    Raises RefusedError or TransportError, the latter also after `connect_timeout` seconds.
    """
    try:
        async with asyncio.timeout(connect_timeout):
            if address.startswith("/"):
                await loop.create_unix_connection(lambda: protocol, address)
            else:
                tls, (host, port) = address.startswith(TLS), address.removeprefix(TLS).rsplit(":", 1)
                context = verifying_context() if tls else None
                opened, _ = await loop.create_connection(lambda: protocol, host.strip("[]"), int(port), ssl=context)
                for option in KEEP_ALIVE:
                    opened.get_extra_info("socket").setsockopt(*option)
    except TimeoutError:
        raise TransportError(f"no connection within {connect_timeout:g} s") from None
    except (ConnectionRefusedError, FileNotFoundError) as error:
        raise RefusedError(f"no connection: {os.strerror(error.errno or 0)}") from None
    except ssl.SSLError as error:
        raise TransportError(f"no connection: TLS failed ({error.reason or 'unknown'})") from None
    except OSError as error:
        raise TransportError(f"no connection: {os.strerror(error.errno) if error.errno else 'failed'}") from None
