"""Resolves one entry of the fleet file from the catalogue, the weights on disk and the model's name."""

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from service.catalog import names, parsers
from service.catalog.catalog import Catalog
from service.catalog.chat_templates import own_template, template_for
from service.catalog.engine_args import EngineValue
from service.catalog.model import Chat, Model
from service.catalog.names import Specialty, Variant
from service.fleet.adapters import read_adapters
from service.fleet.entry_errors import EntryError, existing_path, mistakes_in
from service.fleet.schema import FleetFile, ModelEntry
from service.fleet.served_model import ServedModel
from service.weights import manifest
from service.weights.store import Store

COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def served_model(entry: ModelEntry, file: FleetFile, catalog: Catalog, folder: Path, store: Path | None) -> ServedModel:
    """The served model that an entry of `file` describes. Raises EntryError.

    Relative paths start at `folder`. `store` is the folder of pulled weights.
    """
    known = catalog.find(entry.model)
    model = _with_overrides(known, entry) if known else _model_outside_catalogue(entry, folder)
    engine = {**file.engine, **model.engine, **entry.engine}
    if model.variant in names.POOLING:
        engine = {"runner": "pooling", **engine}  # a decoder would generate text, whatever it was tuned for
    _check_context(model, engine, {**file.env, **entry.env})
    if unused := next((name for name in entry.optional_flags if name not in engine), None):
        raise EntryError("optional_flags", f"'{unused}' is not among the 'engine' settings of this model")
    max_replicas = entry.max_replicas or max(1, entry.min_replicas)
    if entry.min_replicas > max_replicas:
        raise EntryError("min_replicas", f"{entry.min_replicas} is more than the {max_replicas} of 'max_replicas'")
    if entry.weights:
        weights = _path(entry, entry.weights, folder, "weights")
    elif model.hub:
        with mistakes_in("model", model.hub):
            weights = _pulled_weights(model.hub, engine.get("revision", model.revision), store) or model.hub
    else:
        weights = str(catalog.folder / str(model.path))
    if model.context is None and weights != model.hub:
        model = model.model_copy(update={"context": _configured_context(Path(weights))})
    template = _path(entry, entry.chat_template, folder, "chat_template") if entry.chat_template else None
    if template is None and model.chat:
        with mistakes_in("weights" if entry.weights else "model", weights):
            bundled = template_for(model.chat, Path(weights) if weights != model.hub else None)
        template = str(catalog.folder / "templates" / bundled) if bundled else None
    written = {*file.engine, *entry.engine}
    parser_choice = None
    if known is None and model.chat and not entry.addresses:
        files = Path(weights) if weights != model.hub else None
        engine, parser_choice = _with_parsers(engine, written, files, template)
    engine = _with_auto_tool_choice(engine, written)
    adapters = read_adapters(entry, model, weights, engine, folder, catalog, store)
    return ServedModel(
        id=entry.id or model.id,
        model=model,
        family=entry.family or (catalog.family_of[known.id] if known else names.parse(entry.model).family) or model.id,
        weights=weights,
        chat_template=Path(template) if template else None,
        min_replicas=entry.min_replicas,
        max_replicas=max_replicas,
        scale_down_after=entry.scale_down_after,
        gpus=entry.gpus,
        gpu_hour_price=file.gpu_hour_price if entry.gpu_hour_price is None else entry.gpu_hour_price,
        addresses=entry.addresses,
        policy=entry.policy,
        max_in_flight=entry.max_in_flight,
        max_queued=entry.max_queued,
        timeouts=entry.timeouts,
        aliases=entry.aliases,
        weight=entry.weight,
        fallback=entry.fallback,
        adapters=adapters,
        engine=engine,
        optional_flags=frozenset({*file.optional_flags, *entry.optional_flags}),
        env={key: str(value) for key, value in {**file.env, **entry.env}.items()},
        parser_choice=parser_choice,
        request_bounds=file.request_bounds,
    )


def _with_parsers(
    engine: dict[str, EngineValue], written: Collection[str], weights: Path | None, template: str | None
) -> tuple[dict[str, EngineValue], str]:
    """`engine` with the parsers that fit a chat model outside of the catalogue, and what to say about the choice.

    They are chosen by the files in `weights` and by `template`, the file that conversations are rendered with instead
    of the weights' own. `written` are the settings that the fleet file gives, which stay.
    """
    if template:
        text = Path(template).read_text(encoding="utf-8", errors="replace") or None
    else:
        text = own_template(weights) if weights else None
    chosen, said = parsers.choose(_network_class(weights) if weights else None, text)
    given = ", ".join(key for key in parsers.KEYS if key in written)
    return {**chosen, **engine}, f"{given} as the fleet file says; otherwise {said}" if given else said


def _with_auto_tool_choice(engine: dict[str, EngineValue], written: Collection[str]) -> dict[str, EngineValue]:
    """vLLM looks for calls in answers only if it is told to, and refuses to start if it then has no parser for them."""
    if engine.get("tool_call_parser"):
        return {"enable_auto_tool_choice": True, **engine}
    unneeded = () if "enable_auto_tool_choice" in written else ("enable_auto_tool_choice",)
    return {key: value for key, value in engine.items() if key not in unneeded}


