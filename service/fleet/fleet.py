"""The fleet file: which models this installation serves, how, and under which names."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from service.auth.tenants import Tenant
from service.catalog import names
from service.catalog.catalog import Catalog
from service.catalog.chat_templates import template_for
from service.catalog.engine_args import EngineValue
from service.catalog.model import Capability, Chat, Model
from service.catalog.names import Specialty, Variant
from service.config.strict_yaml import ConfigError, Document
from service.fleet.schema import RESERVED, Adapter, Entry, FleetFile, Waits
from service.weights import manifest
from service.weights.store import Store

COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class Served:
    """A model of the fleet with everything decided: what it is, where its weights are, how its engines run.

    Of its `replicas` engines `always` run, the others on demand. With `at` others start them, at these addresses.
    """

    id: str
    model: Model
    family: str
    weights: str
    template: Path | None
    replicas: int = 1
    gpus: int = 0
    always: int = 1
    idle: float = 300.0
    at: tuple[str, ...] = ()
    policy: str = "prefix_affinity"
    max_in_flight: int = 256
    max_queued: int = 512
    waits: Waits = Waits()
    aliases: tuple[str, ...] = ()
    adapters: tuple[Adapter, ...] = ()
    engine: dict[str, EngineValue] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    env: dict[str, str] = field(default_factory=dict)

    @property
    def variant(self) -> Variant:
        """The fine-tuning objective."""
        return self.model.variant

    @property
    def context(self) -> int | None:
        """The context length in tokens that the engine runs with; None where only the engine knows."""
        length = self.engine.get("max_model_len")
        length = length if isinstance(length, int) and length > 0 else self.model.opening_context
        window = self.model.shape.sliding_window if self.engine.get("disable_sliding_window") else None
        return min(length, window) if length and window else length

    @cached_property
    def capabilities(self) -> frozenset[Capability]:
        """What requests it can answer; a template of the fleet's makes a conversation possible."""
        own = self.model.capabilities
        return own | {"chat"} if self.template and self.variant != "embedding" else own


@dataclass(frozen=True)
class Fleet:
    """What is served, in the file's order, and the names that lead there."""

    served: tuple[Served, ...]
    aliases: dict[str, str]
    defaults: dict[Variant, str]
    start: str
    extra_fields: frozenset[str]
    tenants: dict[str, Tenant] = field(default_factory=dict)

    def __getitem__(self, model_id: str) -> Served:
        return next(served for served in self.served if served.id == model_id)

    def replicas(self) -> Iterator[tuple[Served, int]]:
        """Every replica that runs here as (served model, number from 0), in starting order."""
        return ((served, number) for served in self.served if not served.at for number in range(served.replicas))


def load(path: Path, catalog: Catalog, store: Path | None = None) -> Fleet:
    """Reads the fleet file; raises ConfigError with every mistake in it. Touches the file system, starts nothing.

    `store` is where pulled weights live; without one every model of a hub comes from the hub.
    """
    document = Document(path)
    written = document.read(FleetFile)
    problems: list[str] = []
    served: dict[int, Served] = {}
    for index, entry in enumerate(written.models):
        try:
            served[index] = _serve(entry, written, catalog, path.parent, store)
        except _MistakeError as mistake:
            problems.append(document.problem(("models", index, mistake.key), mistake.message))
    aliases = _aliases(document, written, served, problems)
    ids = {one.id for one in served.values()}
    for variant, target in written.defaults.items():
        if target not in ids:
            problems.append(document.problem(("defaults", variant), f"'{target}' is not the id of a served model"))
    for index, name in enumerate(written.optional):
        if not problems and not any(name in one.engine for one in served.values()):
            problems.append(document.problem(("optional", index), f"'{name}' is not an 'engine' setting of any model"))
    if problems:
        raise ConfigError(problems)
    return Fleet(
        served=tuple(served.values()),
        aliases=aliases,
        defaults=dict(written.defaults),
        start=written.start,
        extra_fields=frozenset(written.extra_fields),
        tenants={name: Tenant(id=name, **entry.model_dump()) for name, entry in written.tenants.items()},
    )


class _MistakeError(Exception):
    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key, self.message = key, message


def _serve(entry: Entry, written: FleetFile, catalog: Catalog, folder: Path, store: Path | None) -> Served:
    known = catalog.find(entry.model)
    model = _overridden(known, entry) if known else _uncatalogued(entry, folder)
    engine = {**written.engine, **model.engine, **entry.engine}
    _check_length(model, engine, {**written.env, **entry.env})
    if stray := next((name for name in entry.optional if name not in engine), None):
        raise _MistakeError("optional", f"'{stray}' is not among the 'engine' settings of this model")
    if entry.min is not None and entry.min > entry.replicas:
        raise _MistakeError("min", f"{entry.min} is more than the {entry.replicas} of 'replicas'")
    if entry.weights:
        weights = _existing(entry.weights, folder, "weights")
    elif model.hub:
        weights = _pulled(model.hub, engine.get("revision", model.revision), store) or model.hub
    else:
        weights = str(catalog.folder / str(model.path))
    if model.context is None and weights != model.hub:
        model = model.model_copy(update={"context": _context_in(Path(weights))})
    template = _existing(entry.template, folder, "template") if entry.template else None
    if template is None and model.chat:
        ours = template_for(model.chat, Path(weights) if weights != model.hub else None)
        template = str(catalog.folder / "templates" / ours) if ours else None
    adapters = tuple(Adapter(id=one.id, path=_existing(one.path, folder, "adapters")) for one in entry.adapters)
    return Served(
        id=entry.id or model.id,
        model=model,
        family=entry.family or (catalog.family_of[known.id] if known else names.parse(entry.model).family) or model.id,
        weights=weights,
        template=Path(template) if template else None,
        replicas=entry.replicas,
        gpus=entry.gpus,
        always=entry.replicas if entry.min is None else entry.min,
        idle=entry.idle,
        at=entry.at,
        policy=entry.policy,
        max_in_flight=entry.max_in_flight,
        max_queued=entry.max_queued,
        waits=entry.waits,
        aliases=entry.aliases,
        adapters=adapters,
        engine=engine,
        optional=frozenset({*written.optional, *entry.optional}),
        env={key: str(value) for key, value in {**written.env, **entry.env}.items()},
    )


