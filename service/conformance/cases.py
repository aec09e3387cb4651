"""What is to be proven: one small network for each structure that the catalogue's models have."""

from collections.abc import Iterable
from dataclasses import dataclass

from service.architectures import scaled_down as small_shapes
from service.architectures.parameters import parameters
from service.architectures.registry import Architecture
from service.architectures.shape import Shape
from service.catalog.catalog import Catalog
from service.catalog.model import Model, Tokens


@dataclass(frozen=True)
class Case:
    """A structure: the first model that has it, the ids of all that do, and its small shape."""

    model: Model
    network: Architecture
    shape: Shape
    models: tuple[str, ...]

    @property
    def name(self) -> str:
        """The id of the model it was made from."""
        return self.model.id

    def scaled_down(self) -> Model:
        """The model with its small network, as if it were embedded in a folder of its id."""
        tokens, large, little = self.model.tokens, self.model.shape.vocab_size or 0, self.shape.vocab_size or 0
        reduced = Tokens(
            bos=None if tokens.bos is None else small_shapes.token(tokens.bos, large, little),
            eos=tuple(small_shapes.token(one, large, little) for one in tokens.eos),
        )
        changed = {
            "hub": None, "path": self.model.id, "revision": None, "longest": None, "chat": None, "infill": None,
            "copies": (),
            "architecture": self.network.text_class or self.model.architecture, "dtype": "float32",
            "context": small_shapes.CONTEXT, "shape": self.shape, "tokens": reduced,
            "parameters": parameters(self.network, self.shape, small_shapes.CONTEXT),
        }  # fmt: skip
        return self.model.model_copy(update=changed)


@dataclass(frozen=True)
class Unproven:
    """A model of which no small network can be run, and why."""

    model: str
    why: str


def cases(catalog: Catalog, ids: Iterable[str] | None = None) -> tuple[list[Case], list[Unproven]]:
    """One case for each structure among the models with these ids (all if None), and those that have none.

    Models share a case when their small networks differ in nothing but widths and the base of their rotary positions.
    """
    wanted = [catalog.models[one] for one in ids] if ids is not None else list(catalog.models.values())
    found: dict[str, list[Model]] = {}
    made: dict[str, tuple[Architecture, Shape]] = {}
    unproven = []
    for model in wanted:
        if why := _obstacle(model):
            unproven.append(Unproven(model.id, why))
            continue
        network, shape = model.network, None
        if network:
            shape = small_shapes.small(network, model.shape, model.context)
        if network is None or shape is None:
            unproven.append(Unproven(model.id, "its architecture or shape is not known well enough"))
            continue
        key = repr((model.architecture, _structure(shape), model.variant == "embedding"))
        found.setdefault(key, []).append(model)
        made.setdefault(key, (network, shape))
    return [Case(models[0], *made[key], tuple(one.id for one in models)) for key, models in found.items()], unproven


def _structure(shape: Shape) -> tuple[Shape, bool]:
    widths = dict.fromkeys(("hidden_size", "intermediate_size", "moe_intermediate_size", "vocab_size", "rope_theta"))
    as_wide_as_its_heads = shape.hidden_size == (shape.num_attention_heads or 0) * (shape.head_dim or 0)
    return shape.model_copy(update=widths), as_wide_as_its_heads


def _obstacle(model: Model) -> str | None:
    return model.network.refused if model.network else None
