"""Which web pages may use the gateway from a browser, as the fleet file says (CORS)."""

import re
from ipaddress import IPv6Address
from typing import Annotated

from pydantic import AfterValidator, Field

from service.config.strict_yaml import Frozen

ANY = "*"
ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")
DEFAULT_PORTS = {"http": "80", "https": "443"}


def _origin(text: str) -> str:
    if text == ANY:
        return text
    found = ORIGIN.fullmatch(text)
    if not found:
        raise ValueError(
            f"'{text:.128}' is no origin: scheme://host or scheme://host:port, without a path, or '*' alone"
        )
    scheme, host, port = found.groups()
    if port is not None and (not 0 < int(port) < 2**16 or port.startswith("0")):
        raise ValueError(f"'{text:.128}' has no port between 1 and 65535")
    if port is not None and DEFAULT_PORTS.get(scheme) == port:
        raise ValueError(f"browsers leave out the port {port} of {scheme}: write {scheme}://{host}")
    if host.startswith("["):
        IPv6Address(host[1:-1])
    return text.lower()


def _any_stands_alone(origins: tuple[str, ...]) -> tuple[str, ...]:
    if ANY in origins and len(origins) > 1:
        raise ValueError("'*' allows every page, so it stands alone")
    return origins


Origin = Annotated[str, AfterValidator(_origin)]


class Cors(Frozen):
    """The `origins` of the pages that may use the gateway: none, some, or `*` for all.

    Browsers never send cookies or other credentials of their own along: a page has to send an API key.
    """

    origins: Annotated[tuple[Origin, ...], Field(max_length=256), AfterValidator(_any_stands_alone)] = ()