def _check_length(model: Model, engine: dict[str, EngineValue], env: dict[str, str | int]) -> None:
    """Raises where vLLM would refuse the context, unless the operator stretches it with settings of their own."""
    length = engine.get("max_model_len")
    own = {"hf_overrides", "rope_scaling"} & engine.keys() or "VLLM_ALLOW_LONG_MAX_MODEL_LEN" in env
    if isinstance(length, int) and not own and (problem := model.too_long(length)):
        raise _MistakeError("engine", f"{problem}. To stretch it all the same give 'hf_overrides' for its positions")


def _pulled(repository: str, revision: EngineValue, store: Path | None) -> str | None:
    """Where the store has the weights of a repository, if it has; a commit other than the wanted one is refused."""
    place = Store(store).pulled(repository) if store else None
    if place is None:
        return None
    try:
        found = manifest.read(place).revision
    except manifest.ManifestError as error:
        raise _MistakeError("model", f"{place / manifest.MANIFEST} {error}; pull the model again") from None
    if found and isinstance(revision, str) and COMMIT.fullmatch(revision) and found != revision:
        raise _MistakeError(
            "model",
            f"{place} holds revision {found}, and {revision} is wanted: pull the model again, or name the weights "
            "that you mean with 'weights:' or 'engine: {revision: …}'",
        )
    return str(place)


def _overridden(known: Model, entry: Entry) -> Model:
    said = {key: value for key in ("variant", "version", "size", "context", "infill")
            if (value := getattr(entry, key)) is not None}  # fmt: skip
    variant = entry.variant or known.variant
    specialty = _specialty(entry, variant, known.specialty)
    if (variant, specialty) != (known.variant, known.specialty):
        # Another fine-tuning than the catalogue's: whether it converses follows from what the entry says.
        said |= {"specialty": specialty, "chat": (known.chat or Chat()) if _converses(variant, specialty) else None}
    return known.model_copy(update=said)


def _specialty(entry: Entry, variant: Variant, otherwise: Specialty | None) -> Specialty | None:
    if variant == "code":
        return entry.specialty or otherwise
    if entry.specialty:
        raise _MistakeError("specialty", f"only a model of variant 'code' has a specialty; this one is '{variant}'")
    return None


def _converses(variant: Variant, specialty: Specialty | None) -> bool:
    return variant in ("chat", "instruct") or specialty == "instruct"


def _uncatalogued(entry: Entry, folder: Path) -> Model:
    """A model that only the fleet file knows: its name says what it is, its own files how long its context is."""
    name = names.parse(entry.model)
    variant = entry.variant or name.variant
    if variant is None:
        raise _MistakeError("model", f"the name '{entry.model}' does not tell the variant: add 'variant:' to the entry")
    path = Path(_existing(entry.model, folder, "model")) if _is_path(entry.model) else None
    if path is None and not HUB_ID.fullmatch(entry.model):
        raise _MistakeError(
            "model",
            f"'{entry.model}' is no id of the catalogue, no hub id (organisation/name) and no path (/… ./… or ~…)",
        )
    if not (entry.id or name.slug):
        raise _MistakeError("model", f"the name '{entry.model}' gives no id: add 'id:' to the entry")
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
        raise _MistakeError(key, f"{path} does not exist")
    return str(path)


def _aliases(document: Document, written: FleetFile, served: dict[int, Served], problems: list[str]) -> dict[str, str]:
    """Every other name of a served model; each name of the fleet must lead to one place."""
    taken: set[str] = set(RESERVED)
    aliases: dict[str, str] = {}

    def take(name: str, at: tuple[str | int, ...]) -> None:
        if name in taken:
            why = "is a word of the routing rules" if name in RESERVED else "is another model's id or alias already"
            problems.append(document.problem(at, f"'{name}' {why}"))
        taken.add(name)

    for index, one in served.items():
        take(one.id, ("models", index, "id"))
        for adapter in one.adapters:
            take(adapter.id, ("models", index, "adapters"))
    for index, one in served.items():
        for alias in one.aliases:
            take(alias, ("models", index, "aliases"))
            aliases[alias] = one.id
    targets = {one.id for one in served.values()} | {adapter.id for one in served.values() for adapter in one.adapters}
    for alias, target in written.aliases.items():
        take(alias, ("aliases", alias))
        aliases[alias] = target
        if target not in targets:
            problems.append(document.problem(("aliases", alias), f"'{target}' is not the id of a served model"))
    return aliases
