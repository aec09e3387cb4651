"""At which addresses engines are that others start: a name stands for all of its addresses, and is asked anew."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable

PATIENCE = 5.0  # seconds that a name may take
NOBODY = (
    socket.EAI_NONAME,
    socket.EAI_NODATA,
)  # the answer is that there is no address, and not that there is none yet
Lookup = Callable[[str, int], Awaitable[Iterable[str]]]


async def look_up(host: str, port: int) -> list[str]:
    """Every IPv4 and IPv6 address of a host, as the system resolves it; raises OSError where it cannot."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class Discovery:
    """Resolves what the fleet file calls `at`. A name that fails keeps the addresses that it had."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._known: dict[str, tuple[str, ...]] = {}
        self._vacant: set[str] = set()
        self.trouble: str | None = None

    async def find(self, at: Iterable[str]) -> list[str]:
        """All addresses of all these names, each once; `trouble` then says which name has none, and why."""
        self.trouble = None
        found: dict[str, None] = {}
        for name in at:
            found |= dict.fromkeys(await self._resolve(name) if is_name(name) else (name,))
        return list(found)

    async def _resolve(self, name: str) -> tuple[str, ...]:
        host, port = name.rsplit(":", 1)
        try:
            async with asyncio.timeout(PATIENCE):
                found = {written(one, port) for one in await self._lookup(host, int(port))}
        except TimeoutError:
            return self._keep(name, f"no answer about its addresses within {PATIENCE:g} s")
        except (OSError, UnicodeError) as error:
            if not isinstance(error, socket.gaierror) or error.errno not in NOBODY:
                return self._keep(name, f"its addresses are not known: {error}")
            found = set()
        if not found and name not in self._vacant:
            # A name server that has just started knows nobody yet, so the first such answer does not count.
            self._vacant.add(name)
            return self._keep(name, "it has no address")
        if found:
            self._vacant.discard(name)
        else:
            self.trouble = f"{host}: it has no address"
        self._known[name] = tuple(sorted(found))
        return self._known[name]

    def _keep(self, name: str, why: str) -> tuple[str, ...]:
        self.trouble = f"{name.rsplit(':', 1)[0]}: {why}"
        return self._known.get(name, ())


def is_name(address: str) -> bool:
    """Whether this has to be resolved: it is neither a Unix socket's path nor an address as written."""
    if address.startswith(("/", "[")):
        return False
    try:
        ipaddress.ip_address(address.rsplit(":", 1)[0])
    except ValueError:
        return True
    return False


def written(address: str, port: str) -> str:
    """`("::1", "8000")` → `[::1]:8000`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
