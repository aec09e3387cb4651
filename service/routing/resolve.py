"""Resolves the `model` of a request to a served model, with the reason. Pure.

docs/routing.md documents the rules; it is generated from the cases that test them.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, get_args

from msgspec import Struct, structs

from service.catalog.catalog import Catalog
from service.catalog.names import Specialty, Variant
from service.errors import ApiError, ErrorCode
from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel
from service.protocol.generation import Kind, Requirements
from service.routing.weights import choose

# The variants that are tried for each kind of request when its `model` leaves the variant open, best first.
PREFERENCES: dict[Kind, tuple[Variant, ...]] = {
    "chat": ("chat", "instruct", "code", "base"),
    "completion": ("base", "code", "instruct", "chat"),
    "infill": ("code", "base", "instruct", "chat"),
    "embedding": ("embedding",),
    "rerank": ("reranker",),
    "tokens": ("base", "code", "instruct", "chat", "embedding", "reranker", "guard"),
}
UNSUPPORTED_BECAUSE: dict[Kind, str] = {
    "chat": "a conversation: it has no chat template",
    "completion": "text generation: it gives embeddings only",
    "infill": "'suffix': it cannot fill in the middle",
    "embedding": "embeddings: it generates text",
    "rerank": "reranking: it gives no relevance scores",
}
RERANKER_ONLY = "it gives relevance scores only"


class Target(Struct, frozen=True):
    """A resolved model: `name` is what its engine serves it under, which for an adapter is the adapter's id."""

    served: ServedModel
    name: str
    reason: str
    adapter: str | None = None  # the adapter, if it is one

    def __post_init__(self) -> None:
        if self.name != self.served.id:
            structs.force_setattr(self, "adapter", self.name)

    @property
    def variant(self) -> Variant:
        """The variant: an adapter's own, if the fleet file gives it one."""
        if self.adapter is None:
            return self.served.variant
        own = (one.variant for one in self.served.adapters if one.id == self.name)
        return next(own, None) or self.served.variant

    @property
    def fallback(self) -> tuple[str, ...]:
        """The models and adapters that may answer in its place: an adapter's own, never those of its base."""
        if self.adapter is None:
            return self.served.fallback
        return next((one.fallback for one in self.served.adapters if one.id == self.name), ())


class Choice(NamedTuple):
    """What a family, variant or task may lead to: a served model, or an adapter that is called one in the fleet file.

    An adapter has the `family` or the `variant` that it is given, and is not found by any other.
    """

    served: ServedModel
    name: str
    variant: Variant
    families: tuple[str, ...]
    own_variant: bool = True


def resolve(requested: str, requirements: Requirements, fleet: Fleet, catalog: Catalog, key: int = 0) -> Target:
    """The target for the requested `model`; of several models under one alias always the same for one `key`.

    Raises 404 `model_not_found`, or 400 `unsupported_for_model` if the model does not support this kind of request; the
    message suggests models that do.
    """
    target = _resolve(requested, requirements, fleet, catalog, key)
    if fleet.allowed is not None and target.name not in fleet.allowed:
        raise _not_served(requested, fleet)
    return target


def _resolve(requested: str, requirements: Requirements, fleet: Fleet, catalog: Catalog, key: int) -> Target:
    for served in fleet.served:
        if requested == served.id:
            return _checked(Target(served, served.id, "id"), requirements, fleet)
        if any(requested == adapter.id for adapter in served.adapters):
            return _checked(Target(served, requested, f"adapter of {served.id}"), requirements, fleet)
    if requested in fleet.shares:
        return _of_shares(requested, requirements, fleet, catalog, key)
    if requested in fleet.aliases:
        return _of_alias(fleet.aliases[requested], requirements, fleet, catalog)
    family = [choice for choice in _choices(fleet.served) if requested in choice.families]
    if family:
        return _best_of_family(family, requirements, requested, fleet)
    if requested in get_args(Variant):
        return _by_variants([requested], requirements, f"variant {requested}", requested, fleet)
    if requested.startswith("task:"):
        name = requested.removeprefix("task:")
        if name not in catalog.tasks:
            raise _not_found(f"There is no task '{name}'. Tasks are: {', '.join(sorted(catalog.tasks))}.")
        task = catalog.tasks[name]
        return _by_variants(task.variants, requirements, f"task {name}", requested, fleet, task.specialty)
    if requested == "auto":
        reason, variants = auto_variants(requirements)
        return _by_variants(variants, requirements, f"auto: {reason}", requested, fleet)
    raise _not_served(requested, fleet)


