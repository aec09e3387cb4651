"""Finds the addresses of external engines: a name stands for all of its addresses, and is resolved regularly."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable

LOOKUP_TIMEOUT = 5.0  # seconds
# Errors that say that the name has no address, unlike those that say that the lookup failed.
NO_ADDRESS = (socket.EAI_NONAME, socket.EAI_NODATA)
Lookup = Callable[[str, int], Awaitable[Iterable[str]]]


async def look_up(host: str, port: int) -> list[str]:
    """Every IPv4 and IPv6 address of a host, as the system resolves it; raises OSError where it cannot."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class Discovery:
    """Resolves the `addresses` of a model in the fleet file. A name whose lookup fails keeps its last addresses.

    `error` names each name that the last `find` could not resolve, and says why; None if it could resolve all.
    """

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._known: dict[str, tuple[str, ...]] = {}
        self._empty: set[str] = set()
        self._errors: dict[str, str] = {}

    @property
    def reason(self) -> str | None:
        """Why names cannot be resolved, without the names."""
        return "; ".join(sorted(set(self._errors.values()))) or None

    @property
    def error(self) -> str | None:
        return "; ".join(f"{host}: {why}" for host, why in sorted(self._errors.items())) or None

    async def find(self, addresses: Iterable[str]) -> list[str]:
        """All of these with names replaced by their addresses, without duplicates; sets `error`.

        The names are looked up at the same time, so that one without an answer does not hold up the others.
        """
        self._errors.clear()
        found = await asyncio.gather(*map(self._resolve, addresses))
        return list(dict.fromkeys(address for addresses_of_one in found for address in addresses_of_one))

    async def _resolve(self, name: str) -> tuple[str, ...]:
        if not is_name(name):
            return (name,)
        host, port = name.rsplit(":", 1)
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT):
                found = {host_port(address, port) for address in await self._lookup(host, int(port))}
        except TimeoutError:
            return self._keep(name, f"name lookup timed out after {LOOKUP_TIMEOUT:g} s")
        except (OSError, ValueError) as error:
            if not isinstance(error, socket.gaierror) or error.errno not in NO_ADDRESS:
                return self._keep(name, f"name lookup failed: {error}")
            found = set()
        if not found and name not in self._empty:
            # A name server that has just started knows no names yet, so one empty answer is not acted on.
            self._empty.add(name)
            return self._keep(name, "the name has no address")
        if found:
            self._empty.discard(name)
        else:
            self._errors[host] = "the name has no address"
        self._known[name] = tuple(sorted(found))
        return self._known[name]

    def _keep(self, name: str, why: str) -> tuple[str, ...]:
        self._errors[name.rsplit(":", 1)[0]] = why
        return self._known.get(name, ())


def is_name(address: str) -> bool:
    """Whether `host:port` has a DNS name that must be resolved; not so for IP addresses and paths of Unix sockets."""
    if address.startswith(("/", "[")):
        return False
    try:
        ipaddress.ip_address(address.rsplit(":", 1)[0])
    except ValueError:
        return True
    return False


def host_port(address: str, port: str) -> str:
    """`("::1", "8000")` → `[::1]:8000`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