def _check_context(model: Model, engine: dict[str, EngineValue], env: dict[str, str | int]) -> None:
    """Raises EntryError where vLLM would refuse `max_model_len`, unless the operator extends the context explicitly."""
    length = engine.get("max_model_len")
    extended = {"hf_overrides", "rope_scaling"} & engine.keys() or "VLLM_ALLOW_LONG_MAX_MODEL_LEN" in env
    if isinstance(length, int) and not extended and (problem := model.too_long(length)):
        raise EntryError("engine", f"{problem}. To extend it all the same, set 'hf_overrides' for its positions")


def _pulled_weights(repository: str, revision: EngineValue, store: Path | None) -> str | None:
    """The directory of a repository's pulled weights, if there is one; raises EntryError if it has another commit."""
    directory = Store(store).pulled(repository) if store else None
    if directory is None:
        return None
    try:
        found = manifest.read(directory).revision
    except manifest.ManifestError as error:
        raise EntryError("model", f"{directory / manifest.MANIFEST} {error}; pull the model again") from None
    if found and isinstance(revision, str) and COMMIT.fullmatch(revision) and found != revision:
        raise EntryError(
            "model",
            f"{directory} holds revision {found}, but {revision} is configured: pull the model again, or choose the "
            "weights with 'weights:' or 'engine: {revision: …}'",
        )
    return str(directory)


def _with_overrides(known: Model, entry: ModelEntry) -> Model:
    """The catalogue's model with what the entry says otherwise."""
    overrides = {key: value for key in ("variant", "version", "size", "context", "infill", "vision")
                 if (value := getattr(entry, key)) is not None}  # fmt: skip
    variant = entry.variant or known.variant
    specialty = _specialty(entry, variant, known.specialty)
    if (variant, specialty) != (known.variant, known.specialty):
        # Another fine-tuning than the catalogue's: the entry decides whether it is a chat model.
        chat = (known.chat or Chat()) if _is_chat_tuned(variant, specialty) else None
        overrides |= {"specialty": specialty, "chat": chat}
    model = known.model_copy(update=overrides)
    _require_chat(entry, model.chat)
    return model


def _require_chat(entry: ModelEntry, chat: Chat | None) -> None:
    if entry.vision and chat is None and not entry.chat_template:
        raise EntryError("vision", "images are parts of conversations, and this is no chat model")


def _specialty(entry: ModelEntry, variant: Variant, default: Specialty | None) -> Specialty | None:
    if variant == "code":
        return entry.specialty or default
    if entry.specialty:
        raise EntryError("specialty", f"only a model of variant 'code' has a specialty; this one is '{variant}'")
    return None


def _is_chat_tuned(variant: Variant, specialty: Specialty | None) -> bool:
    return variant in ("chat", "instruct", "guard") or specialty == "instruct"


def _model_outside_catalogue(entry: ModelEntry, folder: Path) -> Model:
    """A model that is not in the catalogue, described by the entry and, where that is silent, by its own name."""
    name = names.parse(entry.model)
    variant = entry.variant or name.variant
    if variant is None:
        raise EntryError("model", f"the name '{entry.model}' does not show the variant: add 'variant:' to the entry")
    path = Path(_path(entry, entry.model, folder, "model")) if _is_path(entry.model) else None
    if path is None and not HUB_ID.fullmatch(entry.model):
        raise EntryError(
            "model",
            f"'{entry.model}' is neither an id of the catalogue, nor a hub id (organisation/name), nor a path "
            "(/…, ./… or ~…)",
        )
    if not (entry.id or name.slug):
        raise EntryError("model", f"no id can be made from the name '{entry.model}': add 'id:' to the entry")
    specialty = _specialty(entry, variant, name.specialty)
    chat = Chat() if _is_chat_tuned(variant, specialty) else None
    _require_chat(entry, chat)
    return Model(
        id=entry.id or name.slug,
        variant=variant,
        hub=None if path else entry.model,
        path=str(path) if path else None,
        version=entry.version or name.version,
        size=entry.size or name.size,
        specialty=specialty,
        context=entry.context,
        chat=chat,
        infill=entry.infill,
        vision=entry.vision or False,
    )


def _configured_context(weights: Path) -> int | None:
    length = _config(weights).get("max_position_embeddings")
    return length if isinstance(length, int) and length > 0 else None


def _network_class(weights: Path) -> str | None:
    names = _config(weights).get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None


def _config(weights: Path) -> dict[str, Any]:
    """The configuration in a folder of weights; empty if it has none."""
    try:
        content = json.loads((weights / "config.json").read_text())
    except (OSError, ValueError, RecursionError):
        return {}  # the engine reports a broken config.json when it starts
    return content if isinstance(content, dict) else {}


def _is_path(text: str) -> bool:
    return text.startswith(("/", "./", "../", "~"))


def _path(entry: ModelEntry, text: str, folder: Path, key: str) -> str:
    """The absolute path that `text` means, which must exist, unless engines elsewhere are to read it."""
    return existing_path(text, folder, key, must_exist=not entry.addresses)