def _not_served(requested: str, fleet: Fleet) -> ApiError:
    return _not_found(f"No model '{requested}' is served here.{_hint(requested, fleet)}")


def _not_found(message: str) -> ApiError:
    return ApiError(ErrorCode.MODEL_NOT_FOUND, message, "model")


def _choices(models: Iterable[ServedModel]) -> Iterator[Choice]:
    """All of them in the fleet's order, each model followed by its adapters."""
    for served in models:
        yield Choice(served, served.id, served.variant, _families(served.family, served.model.size))
        for one in served.adapters:
            families = _families(one.family, served.model.size) if one.family else ()
            if one.variant or families:
                yield Choice(served, one.id, one.variant or served.variant, families, one.variant is not None)


def _families(family: str, size: str | None) -> tuple[str, ...]:
    return (family, f"{family}-{size}") if size else (family,)


def _of_alias(name: str, requirements: Requirements, fleet: Fleet, catalog: Catalog) -> Target:
    """The target of an alias. A request with images goes to another model of its family if only that one sees them."""
    target = _resolve(name, structs.replace(requirements, vision=False), fleet, catalog, 0)
    if supports(target.served, requirements):
        return Target(target.served, target.name, f"alias of {target.name}")
    family = [served for served in fleet.served if served.family == target.served.family]
    seeing = _ranked(_choices(family), requirements)
    if not seeing:
        raise _unsupported(f"'{target.name}'", requirements, fleet, target.served)
    best = seeing[0]
    return Target(best.served, best.name, f"alias of {target.name}, {best.name} of its family sees images")


def _of_shares(alias: str, requirements: Requirements, fleet: Fleet, catalog: Catalog, key: int) -> Target:
    """The target of an alias that several models share: one of those that support the request, by their weights."""
    weights = fleet.shares[alias]
    fitting = {id: weight for id, weight in weights.items() if weight and supports(fleet.serving(id), requirements)}
    if not fitting:
        return _of_alias(fleet.aliases[alias], requirements, fleet, catalog)
    id = choose(fitting, key, alias)
    return Target(fleet.serving(id), id, f"alias of {id}, weight {fitting[id]} of {sum(fitting.values())}")


def supports(served: ServedModel, requirements: Requirements) -> bool:
    """Whether a model can answer such requests; `tokens` is no capability, since every model has a tokenizer."""
    if requirements.vision and "vision" not in served.capabilities:
        return False
    return requirements.kind == "tokens" or requirements.kind in served.capabilities


def _checked(target: Target, requirements: Requirements, fleet: Fleet) -> Target:
    if supports(target.served, requirements):
        return target
    raise _unsupported(f"'{target.name}' (variant {target.variant})", requirements, fleet, target.served)


def _unsupported(subject: str, requirements: Requirements, fleet: Fleet, requested: ServedModel) -> ApiError:
    """The 400 for `requested`; it recommends models of the same family, or any if the family has none."""
    capable = _ranked(_choices(fleet.served), requirements)
    siblings = [choice for choice in capable if choice.served.family == requested.family]
    names = ", ".join(f"'{choice.name}'" for choice in (siblings or capable)[:3])
    advice = f"Use {names}." if names else "No model served here can do that."
    if requirements.vision and supports(requested, structs.replace(requirements, vision=False)):
        advice = f"Use {names}, or" if names else "No model served here does:"
        message = f"{subject} does not support image input. {advice} leave the images out."
        return ApiError(ErrorCode.UNSUPPORTED_FOR_MODEL, message, "model")
    request, _, because = UNSUPPORTED_BECAUSE[requirements.kind].partition(": ")
    if requested.variant == "reranker":
        because = RERANKER_ONLY
    message = f"{subject} cannot serve {request}: {because}. {advice}"
    return ApiError(ErrorCode.UNSUPPORTED_FOR_MODEL, message, "model")


