"""The fleet file as written: its keys, their types and bounds. docs/fleet.md explains each."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt

from service.catalog import EngineValue, Identifier, Infill, Variant
from service.documents import Frozen
from service.names import Specialty

# Set from elsewhere in the fleet or by the gateway; a second value would contradict it or open the engine to others.
OURS = {
    "model": "the entry's 'model' or 'weights'",
    "served_model_name": "the entry's 'id'",
    "uds": "Roundhouse: engines listen on private sockets",
    "host": "Roundhouse: engines listen on private sockets",
    "port": "Roundhouse: engines listen on private sockets",
    "api_key": "Roundhouse: engines listen on private sockets",
    "config": "this file: vLLM's own could set anything behind it",
    "disable_fastapi_docs": "Roundhouse: always on",
    "fingerprint_mode": "Roundhouse: always 'none'",
    "enable_prompt_tokens_details": "Roundhouse: always on",
    "middleware": "nobody: it breaks cancellation",
    "chat_template": "the entry's 'template'",
    "lora_modules": "the entry's 'adapters'",
    "enable_lora": "the entry's 'adapters'",
    "shutdown_timeout": "ROUNDHOUSE_DRAIN_TIMEOUT",
    "enable_log_requests": "nobody: prompts are never logged",
    "enable_log_outputs": "nobody: outputs are never logged",
}
RESERVED = ("base", "chat", "instruct", "code", "embedding", "auto")


def _theirs(key: str) -> str:
    if key in OURS:
        raise ValueError(f"is set by {OURS[key]}")
    return key


EngineKey = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$"), AfterValidator(_theirs)]
EngineSettings = dict[EngineKey, EngineValue]
Alias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")]


class Adapter(Frozen):
    """LoRA weights on a served model, with an id of their own."""

    id: Identifier
    path: str


class Entry(Frozen):
    """One served model as written in the file; docs/fleet.md explains each key."""

    model: str
    id: Identifier | None = None
    weights: str | None = None
    variant: Variant | None = None
    family: Identifier | None = None
    version: str | None = None
    size: str | None = None
    specialty: Specialty | None = None
    context: PositiveInt | None = None
    template: str | None = None
    infill: Infill | None = None
    replicas: Annotated[int, Field(ge=1, le=64)] = 1
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    policy: Literal["least_load", "round_robin"] = "least_load"
    max_in_flight: PositiveInt = 256
    aliases: tuple[Alias, ...] = ()
    adapters: tuple[Adapter, ...] = ()
    engine: EngineSettings = Field(default_factory=dict)
    env: dict[str, str | int] = Field(default_factory=dict)


class FleetFile(Frozen):
    """The whole file as written."""

    models: Annotated[tuple[Entry, ...], Field(min_length=1)]
    aliases: dict[Alias, Identifier] = Field(default_factory=dict)
    defaults: dict[Variant, Identifier] = Field(default_factory=dict)
    start: Literal["auto", "together", "in_turn"] = "auto"
    extra_fields: tuple[str, ...] = ()
    engine: EngineSettings = Field(default_factory=dict)
    env: dict[str, str | int] = Field(default_factory=dict)
