"""The conformance cases: one scaled-down network for each network structure in the catalogue."""

from collections.abc import Iterable
from dataclasses import dataclass

from service.architectures import scaled_down
from service.architectures.parameters import count_parameters
from service.architectures.registry import Architecture
from service.architectures.shape import Shape
from service.catalog.catalog import Catalog
from service.catalog.model import Model, Tokens


@dataclass(frozen=True)
class Case:
    """A network structure: the first model that has it, the ids of all models that do, and the scaled-down shape."""

    model: Model
    network: Architecture
    shape: Shape
    models: tuple[str, ...]

    @property
    def name(self) -> str:
        """The id of the first model."""
        return self.model.id

    def scaled_down(self) -> Model:
        """The model with the scaled-down network, in float32, as an entry whose `path` is its id."""
        tokens, full, small = self.model.tokens, self.model.shape.vocab_size or 0, self.shape.vocab_size or 0
        scaled_tokens = Tokens(
            bos=None if tokens.bos is None else scaled_down.scale_token_id(tokens.bos, full, small),
            eos=tuple(scaled_down.scale_token_id(token, full, small) for token in tokens.eos),
        )
        changed = {
            "hub": None, "path": self.model.id, "revision": None, "longest": None, "chat": None, "infill": None,
            "vision": False, "thinking": None,
            "copies": (),
            "architecture": self.network.text_class or self.model.architecture, "dtype": "float32",
            "context": scaled_down.CONTEXT, "shape": self.shape, "tokens": scaled_tokens,
            "parameters": count_parameters(self.network, self.shape, scaled_down.CONTEXT),
        }  # fmt: skip
        return self.model.model_copy(update=changed)


@dataclass(frozen=True)
class Skipped:
    """A model for which no scaled-down network can be run, and why."""

    model: str
    why: str


def cases(catalog: Catalog, ids: Iterable[str] | None = None) -> tuple[list[Case], list[Skipped]]:
    """One case for each structure among the models with these ids (all if None), and the models that have none.

    Models share a case if their scaled-down networks differ only in widths, vocabulary size and RoPE base.
    """
    models = [catalog.models[model_id] for model_id in ids] if ids is not None else list(catalog.models.values())
    members: dict[str, list[Model]] = {}
    networks: dict[str, tuple[Architecture, Shape]] = {}
    skipped = []
    for model in models:
        network = model.network
        if network and network.refused:
            skipped.append(Skipped(model.id, network.refused))
            continue
        if model.variant == "reranker":
            skipped.append(Skipped(model.id, "a reranker gives scores, which are not compared"))
            continue
        shape = scaled_down.scale_down(network, model.shape, model.context) if network else None
        if network is None or shape is None:
            skipped.append(Skipped(model.id, "its architecture, or a size of its network, is unknown"))
            continue
        key = repr((model.architecture, _structure(shape), model.variant == "embedding"))
        members.setdefault(key, []).append(model)
        networks.setdefault(key, (network, shape))
    found = [Case(group[0], *networks[key], tuple(model.id for model in group)) for key, group in members.items()]
    return found, skipped


def _structure(shape: Shape) -> tuple[Shape, bool]:
    """What distinguishes structures: the shape without widths, and whether all heads are as wide as the hidden size."""
    widths = dict.fromkeys(("hidden_size", "intermediate_size", "moe_intermediate_size", "vocab_size", "rope_theta"))
    heads_fill_hidden_size = shape.hidden_size == (shape.num_attention_heads or 0) * (shape.head_dim or 0)
    return shape.model_copy(update=widths), heads_fill_hidden_size
