"""One entry of the fleet file, completed from the catalogue, the weights on disk and the model's name."""

import json
import re
from pathlib import Path

from service.catalog import names
from service.catalog.catalog import Catalog
from service.catalog.chat_templates import template_for
from service.catalog.engine_args import EngineValue
from service.catalog.model import Chat, Model
from service.catalog.names import Specialty, Variant
from service.fleet.schema import Adapter, FleetFile, ModelEntry
from service.fleet.served_model import ServedModel
from service.weights import manifest
from service.weights.store import Store

COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


class EntryError(Exception):
    """What is wrong with one entry: `key` is the key of the file that it is about."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key, self.message = key, message


def served_model(
    entry: ModelEntry, written: FleetFile, catalog: Catalog, folder: Path, store: Path | None
) -> ServedModel:
    """The entry with everything resolved; `folder` is where relative paths start. Raises EntryError."""
    known = catalog.find(entry.model)
    model = _overridden(known, entry) if known else _uncatalogued(entry, folder)
    engine = {**written.engine, **model.engine, **entry.engine}
    _check_length(model, engine, {**written.env, **entry.env})
    if stray := next((name for name in entry.optional_flags if name not in engine), None):
        raise EntryError("optional_flags", f"'{stray}' is not among the 'engine' settings of this model")
    most = entry.max_replicas or max(1, entry.min_replicas)
    if entry.min_replicas > most:
        raise EntryError("min_replicas", f"{entry.min_replicas} is more than the {most} of 'max_replicas'")
    if entry.weights:
        weights = _existing(entry.weights, folder, "weights")
    elif model.hub:
        weights = _pulled(model.hub, engine.get("revision", model.revision), store) or model.hub
    else:
        weights = str(catalog.folder / str(model.path))
    if model.context is None and weights != model.hub:
        model = model.model_copy(update={"context": _context_in(Path(weights))})
    template = _existing(entry.chat_template, folder, "chat_template") if entry.chat_template else None
    if template is None and model.chat:
        ours = template_for(model.chat, Path(weights) if weights != model.hub else None)
        template = str(catalog.folder / "templates" / ours) if ours else None
    adapters = tuple(Adapter(id=one.id, path=_existing(one.path, folder, "adapters")) for one in entry.adapters)
    return ServedModel(
        id=entry.id or model.id,
        model=model,
        family=entry.family or (catalog.family_of[known.id] if known else names.parse(entry.model).family) or model.id,
        weights=weights,
        chat_template=Path(template) if template else None,
        min_replicas=entry.min_replicas,
        max_replicas=most,
        scale_down_after=entry.scale_down_after,
        gpus=entry.gpus,
        addresses=entry.addresses,
        policy=entry.policy,
        max_in_flight=entry.max_in_flight,
        max_queued=entry.max_queued,
        timeouts=entry.timeouts,
        aliases=entry.aliases,
        adapters=adapters,
        engine=engine,
        optional_flags=frozenset({*written.optional_flags, *entry.optional_flags}),
        env={key: str(value) for key, value in {**written.env, **entry.env}.items()},
    )


def _check_length(model: Model, engine: dict[str, EngineValue], env: dict[str, str | int]) -> None:
    """Raises where vLLM would refuse the context, unless the operator stretches it with settings of their own."""
    length = engine.get("max_model_len")
    own = {"hf_overrides", "rope_scaling"} & engine.keys() or "VLLM_ALLOW_LONG_MAX_MODEL_LEN" in env
    if isinstance(length, int) and not own and (problem := model.too_long(length)):
        raise EntryError("engine", f"{problem}. To stretch it all the same give 'hf_overrides' for its positions")


def _pulled(repository: str, revision: EngineValue, store: Path | None) -> str | None:
    """Where the store has the weights of a repository, if it has; a commit other than the wanted one is refused."""
    place = Store(store).pulled(repository) if store else None
    if place is None:
        return None
    try:
        found = manifest.read(place).revision
    except manifest.ManifestError as error:
        raise EntryError("model", f"{place / manifest.MANIFEST} {error}; pull the model again") from None
    if found and isinstance(revision, str) and COMMIT.fullmatch(revision) and found != revision:
        raise EntryError(
            "model",
            f"{place} holds revision {found}, and {revision} is wanted: pull the model again, or name the weights "
            "that you mean with 'weights:' or 'engine: {revision: …}'",
        )
    return str(place)


def _overridden(known: Model, entry: ModelEntry) -> Model:
    said = {key: value for key in ("variant", "version", "size", "context", "infill")
            if (value := getattr(entry, key)) is not None}  # fmt: skip
    variant = entry.variant or known.variant
    specialty = _specialty(entry, variant, known.specialty)
    if (variant, specialty) != (known.variant, known.specialty):
        # Another fine-tuning than the catalogue's: whether it converses follows from what the entry says.
        said |= {"specialty": specialty, "chat": (known.chat or Chat()) if _converses(variant, specialty) else None}
    return known.model_copy(update=said)


def _specialty(entry: ModelEntry, variant: Variant, otherwise: Specialty | None) -> Specialty | None:
    if variant == "code":
        return entry.specialty or otherwise
    if entry.specialty:
        raise EntryError("specialty", f"only a model of variant 'code' has a specialty; this one is '{variant}'")
    return None


def _converses(variant: Variant, specialty: Specialty | None) -> bool:
    return variant in ("chat", "instruct") or specialty == "instruct"


def _uncatalogued(entry: ModelEntry, folder: Path) -> Model:
    """A model that only the fleet file knows: its name says what it is, its own files how long its context is."""
    name = names.parse(entry.model)
    variant = entry.variant or name.variant
    if variant is None:
        raise EntryError("model", f"the name '{entry.model}' does not tell the variant: add 'variant:' to the entry")
    path = Path(_existing(entry.model, folder, "model")) if _is_path(entry.model) else None
    if path is None and not HUB_ID.fullmatch(entry.model):
        raise EntryError(
            "model",
            f"'{entry.model}' is no id of the catalogue, no hub id (organisation/name) and no path (/… ./… or ~…)",
        )
    if not (entry.id or name.slug):
        raise EntryError("model", f"the name '{entry.model}' gives no id: add 'id:' to the entry")
    specialty = _specialty(entry, variant, name.specialty)
    return Model(
        id=entry.id or name.slug,
        variant=variant,
        hub=None if path else entry.model,
        path=str(path) if path else None,
        version=entry.version or name.version,
        size=entry.size or name.size,
        specialty=specialty,
        context=entry.context,
        chat=Chat() if _converses(variant, specialty) else None,
        infill=entry.infill,
    )


def _context_in(path: Path) -> int | None:
    try:
        length = json.loads((path / "config.json").read_text()).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        return None  # the engine says itself what is wrong with its weights
    return length if isinstance(length, int) and length > 0 else None


def _is_path(text: str) -> bool:
    return text.startswith(("/", "./", "../", "~"))


def _existing(text: str, folder: Path, key: str) -> str:
    path = Path(text).expanduser()
    path = path if path.is_absolute() else (folder / path).resolve()
    if not path.exists():
        raise EntryError(key, f"{path} does not exist")
    return str(path)
