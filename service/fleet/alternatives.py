"""The aliases that several models share by their weights, and the models that answer in the place of others.

An adapter has a weight and fallbacks of its own: here it is a model like its base.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from service.config.strict_yaml import Document, Location
from service.fleet.adapters import Adapter
from service.fleet.served_model import ServedModel

Weights = dict[str, int]  # of each model that shares an alias, by its id


@dataclass(frozen=True)
class Named:
    """A model or an adapter of the fleet: where its entry stands, what it is, and the model that serves it."""

    at: Location
    one: ServedModel | Adapter
    served: ServedModel


def named(served: Mapping[int, ServedModel]) -> Iterator[Named]:
    """All models, each followed by its adapters."""
    for index, model in served.items():
        yield Named(("models", index), model, model)
        for number, adapter in enumerate(model.adapters):
            yield Named(("models", index, "adapters", number), adapter, model)


def shared_aliases(document: Document, served: Mapping[int, ServedModel], problems: list[str]) -> dict[str, Weights]:
    """The aliases that several models list, each of them with a weight. Appends every mistake to `problems`.

    An alias that is listed again without weights is none of them.
    """
    listed: dict[str, list[Named]] = {}
    for entry in named(served):
        for alias in dict.fromkeys(entry.one.aliases):
            listed.setdefault(alias, []).append(entry)
    shared: dict[str, Weights] = {}
    for alias, entries in listed.items():
        given = {entry.one.id: entry.one.weight for entry in entries if entry.one.weight is not None}
        if len(given) < len(entries):
            continue
        if not any(given.values()):
            text = f"the weights of the models under the alias '{alias}' sum to 0, so that none of them would answer"
            problems.append(document.problem((*entries[0].at, "weight"), text))
        if len(entries) > 1:
            shared[alias] = given
    return shared


def with_fallbacks(
    document: Document, served: Mapping[int, ServedModel], problems: list[str]
) -> dict[int, ServedModel]:
    """The models, each with all models that can answer in its place: those that it lists, then those that these list.

    Appends every mistake to `problems`.
    """
    by_id = {entry.one.id: entry for entry in named(served)}
    chains: dict[str, tuple[str, ...]] = {}
    for id, entry in by_id.items():
        for number, other in enumerate(entry.one.fallback):
            if why := _mistake(entry, number, other, by_id):
                problems.append(document.problem((*entry.at, "fallback", number), why))
        chain = chains[id] = tuple(_chain(entry.one, by_id))
        if id in chain and id not in entry.one.fallback:
            text = f"leads back to '{id}' itself, by {', '.join(repr(other) for other in chain)}"
            problems.append(document.problem((*entry.at, "fallback"), text))
    return {
        index: replace(
            model, fallback=chains[model.id],
            adapters=tuple(replace(adapter, fallback=chains[adapter.id]) for adapter in model.adapters),
        )
        for index, model in served.items()
    }  # fmt: skip


def _mistake(entry: Named, number: int, id: str, by_id: Mapping[str, Named]) -> str:
    """What is wrong with one fallback of a model; empty if nothing is."""
    one = entry.one
    if id == one.id:
        return f"'{id}' cannot be its own fallback"
    if id not in by_id:
        return f"'{id}' is not the id of a served model"
    if id in one.fallback[:number]:
        return f"'{id}' is listed twice"
    ours, theirs = entry.served.guardrails, by_id[id].served.guardrails
    if {*ours.input} - {*theirs.input} or {*ours.output} - {*theirs.output}:
        return f"'{id}' lacks guardrails of '{one.id}', which would be passed by: give it the same"
    return ""


def _chain(one: ServedModel | Adapter, by_id: Mapping[str, Named]) -> Iterator[str]:
    """The model's fallbacks, breadth first, each once."""
    waiting, seen = [*one.fallback], set[str]()
    for id in waiting:
        if id in seen or id not in by_id:
            continue
        seen.add(id)
        yield id
        waiting += by_id[id].one.fallback
