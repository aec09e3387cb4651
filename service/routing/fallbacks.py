"""Which models may answer a request in place of the one that it was resolved to. Pure."""

from collections.abc import Iterator

from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel
from service.protocol.generation import Requirements
from service.routing.resolve import Target, supports


def may_fall_back(requested: str, target: Target, wish: bool | None) -> bool:
    """Whether another model may answer: one that was asked for by its id is never replaced, unless that is wished.

    `wish` is what the client says itself, None if nothing.
    """
    if not target.fallback:
        return False
    return requested != target.name if wish is None else wish


def fallbacks(target: Target, requirements: Requirements, tokens: float, fleet: Fleet) -> Iterator[Target]:
    """The fallbacks of a target that fit the request, in order, of those that the caller of this fleet may use.

    `tokens` is an estimate of what the request needs of a model's context.
    """
    for id in target.fallback:
        if id not in (fleet.ids if fleet.allowed is None else fleet.allowed):
            continue
        served = fleet.serving(id)
        if _fits(served, target.served, requirements, tokens):
            yield Target(served, id, target.reason)


def _fits(other: ServedModel, first: ServedModel, requirements: Requirements, tokens: float) -> bool:
    """Whether the other model can do what the request wants of the first one."""
    if not supports(other, requirements):
        return False
    if requirements.tools and _calls_tools(first) and not _calls_tools(other):
        return False
    as_long = other.context is None or (first.context is not None and first.context <= other.context)
    return as_long or tokens <= (other.context or 0)


def _calls_tools(served: ServedModel) -> bool:
    """Whether its engines recognise tool calls in answers."""
    return bool(served.engine.get("tool_call_parser"))
