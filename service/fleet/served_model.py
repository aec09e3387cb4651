"""A served model: an entry of the fleet file with every setting resolved."""

from dataclasses import dataclass, field
from pathlib import Path

from service.catalog.engine_args import EngineValue
from service.catalog.model import Capability, Model
from service.catalog.names import POOLING, Variant
from service.fleet.adapters import Adapter, Room, room
from service.fleet.guardrail import Guardrails
from service.fleet.request_bounds import RequestBounds
from service.fleet.schema import Timeouts
from service.sharing.parts import Part


@dataclass(frozen=True, slots=True)
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

    From these follow `context`, the context length in tokens that the engine runs with, None where only the engine
    knows; `engine_bound`, the sequences that an engine takes at once by a setting of the fleet file, None where it says
    nothing; and `capabilities`, the kinds of request that it can answer. Requests read them without a call.
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

    context: int | None = field(init=False, repr=False, compare=False)
    engine_bound: int | None = field(init=False, repr=False, compare=False)
    capabilities: frozenset[Capability] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        bound = self.engine.get("max_num_queued_reqs")
        object.__setattr__(self, "engine_bound", bound if isinstance(bound, int) else None)
        object.__setattr__(self, "context", self._context())
        own = self.model.capabilities  # a chat template given in the fleet file adds chat
        more = {"chat"} if self.chat_template and self.variant not in POOLING else set()
        object.__setattr__(self, "capabilities", own | more)

    def _context(self) -> int | None:
        length = self.engine.get("max_model_len")
        length = length if isinstance(length, int) and length > 0 else self.model.opening_context
        window = self.model.shape.sliding_window if self.engine.get("disable_sliding_window") else None
        return min(length, window) if length and window else length

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
