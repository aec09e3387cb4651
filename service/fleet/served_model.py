"""A served model: an entry of the fleet file with every setting resolved."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from service.catalog.engine_args import EngineValue
from service.catalog.model import Capability, Model
from service.catalog.names import POOLING, Variant
from service.fleet.adapters import Adapter, Room, room
from service.fleet.guardrail import Guardrails
from service.fleet.request_bounds import RequestBounds
from service.fleet.schema import Timeouts
from service.sharing.parts import Part


@dataclass(frozen=True)
class ServedModel:
    """A model of the fleet with every setting resolved: what it is, where its weights are, how its engines run.

    `weights` is a directory or a hub id. `min_replicas` engines always run, and up to `max_replicas` under load; one
    above the minimum stops after `scale_down_after` seconds without demand. With `addresses` the engines are external:
    Roundhouse does not start them. `parser_choice` says which of vLLM's parsers were chosen for a model outside of the
    catalogue, and why. `gpu_hour_price` is what one GPU costs for an hour.
    `max_in_flight` bounds the sequences at one replica, `max_queued` the requests that wait.
    `weight` is its part of the requests to an alias that other models have too. `fallback` are the models that may
    answer in its place, in order.
    `request_bounds` is how much one request may ask of an engine, `guardrails` are what judges requests and answers.
    `part` is what its engine takes of memory that it shares, and `stays_cold` says that it should sleep and cannot.
    """

    id: str
    model: Model
    family: str
    weights: str
    chat_template: Path | None
    min_replicas: int = 1
    max_replicas: int = 1
    scale_down_after: float = 300.0
    gpus: int = 0
    gpu_hour_price: float | None = None
    addresses: tuple[str, ...] = ()
    policy: str = "prefix_affinity"
    max_in_flight: int = 256
    max_queued: int = 512
    timeouts: Timeouts = Timeouts()
    aliases: tuple[str, ...] = ()
    weight: int | None = None
    fallback: tuple[str, ...] = ()
    adapters: tuple[Adapter, ...] = ()
    engine: dict[str, EngineValue] = field(default_factory=dict)
    optional_flags: frozenset[str] = frozenset()
    env: dict[str, str] = field(default_factory=dict)
    parser_choice: str | None = None
    request_bounds: RequestBounds = RequestBounds()
    guardrails: Guardrails = Guardrails()
    part: Part | None = None
    stays_cold: bool = False

    @property
    def gpus_held(self) -> float:
        """The GPUs that one of its engines holds: of cards that it shares, the part that their memory is."""
        return self.gpus * (self.part.memory / self.part.share.memory if self.part else 1.0)

    @property
    def variant(self) -> Variant:
        """The fine-tuning objective."""
        return self.model.variant

    @property
    def downloads(self) -> bool:
        """Whether its engines get their weights from the hub themselves, as they were not pulled before."""
        return self.weights == self.model.hub

    @property
    def adapter_room(self) -> Room | None:
        """What its engines are started with for adapters; None where they have none and get none."""
        return room(self.adapters, self.engine, cpu=not self.gpus)

    @cached_property
    def context(self) -> int | None:
        """The context length in tokens that the engine runs with; None where only the engine knows."""
        length = self.engine.get("max_model_len")
        length = length if isinstance(length, int) and length > 0 else self.model.opening_context
        window = self.model.shape.sliding_window if self.engine.get("disable_sliding_window") else None
        return min(length, window) if length and window else length

    @cached_property
    def engine_bound(self) -> int | None:
        """The sequences that an engine takes at once by a setting of the fleet file; None where it says nothing."""
        bound = self.engine.get("max_num_queued_reqs")
        return bound if isinstance(bound, int) else None

    @cached_property
    def capabilities(self) -> frozenset[Capability]:
        """The kinds of request that it can answer; a chat template given in the fleet file adds chat."""
        own = self.model.capabilities
        return own | {"chat"} if self.chat_template and self.variant not in POOLING else own
