"""The objects of `GET /v1/models`: served models, their adapters and aliases, in OpenAI's or Anthropic's shape."""

from collections.abc import Iterable, Iterator
from typing import Any

from service.engine.state import EngineState
from service.fleet.fleet import Fleet
from service.upstreams.upstream import Upstream

RELEASED = "1970-01-01T00:00:00Z"  # what Anthropic's API says of a model whose release date is unknown

Row = dict[str, Any]


def model_rows(fleet: Fleet, upstreams: Iterable[Upstream]) -> list[Row]:
    """All models in the fleet's order, each followed by its adapters, and then the aliases, as OpenAI's objects.

    An alias is a row of its own; its `alias_of` is the id of the model or adapter that it stands for. One that several
    models share has the first of them that gets requests there, and in `weights` those of all.
    """
    rows = {row["id"]: row for upstream in upstreams for row in _rows_of(upstream, fleet)}
    aliases = (
        {**rows[target], "id": alias, "aliases": [], "alias_of": target, **_weights(alias, fleet)}
        for alias, target in fleet.aliases.items()
        if target in rows
    )
    return [*rows.values(), *aliases]


def rows_of(ids: frozenset[str], rows: Iterable[Row]) -> list[Row]:
    """Those of these models and adapters, and of their aliases, without fallbacks that are none of them."""
    return [
        {**row, "fallback": [id for id in row["fallback"] if id in ids]}
        for row in rows
        if row.get("alias_of", row["id"]) in ids
    ]


def anthropic_model(row: Row) -> Row:
    """The row as an object of Anthropic's API; an alias shows what it stands for."""
    target = row.get("alias_of")
    name = f"{row['id']} ({target})" if target else row["id"]
    return {"type": "model", "id": row["id"], "display_name": name, "created_at": RELEASED}


def anthropic_list(rows: Iterable[Row]) -> Row:
    """The rows as the only page of Anthropic's list."""
    data = [anthropic_model(row) for row in rows]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"data": data, "has_more": False, "first_id": first, "last_id": last}


def _rows_of(upstream: Upstream, fleet: Fleet) -> Iterator[Row]:
    """The model of an upstream and its adapters."""
    served = upstream.served
    condition, reason = upstream.condition()
    model = {
        "id": served.id,
        "object": "model",
        "created": 0,
        "owned_by": served.family,
        "root": served.id,
        "parent": None,
        "family": served.family,
        "variant": served.variant,
        "specialty": served.model.specialty,
        "context_length": served.context,
        "max_model_len": served.context,
        "capabilities": sorted(served.capabilities),
        "aliases": _aliases_of(served.id, fleet),
        "weight": served.weight,
        "fallback": list(served.fallback),
        "state": condition,
        "reason": reason,
        "replicas": [_replica(replica.id, replica.state) for replica in upstream.replicas],
    }
    yield model
    for adapter in served.adapters:
        condition, reason = upstream.adapter_condition(adapter.id)
        yield {
            **model,
            "id": adapter.id,
            "variant": adapter.variant or served.variant,
            "family": adapter.family or served.family,
            "aliases": _aliases_of(adapter.id, fleet),
            "weight": adapter.weight,
            "fallback": list(adapter.fallback),
            "state": condition,
            "reason": reason,
            "root": adapter.id,
            "parent": served.id,
            "replicas": [_replica_of(adapter.id, replica.id, replica.state) for replica in upstream.replicas],
        }


def _aliases_of(name: str, fleet: Fleet) -> list[str]:
    return [alias for alias, target in fleet.aliases.items() if name in fleet.shares.get(alias, (target,))]


def _weights(alias: str, fleet: Fleet) -> Row:
    return {"weights": fleet.shares[alias]} if alias in fleet.shares else {}


def _replica(name: str, state: EngineState | None) -> Row:
    if state is None:
        return {"id": name, "state": "waiting", "reason": None, "restarts": 0}
    return {
        "id": name,
        "state": state.condition,
        "reason": state.reason or state.phase or None,
        "restarts": state.restarts,
    }


def _replica_of(adapter: str, name: str, state: EngineState | None) -> Row:
    """A replica as far as an adapter is concerned."""
    row = _replica(name, state)
    if state is None or state.condition != "ready" or state.has_adapter(adapter):
        return row
    reason = state.adapters.get(adapter)
    return {**row, "state": "failed" if reason else "starting", "reason": reason or "loading"}