def _ranked(models: Iterable[Choice], requirements: Requirements, *more: Variant) -> list[Choice]:
    """The models that can answer, those of the preferred variant first, and those of the variants `more` last."""
    order = (*PREFERENCES[requirements.kind], *more)
    # The sort is stable: models of one variant stay in the fleet's order.
    capable = (one for one in models if one.variant in order and supports(one.served, requirements))
    return sorted(capable, key=lambda one: order.index(one.variant))


def _best_of_family(family: Sequence[Choice], requirements: Requirements, requested: str, fleet: Fleet) -> Target:
    # A guard judges texts instead of answering, so it serves a family's name only where the family has nothing else.
    guards = all(one.variant == "guard" for one in family)
    candidates = _ranked(family, requirements, *(("guard",) if guards else ()))
    if not candidates:
        raise _unsupported(f"'{requested}', as served here,", requirements, fleet, family[0].served)
    best = candidates[0]
    return Target(best.served, best.name, f"family {requested}, {best.variant} fits {requirements.kind}")


def _by_variants(
    variants: Sequence[str],
    requirements: Requirements,
    reason: str,
    requested: str,
    fleet: Fleet,
    specialty: Specialty | None = None,
) -> Target:
    """The first of `variants` with a served model that supports the request; a variant's default in the fleet is first.

    With a `specialty`, code models that have it come before those that do not.
    """
    models = [choice for variant in variants for choice in _of_variant(variant, fleet, specialty)]
    if not models:
        listed = " or ".join(variants)
        raise _not_found(f"'{requested}' asks for a model of variant {listed}; none is served.{_hint('', fleet)}")
    best = next((one for one in models if supports(one.served, requirements)), None)
    if best is None:
        raise _unsupported(f"'{requested}', as served here,", requirements, fleet, models[0].served)
    return Target(best.served, best.name, reason)


def _of_variant(variant: str, fleet: Fleet, specialty: Specialty | None) -> list[Choice]:
    default = next((name for key, name in fleet.defaults.items() if key == variant), None)
    every = list(_choices(fleet.served))
    models = [one for one in every if one.name == default]
    models += [one for one in every if one.variant == variant and one.own_variant and one.name != default]
    return sorted(models, key=lambda one: specialty not in (None, one.served.model.specialty))


def auto_variants(requirements: Requirements) -> tuple[str, tuple[Variant, ...]]:
    """The reason and the variants that `auto` tries for a request, best first."""
    if requirements.kind == "embedding":
        return "embeddings", ("embedding",)
    if requirements.kind == "rerank":
        return "reranking", PREFERENCES["rerank"]
    if requirements.kind == "tokens":
        return "token ids", PREFERENCES["tokens"]
    if requirements.kind == "infill":
        return "a suffix", PREFERENCES["infill"]
    if requirements.kind == "completion":
        if requirements.code:
            return "code in the prompt", ("code", "base", "instruct", "chat")
        return "plain text", PREFERENCES["completion"]
    if requirements.tools:
        return "tools", ("instruct", "chat", "code", "base")
    if requirements.code:
        return "code in the conversation", ("code", "instruct", "chat", "base")
    if requirements.turns > 1:
        return "several turns", ("chat", "instruct", "code", "base")
    return "a single instruction", ("instruct", "chat", "code", "base")


def _hint(requested: str, fleet: Fleet) -> str:
    names = [served.id for served in fleet.served] + list(fleet.aliases)
    names += [adapter.id for served in fleet.served for adapter in served.adapters]
    known = dict.fromkeys([*names, *(family for choice in _choices(fleet.served) for family in choice.families)])
    close = difflib.get_close_matches(requested.lower(), known, 3, 0.5)
    if close:
        return f" Did you mean {', '.join(repr(name) for name in close)}?"
    return f" Served here: {', '.join(repr(name) for name in names[:10])}; GET /v1/models lists all."
