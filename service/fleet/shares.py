"""Resolves the shares of a fleet file: which part each engine takes, and whether it can ever be there."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from service.config.strict_yaml import Document
from service.fleet.adapters import room
from service.fleet.schema import KV_CACHE_SPACE, FleetFile, ModelEntry
from service.fleet.served_model import ServedModel
from service.planner.adapters import adapter_bytes
from service.sharing.fitting import misfits, table
from service.sharing.parts import Keep, Part, PartError, gib, part_of

# Keys that say for an engine of its own what the share says, and why each has no place beside it.
INSTEAD = (
    ("gpus", "the share says on which cards the engine runs"),
    ("addresses", "an engine that somebody else starts shares nothing here"),
    ("min_replicas", "'keep' says when the engine is there"),
    ("max_replicas", "a model of a share has one engine"),
)
SIZED = ("gpu_memory_utilization", "kv_cache_memory_bytes")  # engine settings that follow from the part


def read_shares(
    document: Document, file: FleetFile, served: Mapping[int, ServedModel], problems: list[str]
) -> dict[int, ServedModel]:
    """The `served` models, those of a share with their parts of it. Appends every mistake to `problems`."""
    problems += _shared_cards(document, file)
    resolved = dict(served)
    for index, model in served.items():
        entry = file.models[index]
        found = _mistake(entry, file, model)
        if found is None and entry.share:
            try:
                resolved[index] = _with_part(model, entry, file)
            except PartError as error:
                found = error.key, error.message
        if found:
            problems.append(document.problem(("models", index, found[0]), found[1]))
    for name, share_entry in file.shares.items():
        index_of = {
            model.id: index for index, model in resolved.items() if model.part and model.part.share.name == name
        }
        parts = {id: part for id, index in index_of.items() if (part := resolved[index].part)}
        share = share_entry.share(name)
        refused = [document.problem(("models", index_of[id], "share"), why) for id, why in misfits(share, parts)]
        problems += [*refused, *(table(share, parts) if refused else ())]
    return resolved


def too_large(document: Document, file: FleetFile, memory: Mapping[int | None, int]) -> Iterator[str]:
    """The shares larger than what they are of: `memory` has the bytes of each card and of the machine (None)."""
    for name, entry in file.shares.items():
        for card in entry.gpus or (None,):
            size = memory.get(card)
            if size is not None and entry.memory > size:
                what = "this machine has" if card is None else f"GPU {card} has"
                text = f"{gib(entry.memory)} are more than the {gib(size)} that {what}"
                yield document.problem(("shares", name, "memory"), text)
            elif size is None and card is not None and any(one is not None for one in memory):
                yield document.problem(("shares", name, "gpus"), f"there is no GPU {card} on this machine")


def too_many_asleep(served: tuple[ServedModel, ...], memory: int) -> str | None:
    """What is wrong where the weights of all that sleep do not fit this machine's `memory` bytes; None if they do."""
    asleep = {model.id: model.part.weights * model.gpus for model in served if model.part and model.part.keep == "warm"}
    if sum(asleep.values()) <= memory:
        return None
    terms = " + ".join(f"{name} {gib(size)}" for name, size in asleep.items())
    return (
        f"'keep: warm' keeps weights in this machine's memory, and {terms} = {gib(sum(asleep.values()))} are more than "
        f"its {gib(memory)}: let some be 'cold'"
    )


def assigned_cards(served: tuple[ServedModel, ...], order: int) -> tuple[int, ...] | None:
    """The cards of the engine with this startup order, as the driver numbers them.

    None where BentoML assigns them, as it does unless engines share some: it does not know those. Then an engine with
    cards of its own gets the first that nobody else has, in the fleet's order.
    """
    shared = {card for model in served if model.part for card in model.part.share.gpus}
    if not shared:
        return None
    free = iter(card for card in range(10_000) if card not in shared)
    engines = [model for model in served if not model.addresses for _ in range(model.max_replicas)]
    for number, model in enumerate(engines):
        cards = model.part.share.gpus if model.part else tuple(next(free) for _ in range(model.gpus))
        if number == order:
            return cards
    return None


def _shared_cards(document: Document, file: FleetFile) -> Iterator[str]:
    owner: dict[int, str] = {}
    for name, entry in file.shares.items():
        for card in entry.gpus:
            if card in owner:
                text = f"GPU {card} is in share '{owner[card]}' already: one share has the whole of a card"
                yield document.problem(("shares", name, "gpus"), text)
            owner.setdefault(card, name)
    of_machine = [name for name, entry in file.shares.items() if not entry.gpus]
    for name in of_machine[1:]:
        text = f"share '{of_machine[0]}' has this machine's memory already"
        yield document.problem(("shares", name), text)


def _mistake(entry: ModelEntry, file: FleetFile, model: ServedModel) -> tuple[str, str] | None:
    """What is wrong with the entry's keys around `share`: the key, and why."""
    if entry.share is None:
        alone = next((key for key in ("keep", "memory") if getattr(entry, key) is not None), None)
        return (alone, "needs 'share', the memory that it is about") if alone else None
    if entry.share not in file.shares:
        known = ", ".join(f"'{name}'" for name in file.shares) or "there are none"
        return "share", f"'{entry.share}' is not one of the 'shares' of this file: {known}"
    for key, why in INSTEAD:
        if key in entry.model_fields_set:
            return key, f"beside 'share': {why}"
    if KV_CACHE_SPACE in entry.env:
        return "env", f"'{KV_CACHE_SPACE}' follows from 'share': say with 'memory' how much it may have"
    sized = next((key for key in SIZED if key in model.engine), None)
    return ("engine", f"'{sized}' follows from 'share': say with 'memory' how much it may have") if sized else None


def _with_part(model: ServedModel, entry: ModelEntry, file: FleetFile) -> ServedModel:
    assert entry.share
    share = file.shares[entry.share].share(entry.share)
    most = model.engine.get("max_num_seqs")
    quantization = model.engine.get("quantization")
    # Without a card vLLM has no sleep mode.
    keep: Keep = "cold" if entry.keep in (None, "warm") and not share.gpus else entry.keep or "cold"
    part = part_of(
        model.model, share, keep,
        on_disk=weights_on_disk(model.weights), stated=entry.memory, context=model.context,
        requests=min(model.max_in_flight, most) if isinstance(most, int) and most > 0 else model.max_in_flight,
        quantization=quantization if isinstance(quantization, str) else None,
        adapters=_room_for_adapters(model, len(share.gpus)),
    )  # fmt: skip
    # It stays until its room is needed, unless the file says when it goes.
    stays = entry.scale_down_after if "scale_down_after" in entry.model_fields_set else math.inf
    return replace(
        model, part=part, gpus=len(share.gpus), min_replicas=int(keep == "always"), scale_down_after=stays,
        stays_cold=entry.keep == "warm" and keep == "cold",
    )  # fmt: skip


def _room_for_adapters(model: ServedModel, gpus: int) -> int:
    made = room(model.adapters, model.engine, cpu=not gpus)
    if made is None:
        return 0
    return adapter_bytes(model.model.shape, made.max_loras, made.max_lora_rank, max(1, gpus)) or 0


def weights_on_disk(weights: str) -> int:
    """Bytes of the weights in this folder; 0 where it is none."""
    folder = Path(weights)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0


def parts_by_share(served: tuple[ServedModel, ...]) -> dict[str, dict[str, Part]]:
    """The parts of each share, by the ids of its models, both in the fleet's order."""
    found: dict[str, dict[str, Part]] = {}
    for model in served:
        if model.part:
            found.setdefault(model.part.share.name, {})[model.id] = model.part
    return found
