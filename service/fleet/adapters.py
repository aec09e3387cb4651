"""The LoRA adapters of an entry: found on disk, and checked against their base before an engine sees them."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from service.architectures.linear_layers import linear_layers
from service.catalog.catalog import Catalog
from service.catalog.engine_args import EngineValue
from service.catalog.model import Model
from service.catalog.names import Variant
from service.fleet.entry_errors import EntryError, existing_path
from service.fleet.schema import AdapterEntry, ModelEntry
from service.weights import adapter, manifest, tensors
from service.weights.adapter import AdapterError, AdapterFiles
from service.weights.store import REPOSITORY, Store

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the values of vLLM's `max_lora_rank`
MOST_VOCABULARY = 258048  # tokens; vLLM starts no engine with adapters for more
LEAST_RANK, LEAST_ACTIVE, MOST_ACTIVE, LEAST_LOADED = 16, 2, 8, 64
CPU_LOADS = 16  # adapters that an engine on the CPU takes
UNQUANTISED = ("F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")

Sizes = tuple[int, int] | None


@dataclass(frozen=True)
class Adapter:
    """LoRA weights on a served model. Requests address them by `id`; its engines read them in the folder `path`.

    `rank` is the highest of its layers, 0 where only an engine elsewhere can read it. With a `variant` of its own it
    is also found by that, and by its `family`. `hub` is the repository that it was pulled from, at a `revision`.
    `weight` and `fallback` are its own, as those of a served model.
    """

    id: str
    path: str
    rank: int = 0
    variant: Variant | None = None
    family: str | None = None
    aliases: tuple[str, ...] = ()
    weight: int | None = None
    fallback: tuple[str, ...] = ()
    hub: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Room:
    """What an engine is started with for adapters, under vLLM's names.

    `max_loras` different ones run in one batch, each of rank `max_lora_rank` at most; `max_cpu_loras` are kept in
    memory, so that none of them is ever read from the disk while requests run. On the `cpu` vLLM gives requests for the
    base what lies in the last of the `max_loras` slots, as soon as others of their batch are for an adapter: so that
    slot must stay empty. Slots are filled from the first on, and one that is unloaded keeps its slot.
    """

    max_loras: int
    max_lora_rank: int
    max_cpu_loras: int
    cpu: bool = False

    @property
    def settings(self) -> dict[str, EngineValue]:
        """As settings of an engine."""
        return {"enable_lora": True} | {key: value for key, value in vars(self).items() if key != "cpu"}

    @property
    def most_loads(self) -> int | None:
        """How many adapters an engine may load from its start to its end; None for any number."""
        return self.max_loras - 1 if self.cpu else None

    def why_not(self, adapters: Collection[Adapter]) -> str | None:
        """Why an engine with this room cannot have these adapters; None if it can."""
        if len(adapters) > self.max_cpu_loras:
            return f"{len(adapters)} adapters are more than the {self.max_cpu_loras} of 'max_cpu_loras'"
        if self.most_loads is not None and len(adapters) > self.most_loads:
            return f"{len(adapters)} adapters need a 'max_loras' of {len(adapters) + 1} or more on the CPU"
        for one in adapters:
            if one.rank > self.max_lora_rank:
                return f"'{one.id}' has rank {one.rank}, more than the {self.max_lora_rank} of 'max_lora_rank'"
        return None


def room(adapters: Collection[Adapter], engine: dict[str, EngineValue], *, cpu: bool) -> Room | None:
    """The room for adapters that the engine settings and the adapters at its start make; None where there is none.

    An engine without adapters has room for later ones where `max_loras` is set.
    """
    if not adapters and not isinstance(engine.get("max_loras"), int):
        return None
    rank = max([LEAST_RANK, *(one.rank for one in adapters)])
    count = len(adapters)
    defaults = {
        "max_loras": max(CPU_LOADS, count) + 1 if cpu else min(max(LEAST_ACTIVE, count), MOST_ACTIVE),
        "max_lora_rank": next(one for one in RANKS if one >= rank),
        "max_cpu_loras": max(LEAST_LOADED, 2 * count),
    }
    active, rank, loaded = (
        value if isinstance(value := engine.get(name), int) and not isinstance(value, bool) else default
        for name, default in defaults.items()
    )
    return Room(active, rank, max(loaded, active) if "max_cpu_loras" not in engine else loaded, cpu)


def read_adapters(
    entry: ModelEntry, model: Model, weights: str, engine: dict[str, EngineValue], folder: Path, catalog: Catalog,
    store: Path | None,
) -> tuple[Adapter, ...]:  # fmt: skip
    """The adapters of an entry, whose base is `model` with these weights; raises EntryError for one that does not fit.

    Those of engines elsewhere are not looked for, nor are pulled ones where there is no `store`.
    """
    if not entry.adapters:
        return ()
    base = _Base.of(entry, model, weights, catalog)
    found = []
    for index, one in enumerate(entry.adapters):
        path = _folder(entry, one, index, folder, store)
        rank = 0
        if path and not entry.addresses:
            try:
                files = adapter.read(Path(path))
                rank = files.rank
                for problem in base.problems(files, one.base):
                    raise AdapterError(problem)
            except AdapterError as error:
                raise EntryError("adapters", str(error), (index, "hub" if one.hub else "path")) from None
        found.append(
            Adapter(
                one.id, path, rank, one.variant, one.family, one.aliases, one.weight, one.fallback, one.hub,
                one.revision,
            )
        )  # fmt: skip
    if not entry.addresses:
        _check_room(model, engine, found, cpu=not entry.gpus and not entry.share)
    return tuple(found)


def _check_room(model: Model, engine: dict[str, EngineValue], adapters: Collection[Adapter], *, cpu: bool) -> None:
    rank = engine.get("max_lora_rank")
    if rank is not None and rank not in RANKS:
        raise EntryError("engine", f"is {rank!r:.40}, and vLLM takes {', '.join(map(str, RANKS))}", ("max_lora_rank",))
    made = room(adapters, engine, cpu=cpu)
    if made and (problem := made.why_not(adapters)):
        raise EntryError("adapters", f"{problem}: change that in 'engine', or leave it out there")
    if (model.shape.vocab_size or 0) > MOST_VOCABULARY:
        raise EntryError("adapters", f"vLLM serves no adapters on a model with more than {MOST_VOCABULARY:,} tokens")


def _folder(entry: ModelEntry, one: AdapterEntry, index: int, folder: Path, store: Path | None) -> str:
    """The folder of an adapter: its `path`, or where its repository was pulled to."""
    if one.path and one.hub:
        raise EntryError("adapters", "give 'path' or 'hub', not both", (index, "hub"))
    if one.path:
        return existing_path(one.path, folder, "adapters", (index, "path"), must_exist=not entry.addresses)
    if entry.addresses:
        return ""
    if not one.hub:
        raise EntryError("adapters", "is missing; or give 'hub', a repository that was pulled", (index, "path"))
    at = (index, "hub")
    if not REPOSITORY.fullmatch(one.hub):
        raise EntryError("adapters", f"'{one.hub}' is no repository (organisation/name); a folder is a 'path'", at)
    if store is None:
        return ""
    pulled = Store(store).pulled(one.hub)
    if pulled is None:
        raise EntryError("adapters", f"{one.hub} has not been pulled: run 'roundhouse pull {one.hub}'", at)
    try:
        revision = manifest.read(pulled).revision
    except manifest.ManifestError as error:
        raise EntryError("adapters", f"{pulled / manifest.MANIFEST} {error}; pull it again", at) from None
    if one.revision and revision != one.revision:
        raise EntryError(
            "adapters",
            f"{pulled} holds revision {revision}, and not {one.revision}: pull it again",
            (index, "revision"),
        )
    return str(pulled)


@dataclass(frozen=True)
class _Base:
    """What is known of the base: `names` that an adapter may call it, and the sizes of its layers by name.

    `layers` are read from its weights; where these are not on disk it is empty, and `common` has the sizes that its
    shape gives to layers of Llama's names.
    """

    id: str
    names: frozenset[str]
    layers: dict[str, Sizes]
    common: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, entry: ModelEntry, model: Model, weights: str, catalog: Catalog) -> "_Base":
        copies = [copy.hub for copy in model.copies]
        names = {entry.model, entry.id, model.id, model.hub, model.path, weights, *copies}
        folder = Path(weights)
        local = folder.is_dir() and weights != model.hub
        layers = dict(_layers(folder)) if local else {}
        common = {one.name: (one.inputs, one.outputs) for one in linear_layers(model.shape) or ()}
        return cls(model.id, frozenset(_name(name) for name in names if name), layers, common)

    def problems(self, files: AdapterFiles, called: str | None) -> Iterator[str]:
        """Why the adapter does not belong on this base. `called` is what the fleet file says the adapter calls it."""
        if called is not None and called != files.base:
            yield files.problem("base_model_name_or_path", f"is '{files.base:.128}', and 'base' says '{called:.128}'")
        if called is None and _name(files.base) not in self.names:
            yield files.problem(
                "base_model_name_or_path",
                f"is '{files.base:.128}', and this entry serves '{self.id}': put the adapter under the model that it "
                f"was trained on. If that is the same under another name, say so with 'base: {files.base:.128}'",
            )
        for module, sizes in files.modules.items():
            known = self._sizes(module)
            if known is False:
                yield (
                    f"{files.folder / adapter.WEIGHTS}: '{module:.120}' is no layer of '{self.id}': the adapter was "
                    "trained on another model"
                )
            elif known and sizes and sizes != (tuple(reversed(known)) if files.transposed else known):
                yield (
                    f"{files.folder / adapter.WEIGHTS}: '{module:.120}' has {sizes[0]} inputs and {sizes[1]} outputs, "
                    f"and that of '{self.id}' has {known[0]} and {known[1]}: the adapter was trained on another model"
                )

    def _sizes(self, module: str) -> Sizes | Literal[False]:
        """Inputs and outputs of a layer; None where they are not known, and False where there is no such layer."""
        if not self.layers:
            return self.common.get(module.rpartition(".")[2])
        if ".experts" in module:
            return None
        return self.layers.get(_within(module), False)


def _layers(folder: Path) -> Iterator[tuple[str, Sizes]]:
    """The layers in a folder of weights, by their names from the number of the layer on; None: of unknown size."""
    for path in sorted(folder.glob("*.safetensors")):
        if tensors.problem(path):
            continue  # the engine reports it when it starts
        for name, tensor in tensors.described(path).items():
            module, _, kind = name.rpartition(".")
            shape = tensor["shape"]
            plain = kind == "weight" and tensor["dtype"] in UNQUANTISED and len(shape) == 2
            if plain:
                yield _within(module), (shape[1], shape[0])
            elif kind not in ("weight", "bias"):
                yield _within(module), None


def _within(module: str) -> str:
    """`model.layers.0.mlp.up_proj` → `0.mlp.up_proj`: releases of transformers begin these names differently."""
    parts = module.split(".")
    first = next((index for index, part in enumerate(parts) if part.isdecimal()), len(parts) - 1)
    return ".".join(parts[first:])


def _name(name: str) -> str:
    """What a model is called, without who published it or where it lies."""
    return name.rstrip("/").rpartition("/")[2].lower()
