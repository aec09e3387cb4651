"""API keys: who a request is from, and what that caller may do. Pure.

A key is known here by its SHA-256 digest alone. It is random and long, so that nobody finds one by its digest; and how
long a lookup takes depends on the digest of what was sent, from which nothing follows about the digests that are kept.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, get_args

from msgspec import Struct

from service.auth.tenants import DEFAULT_TENANT, Tenant, find_tenant, unlisted
from service.errors import ApiError, ErrorCode

# What a key can be for: requests to models, the lists of what is served, the page for Prometheus.
EndpointGroup = Literal["inference", "models", "metrics"]
ALL_GROUPS: frozenset[EndpointGroup] = frozenset(get_args(EndpointGroup))
DEFAULT_GROUPS: frozenset[EndpointGroup] = frozenset({"inference", "models"})
REFUSAL = "The API key is missing or not valid. Send it as 'Authorization: Bearer KEY' or as 'x-api-key: KEY'."

NO_TENANT = "The token is valid, but no group of its user may use this service. Who runs it can give one a tenant."


@dataclass(frozen=True)
class Key:
    """What is known of a key, or of the token of a user who has signed on, and what its bearer may do.

    `expires` is in Unix seconds. `models` are the ids and aliases that it may use; None means all. The bearer of a
    `proxy` key may name the tenant of a request, that of an `operator`'s sees the usage of all tenants.
    """

    id: str
    tenant: str = DEFAULT_TENANT
    expires: float | None = None
    models: frozenset[str] | None = None
    endpoints: frozenset[EndpointGroup] = DEFAULT_GROUPS
    proxy: bool = False
    operator: bool = False


class Caller(Struct, frozen=True):
    """The tenant of a request, and the ids and aliases of the models that it may use; None means all."""

    tenant: Tenant
    models: frozenset[str] | None = None


Keys = Mapping[bytes, Key]  # by digest
ANYONE = Key("", endpoints=ALL_GROUPS, proxy=True, operator=True)  # the caller where no key is asked for
FIRST = Key("first", endpoints=ALL_GROUPS, operator=True)


def digest(secret: bytes) -> bytes:
    """The digest of a key, by which it is known; 32 bytes."""
    return sha256(secret).digest()


def authenticate(
    keys: Keys | None, headers: Mapping[bytes, bytes], now: float, known: Callable[[bytes], Key | None] | None = None
) -> Key:
    """The key that the headers present, at `now` in Unix seconds; ANYONE where `keys` is None.

    `known` finds, by its digest, a token that was verified before, where such are accepted. Raises ApiError 401, which
    is the same for every key that is not valid. Names of headers are in lower case.
    """
    if keys is None:
        return ANYONE
    for secret in presented(headers):
        hashed = digest(secret)
        key = keys.get(hashed)
        if key is None and known is not None:
            key = known(hashed)
        if key is not None and (key.expires is None or now < key.expires):
            return key
    raise ApiError(ErrorCode.INVALID_API_KEY, REFUSAL)


def presented(headers: Mapping[bytes, bytes]) -> Iterator[bytes]:
    """The keys and tokens in the headers of OpenAI's and of Anthropic's libraries. A client may mean either of two."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if token and scheme.lower() == b"bearer":
        yield token.strip()
    if b"x-api-key" in headers:
        yield headers[b"x-api-key"].strip()


def check_scope(key: Key, group: EndpointGroup) -> None:
    """Raises ApiError 403 unless the key is for such endpoints."""
    if group not in key.endpoints:
        if not key.endpoints:
            raise ApiError(ErrorCode.INSUFFICIENT_SCOPE, NO_TENANT)
        listed = ", ".join(sorted(key.endpoints))
        raise ApiError(ErrorCode.INSUFFICIENT_SCOPE, f"This API key is for {listed}, and the request for {group}.")


def caller_of(key: Key, named: str | None, tenants: Mapping[str, Tenant]) -> Caller:
    """Who sends a request with this key, which names the tenant `named` in a header, or None.

    A key's tenant that the fleet file does not list has no limits. Raises ApiError: 403 where the key may not name
    another tenant, 400 where the one that it names is not listed.
    """
    if named is not None and key.proxy:
        return Caller(find_tenant(tenants, named), key.models)
    if named is not None and named != key.tenant:
        text = "This API key is of another tenant than 'x-roundhouse-tenant' names. Leave the header out."
        raise ApiError(ErrorCode.INSUFFICIENT_SCOPE, text)
    return Caller(tenants.get(key.tenant) or unlisted(key.tenant), key.models)
