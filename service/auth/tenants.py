"""Tenants as the fleet file declares them, and what each may use: weight, priority, limits."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from service.config.strict_yaml import Frozen
from service.errors import ApiError, ErrorCode

Priority = Literal["interactive", "default", "batch"]

# Fields by which a request can be made to cost more than its tokens, or to show or break what a model's format hides.
OptInField = Literal[
    "allowed_token_ids",
    "bad_words",
    "ignore_eos",
    "include_stop_str_in_output",
    "logprob_token_ids",
    "min_tokens",
    "prompt_logprobs",
    "return_prompt_text",
    "return_token_ids",
    "return_token_offsets",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "stop_token_ids",
    "stream_interval",
    "structured_outputs",
    "thinking_token_budget",
    "truncate_prompt_tokens",
    "truncation_side",
]
DEFAULT_TENANT = "default"  # of a request that names none
BUDGETS = ("requests_per_minute", "tokens_per_minute", "requests_per_day", "tokens_per_day")
PRIORITIES: tuple[Priority, ...] = ("interactive", "default", "batch")  # highest first


def lower_priority(one: Priority, other: Priority) -> Priority:
    """The lower one of two priorities."""
    return one if PRIORITIES.index(one) >= PRIORITIES.index(other) else other


class TenantEntry(Frozen):
    """One tenant as written in the fleet file; docs/fleet.md explains each key."""

    weight: PositiveFloat = 1.0
    priority: Priority = "interactive"
    max_in_flight: PositiveInt | None = None
    requests_per_minute: PositiveInt | None = None
    tokens_per_minute: PositiveInt | None = None
    requests_per_day: PositiveInt | None = None
    tokens_per_day: PositiveInt | None = None
    max_output_tokens: PositiveInt | None = None
    log_prompts: bool = False
    allow_fields: tuple[OptInField, ...] | Literal["all"] | None = None


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant. `weight` is its relative share in the fair queue; `priority` the highest that it may request.

    The limits hold for all gateway processes together; None means unlimited. Tokens are those of prompt and completion,
    and a day is one of UTC. `max_output_tokens` bounds what each sequence of a request may generate. `log_prompts` says
    whether what it asks and gets is logged. Of the fields that are opened for single tenants (`OptInField`) it may have
    those of `allow_fields`; None means all for the default tenant, and none for others.

    From these follow `opened_fields`, those that it may have, where None means all of them; `has_budgets`, whether its
    requests or tokens in some span of time are limited; `is_limited`, whether there is anything to count for it; and
    `usual_priority`, that of its requests that ask for none.
    """

    id: str
    weight: float = 1.0
    priority: Priority = "interactive"
    max_in_flight: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    requests_per_day: int | None = None
    tokens_per_day: int | None = None
    max_output_tokens: int | None = None
    log_prompts: bool = False
    allow_fields: tuple[OptInField, ...] | Literal["all"] | None = None

    opened_fields: tuple[OptInField, ...] | None = field(init=False, repr=False, compare=False)
    has_budgets: bool = field(init=False, repr=False, compare=False)
    is_limited: bool = field(init=False, repr=False, compare=False)
    usual_priority: Priority = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        opened = None if self.allow_fields == "all" else self.allow_fields or ()
        if self.allow_fields is None and self.id == DEFAULT_TENANT:
            opened = None
        has_budgets = any(getattr(self, name) is not None for name in BUDGETS)
        for name, value in (
            ("opened_fields", opened), ("has_budgets", has_budgets),
            ("is_limited", has_budgets or self.max_in_flight is not None),
            ("usual_priority", lower_priority("default", self.priority)),
        ):  # fmt: skip
            object.__setattr__(self, name, value)

    def per_gateway(self, gateways: int) -> "Tenant":
        """This tenant with its limits divided by the number of gateway processes; each is at least 1."""
        shares = {
            name: max(1, limit // gateways)
            for name in ("max_in_flight", *BUDGETS)
            if (limit := getattr(self, name)) is not None
        }
        return replace(self, **shares)


@lru_cache
def unlisted(name: str) -> Tenant:
    """A tenant without limits, which the fleet file does not list: the same one for each request."""
    return Tenant(name)


def effective_priority(tenant: Tenant, requested: Priority | None) -> Priority:
    """The priority of a request: `default` if it requests none, and never above the tenant's own."""
    return tenant.usual_priority if requested is None else lower_priority(requested, tenant.priority)


def find_tenant(tenants: Mapping[str, Tenant], name: str | None) -> Tenant:
    """The tenant of that name, the default one for None; raises ApiError 400 if the fleet file does not list it."""
    found = tenants.get(name or DEFAULT_TENANT)
    if found:
        return found
    if name is None:
        return unlisted(DEFAULT_TENANT)
    raise ApiError(ErrorCode.UNKNOWN_TENANT, f"There is no tenant '{name[:64]}' here. The fleet file lists them.")
