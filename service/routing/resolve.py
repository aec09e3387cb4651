"""From a requested name, and what the request needs, to a served model: pure, and always with a reason.

The rules are told in docs/routing.md, which is generated from the cases that test them.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from service.catalog.catalog import Catalog
from service.catalog.model import Capability
from service.catalog.names import Specialty, Variant
from service.errors import ApiError, ErrorCode
from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel
from service.protocol.generation import Kind, Need

# Which variants are tried for a request when its name leaves the variant open, best first.
PREFERENCES: dict[Kind, tuple[Variant, ...]] = {
    "chat": ("chat", "instruct", "code", "base"),
    "completion": ("base", "code", "instruct", "chat"),
    "infill": ("code", "base", "instruct", "chat"),
    "embedding": ("embedding",),
}
PURPOSES: dict[Kind, str] = {
    "chat": "a conversation: it has no chat template",
    "completion": "text generation: it gives embeddings only",
    "infill": "'suffix': it cannot fill in the middle",
    "embedding": "embeddings: it generates text",
}


@dataclass(frozen=True)
class Target:
    """A resolved name: the served model, the name its engine knows it by (an adapter has its own), and why."""

    served: ServedModel
    name: str
    reason: str


def resolve(requested: str, need: Need, fleet: Fleet, catalog: Catalog) -> Target:
    """The target of `requested`; raises 404 `model_not_found` or the 400 that names a served model which fits."""
    for served in fleet.served:
        if requested == served.id:
            return _fitting(Target(served, served.id, "id"), need, fleet)
        if any(requested == adapter.id for adapter in served.adapters):
            return _fitting(Target(served, requested, f"adapter of {served.id}"), need, fleet)
    if requested in fleet.aliases:
        target = resolve(fleet.aliases[requested], need, fleet, catalog)
        return Target(target.served, target.name, f"alias of {target.name}")
    members = [one for one in fleet.served if requested in _family_names(one)]
    if members:
        return _best(members, need, f"family {requested}", requested, fleet)
    if requested in ("base", "chat", "instruct", "code", "embedding"):
        return _by_variants([requested], need, f"variant {requested}", requested, fleet)
    if requested.startswith("task:"):
        name = requested.removeprefix("task:")
        if name not in catalog.tasks:
            raise _not_found(f"There is no task '{name}'. Tasks are: {', '.join(sorted(catalog.tasks))}.")
        task = catalog.tasks[name]
        return _by_variants(task.variants, need, f"task {name}", requested, fleet, task.specialty)
    if requested == "auto":
        why, variants = automatic(need)
        return _by_variants(variants, need, f"auto: {why}", requested, fleet)
    raise _not_found(f"No model '{requested}' is served here.{_hint(requested, fleet)}")


def _not_found(message: str) -> ApiError:
    return ApiError(ErrorCode.MODEL_NOT_FOUND, message, "model")


def _family_names(served: ServedModel) -> Iterator[str]:
    yield served.family
    if served.model.size:
        yield f"{served.family}-{served.model.size}"


def _fits(served: ServedModel, kind: Capability) -> bool:
    return kind in served.capabilities


def _fitting(target: Target, need: Need, fleet: Fleet) -> Target:
    if _fits(target.served, need.kind):
        return target
    raise _unsupported(f"'{target.name}' (variant {target.served.variant})", need, fleet, target.served)


def _unsupported(subject: str, need: Need, fleet: Fleet, near: ServedModel | None) -> ApiError:
    others = _ranked([one for one in fleet.served if _fits(one, need.kind)], need.kind)
    siblings = [one for one in others if near and one.family == near.family]
    names = ", ".join(f"'{one.id}'" for one in (siblings or others)[:3])
    advice = f"Use {names}." if names else "No model served here can do that."
    message = f"{subject} cannot serve {PURPOSES[need.kind]}. {advice}"
    return ApiError(ErrorCode.UNSUPPORTED_FOR_MODEL, message, "model")


def _ranked(candidates: Iterable[ServedModel], kind: Kind) -> list[ServedModel]:
    order = PREFERENCES[kind]
    # The sort is stable: among equals the fleet's order decides.
    able = (one for one in candidates if one.variant in order)
    return sorted(able, key=lambda one: order.index(one.variant))


def _best(members: Sequence[ServedModel], need: Need, why: str, requested: str, fleet: Fleet) -> Target:
    able = _ranked([one for one in members if _fits(one, need.kind)], need.kind)
    if not able:
        raise _unsupported(f"'{requested}', as served here,", need, fleet, members[0])
    return Target(able[0], able[0].id, f"{why}, {able[0].variant} fits {need.kind}")


def _by_variants(
    variants: Sequence[str], need: Need, why: str, requested: str, fleet: Fleet, specialty: Specialty | None = None
) -> Target:
    """The first of `variants` with a served model that fits; the fleet's default for a variant goes first.

    Where a `specialty` is asked for, code models that have it go before those that have not.
    """
    served = [one for variant in variants for one in _of_variant(variant, fleet, specialty)]
    if not served:
        wanted = " or ".join(variants)
        raise _not_found(f"'{requested}' asks for a model of variant {wanted}; none is served.{_hint('', fleet)}")
    able = [one for one in served if _fits(one, need.kind)]
    if not able:
        raise _unsupported(f"'{requested}', as served here,", need, fleet, served[0])
    return Target(able[0], able[0].id, why)


def _of_variant(variant: str, fleet: Fleet, specialty: Specialty | None) -> list[ServedModel]:
    default = next((name for key, name in fleet.defaults.items() if key == variant), None)
    first = [fleet[default]] if default else []
    found = first + [one for one in fleet.served if one.variant == variant and one.id != default]
    return sorted(found, key=lambda one: specialty not in (None, one.model.specialty))


def automatic(need: Need) -> tuple[str, tuple[Variant, ...]]:
    """What `auto` sees in a request, and the variants it tries for that, best first."""
    if need.kind == "embedding":
        return "embeddings", ("embedding",)
    if need.kind == "infill":
        return "a suffix", PREFERENCES["infill"]
    if need.kind == "completion":
        if need.code:
            return "code in the prompt", ("code", "base", "instruct", "chat")
        return "plain text", PREFERENCES["completion"]
    if need.tools:
        return "tools", ("instruct", "chat", "code", "base")
    if need.code:
        return "code in the conversation", ("code", "instruct", "chat", "base")
    if need.turns > 1:
        return "several turns", ("chat", "instruct", "code", "base")
    return "a single instruction", ("instruct", "chat", "code", "base")


def _hint(requested: str, fleet: Fleet) -> str:
    names = [one.id for one in fleet.served] + list(fleet.aliases)
    names += [adapter.id for one in fleet.served for adapter in one.adapters]
    known = dict.fromkeys([*names, *(family for one in fleet.served for family in _family_names(one))])
    close = difflib.get_close_matches(requested.lower(), known, 3, 0.5)
    if close:
        return f" Did you mean {', '.join(repr(name) for name in close)}?"
    return f" Served here: {', '.join(repr(name) for name in names[:10])}; GET /v1/models lists all."
