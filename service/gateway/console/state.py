"""What the console shows of models and of the requests that wait for them, as JSON. Pure."""

from collections.abc import Iterable, Iterator
from typing import Any

from service.admission.slots import Waiting
from service.engine.state import EngineState
from service.engine.status_writer import START_ORDER
from service.gateway.console.history import ReplicaSample
from service.sharing.parts import Part, gib
from service.upstreams.replica import Replica
from service.upstreams.upstream import Upstream

Row = dict[str, Any]


def starts(upstreams: Iterable[Upstream]) -> dict[str, Row]:
    """How each replica came to be in its state: by its id, with the seconds of each phase of its start.

    `share` is what it takes of a memory that it shares, in words; None where it shares none.
    """
    return {
        replica.id: {
            **start_of(replica.state, replica.ready and not replica.breaker.closed),
            "share": share_of(upstream.served.part),
        }
        for upstream in upstreams
        for replica in upstream.replicas
        if replica.state
    }


def start_of(state: EngineState, ejected: bool) -> Row:
    """`since` is in Unix seconds. `step` of `steps` is how far a start is; None where none is going on."""
    starting = state.condition == "starting" and state.phase in START_ORDER
    return {
        "since": state.since or None,
        "step": START_ORDER.index(state.phase) + 1 if starting else None,
        "steps": len(START_ORDER),
        "phase": state.phase or None,
        "phases": [[name, round(seconds, 1)] for name, seconds in state.start_phases.items()],
        "restarts": state.restarts,
        "ejected": ejected,
    }


def share_of(part: Part | None) -> str | None:
    """What an engine takes of a memory that it shares, and whether it is always there."""
    if part is None:
        return None
    return f"{gib(part.memory)} of the {gib(part.share.memory)} of share {part.share.name}, {part.keep}"


def why_waiting(upstream: Upstream, now: float) -> str:
    """Why a request of the model waits, as things stand at `now` in monotonic seconds."""
    condition, reason = upstream.condition()
    if condition != "ready":
        ready_in = upstream.ready_in(now)
        about = "" if ready_in is None else f", about {ready_in:.0f} s"
        return f"the model is {condition.replace('_', ' ')}{f': {reason}' if reason else ''}{about}"
    usable = upstream.usable(now)
    if not usable:
        return "its ready replicas have failed requests, and get none for a while"
    most, running = sum(one.limit for one in usable), sum(one.in_flight for one in usable)
    return f"its ready replicas run {running} of the {most} sequences that they take at once"


def waiting_rows(model: str, why: str, waiting: Iterable[Waiting]) -> Iterator[Row]:
    """The requests that wait for the model, the next one first."""
    for one in sorted(waiting, key=lambda one: one.position):
        yield {
            "model": model,
            "tenant": one.tenant,
            "priority": one.priority,
            "position": one.position,
            "sequences": one.sequences,
            "refused_in": round(one.seconds, 1),
            "reason": why,
        }


class Meter:
    """Samples replicas; remembers how many tokens each had computed, and when."""

    def __init__(self) -> None:
        self._tokens: dict[str, tuple[float, float]] = {}

    def sample(self, replicas: Iterable[Replica]) -> dict[str, ReplicaSample]:
        """A sample of each; those that are gone are forgotten."""
        known, self._tokens = self._tokens, {}
        return {one.id: self._sample(one, known.get(one.id)) for one in replicas}

    def _sample(self, replica: Replica, before: tuple[float, float] | None) -> ReplicaSample:
        stats = replica.stats
        if stats is None:
            return ReplicaSample(replica.in_flight, replica.limit)
        self._tokens[replica.id] = (stats.at, stats.tokens)
        rate = None
        if before and stats.at > before[0] and stats.tokens >= before[1]:
            rate = round((stats.tokens - before[1]) / (stats.at - before[0]), 1)
        usage = round(stats.kv_usage, 4)
        return ReplicaSample(replica.in_flight, replica.limit, stats.running, stats.waiting, usage, rate)
