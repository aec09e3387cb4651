"""Sign-on as the fleet file declares it: whose tokens are accepted, and which tenant a group of users is. Pure."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from service.auth.keys import DEFAULT_GROUPS, EndpointGroup
from service.config.loopback import is_loopback
from service.config.strict_yaml import Frozen

MOST_SKEW = 300.0  # seconds: a clock that is further off is to be set, not allowed for
SHAPE = re.compile(rb"[\w-]+\.[\w-]+\.[\w-]*", re.ASCII)  # of a JWT: three parts in base64url
Text = Annotated[str, Field(min_length=1, max_length=1024)]


def check_url(url: str) -> str:
    """The URL; raises ValueError unless what it leads to can be believed: by TLS, or because it is on this machine."""
    parts = urlsplit(url)  # raises ValueError itself for some
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username is not None or parts.fragment:
        raise ValueError(f"it should be an https URL, and {url!r:.200} is none")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError(f"it should begin with https: over http anybody on the way could answer for {url!r:.200}")
    return url


def _without_query(url: str) -> str:
    if "?" in url:
        raise ValueError("an issuer has no query")
    return url


def _url_or_path(text: str) -> str:
    if text.startswith("/"):
        return text
    try:
        return check_url(text)
    except ValueError as error:
        raise ValueError(f"{error}, nor the absolute path of a file") from None


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _of_tenant(value: Any) -> Any:
    return {"tenant": value} if isinstance(value, str) else value


class Access(Frozen):
    """What a group of users is here: a tenant, and the models and endpoints that it may use. None means all models."""

    tenant: Text
    models: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    endpoints: Annotated[tuple[EndpointGroup, ...], Field(min_length=1)] = tuple(sorted(DEFAULT_GROUPS))


Grant = Annotated[Access, BeforeValidator(_of_tenant)]


class SignOn(Frozen):
    """Tokens of one issuer; docs/security.md explains each member. `clock_skew` is in seconds.

    `client_id` is what the console is to the issuer; without it nobody signs in there.
    `jwks` is the URL or the absolute path of the issuer's signing keys; None where its own configuration names them.
    """

    issuer: Annotated[str, AfterValidator(_without_query), AfterValidator(check_url)]
    client_id: Text | None = None
    audience: Annotated[tuple[Text, ...], BeforeValidator(_listed), Field(min_length=1)]
    jwks: Annotated[str, AfterValidator(_url_or_path)] | None = None
    clock_skew: Annotated[float, Field(ge=0, le=MOST_SKEW, allow_inf_nan=False)] = 60.0
    groups_claim: Text = "groups"
    tenants: dict[Text, Grant] = Field(default_factory=dict)
    default_tenant: Grant | None = None

    @model_validator(mode="after")
    def _lets_somebody_in(self) -> "SignOn":
        if not self.tenants and self.default_tenant is None:
            raise ValueError("nobody would get in: give groups a tenant in 'tenants', or everyone a 'default_tenant'")
        return self

    @property
    def jwks_path(self) -> Path | None:
        """The file with the signing keys, if they are not fetched from a URL."""
        return Path(self.jwks) if self.jwks and self.jwks.startswith("/") else None

    def access(self, claims: Mapping[str, Any]) -> Access | None:
        """What the bearer of a token with these claims may do; None if nothing.

        Of several groups with a tenant the one that stands first in the file counts, alone.
        """
        groups = groups_of(claim_at(claims, self.groups_claim))
        return next((access for group, access in self.tenants.items() if group in groups), self.default_tenant)


def is_token(secret: bytes) -> bool:
    """Whether it has the shape of a token, which keys that `roundhouse keys` makes do not have."""
    return SHAPE.fullmatch(secret) is not None


def claim_at(claims: Any, name: str) -> Any:
    """The claim of that name, which can be that of a member within one, such as `realm_access.roles`; None if absent.

    Names of claims may have dots of their own: the longest that is there counts.
    """
    if not isinstance(claims, Mapping):
        return None
    if name in claims:
        return claims[name]
    end = len(name)
    while (end := name.rfind(".", 0, end)) > 0:
        if name[:end] in claims:
            return claim_at(claims[name[:end]], name[end + 1 :])
    return None


def groups_of(claim: Any) -> frozenset[str]:
    """The groups that a claim names: a text is one, and of a list each text."""
    listed = [claim] if isinstance(claim, str) else claim if isinstance(claim, list) else []
    return frozenset(group for group in listed if isinstance(group, str))


def describe(sign_on: SignOn) -> str:
    """Who may sign on, in one line."""
    keys = sign_on.jwks or "where its configuration says"
    default = sign_on.default_tenant
    others = f"any other user is of tenant '{default.tenant}'" if default else "nobody else"
    return (
        f"Sign-on: tokens of {sign_on.issuer} for {' or '.join(sign_on.audience)}, signing keys: {keys}; groups with a "
        f"tenant, by '{sign_on.groups_claim}': {len(sign_on.tenants)}, and {others}."
    )
