"""Who asks: what a tenant may do and how much of the service is theirs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from service.config.strict_yaml import Frozen
from service.errors import ApiError, ErrorCode

Priority = Literal["interactive", "default", "batch"]

DEFAULT = "default"  # whoever does not say who they are
PRIORITIES: tuple[Priority, ...] = ("interactive", "default", "batch")  # the first goes first


class TenantEntry(Frozen):
    """One tenant as written in the fleet file; docs/fleet.md explains each key."""

    weight: PositiveFloat = 1.0
    priority: Priority = "interactive"
    max_in_flight: PositiveInt | None = None
    requests_per_minute: PositiveInt | None = None
    tokens_per_minute: PositiveInt | None = None


@dataclass(frozen=True)
class Tenant:
    """One tenant. `weight` is its share where requests wait; `priority` the highest that it may ask for.

    The budgets are of all gateways together; None is no bound. Tokens are those of prompts and answers.
    """

    id: str
    weight: float = 1.0
    priority: Priority = "interactive"
    max_in_flight: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def shared(self, gateways: int) -> "Tenant":
        """The part of this tenant's budgets that one of so many gateways grants."""
        bounds = {
            name: max(1, bound // gateways)
            for name in ("max_in_flight", "requests_per_minute", "tokens_per_minute")
            if (bound := getattr(self, name)) is not None
        }
        return replace(self, **bounds)


def priority(tenant: Tenant, asked: Priority | None) -> Priority:
    """What a request of this tenant gets: what it asked for, `default` where it did not say, never above its own."""
    asked = asked or "default"
    return asked if PRIORITIES.index(asked) >= PRIORITIES.index(tenant.priority) else tenant.priority


def find(tenants: Mapping[str, Tenant], name: str | None) -> Tenant:
    """The tenant that a request names, or the default one; raises 400 for one that the fleet file does not know."""
    found = tenants.get(name or DEFAULT)
    if found:
        return found
    if name is None:
        return Tenant(DEFAULT)
    raise ApiError(ErrorCode.UNKNOWN_TENANT, f"There is no tenant '{name[:64]}' here. The fleet file lists them.")
