"""The fleet file as written: its keys, their types and bounds. docs/fleet.md explains each."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from service.documents import Frozen
from service.flags import EngineKey, EngineSettings
from service.model import Identifier, Infill
from service.names import Specialty, Variant

RESERVED = ("base", "chat", "instruct", "code", "embedding", "auto")


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
    optional: tuple[EngineKey, ...] = ()
    env: dict[str, str | int] = Field(default_factory=dict)


class FleetFile(Frozen):
    """The whole file as written."""

    models: Annotated[tuple[Entry, ...], Field(min_length=1)]
    aliases: dict[Alias, Identifier] = Field(default_factory=dict)
    defaults: dict[Variant, Identifier] = Field(default_factory=dict)
    start: Literal["auto", "together", "in_turn"] = "auto"
    extra_fields: tuple[str, ...] = ()
    engine: EngineSettings = Field(default_factory=dict)
    optional: tuple[EngineKey, ...] = ()
    env: dict[str, str | int] = Field(default_factory=dict)
