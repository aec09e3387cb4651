"""The schema of the fleet file: its keys, their types and bounds. docs/fleet.md explains each."""

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt

from service.auth.sign_on import SignOn
from service.auth.tenants import TenantEntry
from service.catalog.engine_args import EngineKey, EngineSettings
from service.catalog.model import Identifier, Infill, ModelId
from service.catalog.names import Specialty, Variant
from service.config.strict_yaml import Frozen
from service.fleet.cors import Cors
from service.fleet.engine_variables import FIXED, NEVER
from service.fleet.guardrail import GuardrailEntry, GuardrailNames
from service.fleet.image_bounds import ImageBounds
from service.fleet.request_bounds import RequestBounds
from service.fleet.share_entry import ShareEntry, Size
from service.observability.prompt_log import PATTERNS
from service.sharing.parts import Keep

# Names that a request may give instead of a model's, so that no model or alias may have them.
RESERVED = (*get_args(Variant), "auto")

KV_CACHE_SPACE = "VLLM_CPU_KVCACHE_SPACE"  # bounds the KV cache of vLLM's CPU build


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return text


def _with_port(address: str) -> str:
    if not address.startswith("/") and not 0 < int(address.rpartition(":")[2]) < 2**16:
        raise ValueError("has no port between 1 and 65535")
    return address


def _settable(env: dict[str, str | int]) -> dict[str, str | int]:
    for name, value in env.items():
        if not name or "=" in name:
            raise ValueError(f"{name!r:.60} cannot be the name of a variable")
        if name in FIXED or name in NEVER:
            what = f"is always {FIXED[name]}" if name in FIXED else "is never set"
            raise ValueError(f"{name} {what} for an engine: leave it out")
        if name == KV_CACHE_SPACE and not str(value).isdecimal():
            raise ValueError(f"{name} is a whole number of GiB, and {value!r:.60} is none")
    return env


Pattern = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_pattern)]
Environment = Annotated[dict[str, str | int], AfterValidator(_settable)]
Alias = Annotated[str, Field(pattern=r"^[^\W_][\w.:@\[\]/-]*$", max_length=128)]
# `host:port`, where a DNS name stands for all of its addresses; or the absolute path of a Unix socket.
Address = Annotated[
    str, Field(pattern=r"^(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$|^/.{1,106}$"), AfterValidator(_with_port)
]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Auth = Literal["keys", "none"]
PrefixCache = Literal["tenant", "shared"]
Weight = Annotated[int, Field(ge=0, le=1_000_000)]
Policy = Literal["prefix_affinity", "least_load", "power_of_two", "round_robin"]


class AdapterEntry(Frozen):
    """LoRA weights on a served model, in a folder or pulled from the hub; docs/fine-tunes.md explains the keys.

    `base` is what the adapter's own configuration calls the model, where that is another name than this entry's.
    """

    id: ModelId
    path: str | None = None
    hub: str | None = None
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    base: str | None = None
    variant: Variant | None = None
    family: Identifier | None = None
    aliases: tuple[Alias, ...] = ()
    weight: Weight | None = None
    fallback: tuple[ModelId, ...] = ()


class Timeouts(Frozen):
    """Timeouts of requests to one model, in seconds; None means the gateway's setting.

    `queue`: waiting for a slot at a replica. `activation`: waiting for a model that is scaled to zero. `first_token`,
    `idle`, `total`: until a stream's first output, between two outputs, and for the whole response.
    """

    queue: PositiveFloat | None = None
    activation: PositiveFloat | None = None
    first_token: PositiveFloat | None = None
    idle: PositiveFloat | None = None
    total: PositiveFloat | None = None


class ModelEntry(Frozen):
    """One entry of `models`: everything but `model` has a default. `scale_down_after` is in seconds."""

    model: str
    id: ModelId | None = None
    weights: str | None = None
    variant: Variant | None = None
    family: Identifier | None = None
    version: str | None = None
    size: str | None = None
    specialty: Specialty | None = None
    context: PositiveInt | None = None
    chat_template: str | None = None
    infill: Infill | None = None
    vision: bool | None = None
    min_replicas: Annotated[int, Field(ge=0, le=64)] = 1
    max_replicas: Annotated[int, Field(ge=1, le=64)] | None = None
    scale_down_after: PositiveFloat = 300.0
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    gpu_hour_price: Price | None = None
    share: Identifier | None = None
    keep: Keep | None = None
    memory: Size | None = None
    addresses: tuple[Address, ...] = ()
    policy: Policy = "prefix_affinity"
    max_in_flight: PositiveInt = 256
    max_queued: Annotated[int, Field(ge=0)] = 512
    timeouts: Timeouts = Timeouts()
    aliases: tuple[Alias, ...] = ()
    weight: Weight | None = None
    fallback: tuple[ModelId, ...] = ()
    adapters: tuple[AdapterEntry, ...] = ()
    guardrails: GuardrailNames | None = None
    engine: EngineSettings = Field(default_factory=dict)
    optional_flags: tuple[EngineKey, ...] = ()
    env: Environment = Field(default_factory=dict)


class FleetFile(Frozen):
    """The whole file. `engine`, `optional_flags` and `env` apply to every model; an entry adds to or overrides them."""

    models: Annotated[tuple[ModelEntry, ...], Field(min_length=1)]
    auth: Auth = "keys"
    sign_on: SignOn | None = None
    aliases: dict[Alias, ModelId] = Field(default_factory=dict)
    defaults: dict[Variant, ModelId] = Field(default_factory=dict)
    gpu_hour_price: Price | None = None
    shares: dict[Identifier, ShareEntry] = Field(default_factory=dict)
    startup: Literal["auto", "parallel", "sequential"] = "auto"
    extra_fields: tuple[str, ...] = ()
    unknown_fields: Literal["ignore", "refuse"] = "ignore"
    prefix_cache: PrefixCache = "tenant"
    request_bounds: RequestBounds = RequestBounds()
    images: ImageBounds = ImageBounds()
    cors: Cors = Cors()
    redact: Annotated[tuple[Pattern, ...], Field(max_length=32)] = PATTERNS
    guardrails: dict[Identifier, GuardrailEntry] = Field(default_factory=dict)
    default_guardrails: GuardrailNames = GuardrailNames()
    tenants: dict[Identifier, TenantEntry] = Field(default_factory=dict)
    engine: EngineSettings = Field(default_factory=dict)
    optional_flags: tuple[EngineKey, ...] = ()
    env: Environment = Field(default_factory=dict)
