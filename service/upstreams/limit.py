"""The adaptive concurrency limit of a replica.

It is about what the engine runs at once, so that further requests queue in the gateway: from there they can still go to
any replica, in the order of priority and fairness; from the engine's own queue they cannot. As in congestion control
the limit drops when a queue stands in the engine, and grows while it is reached and nothing waits there. A queue that
the engine is reading, as after a burst, is none that stands.
"""

from collections import deque
from dataclasses import dataclass

from service.engine.engine_stats import EngineStats
from service.fleet.served_model import ServedModel

QUEUE_DIVISOR = 20  # the engine may queue one request for each 20 that run, at least one, so that no step goes idle
REACHED_DIVISOR = 10  # a limit is reached when all of it but a tenth is in flight
GROWTH = 2.0  # a limit doubles at most
READ_TIME = 1.0  # seconds, the time between samples: a queue that takes longer to read stands
LOOKS = 8  # that are remembered: two seconds, in which there is a sample
FULL = 0.95  # used fraction of the KV cache above which more requests would only preempt others


@dataclass(frozen=True)
class Observation:
    """What an engine's samples say: `stats` is the last, `stands` whether a queue stood in the engine then.

    `max_num_seqs` is how many requests it runs at once as far as is known, by its settings or by what it ran while a
    queue stood; None is unknown.
    """

    max_num_seqs: int | None = None
    stats: EngineStats | None = None
    stands: bool = False


def ceiling(served: ServedModel, gateways: int) -> int:
    """The most sequences that one of `gateways` gateway processes may have in flight at one replica.

    A single request of more of them exceeds it.
    """
    return max(1, min(served.max_in_flight, served.engine_bound or served.max_in_flight) // gateways)


def initial_limit(served: ServedModel, gateways: int) -> int:
    """The limit before the engine's first sample: this gateway's share of `max_num_seqs`, else the ceiling."""
    max_num_seqs, most = configured_max_num_seqs(served), ceiling(served, gateways)
    return most if max_num_seqs is None else min(most, max(1, max_num_seqs // gateways))


def configured_max_num_seqs(served: ServedModel) -> int | None:
    """The engine's `max_num_seqs` where the fleet or the catalogue sets it."""
    found = served.engine.get("max_num_seqs")
    return found if isinstance(found, int) else None


def observe(known: Observation, stats: EngineStats) -> Observation:
    """What is known after another sample. Pure.

    Requests that wait in the engine for running ones to end, and not just for their turn to be read, are a queue that
    stands: when the KV cache is full, when as many run as the engine can, or when, at the pace since the last sample,
    it needs longer than `READ_TIME` for those who wait. A queue that was not there at the last sample has no pace yet.
    """
    most, may_wait = known.max_num_seqs, _may_wait(stats)
    if most is not None and stats.running > most + may_wait:
        most = None  # it runs more than was taken for all that it can
    if _waiting(stats) <= may_wait:
        return Observation(most, stats)
    if stats.kv_usage >= FULL:
        return Observation(most, stats, stands=True)
    stands = (most is not None and stats.running >= most - may_wait) or _is_slow(known.stats, stats)
    return Observation(stats.running if stands and most is None else most, stats, stands)


class InFlight:
    """How many sequences were in flight at the last looks, so that a sample judges those that it can have seen."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque(maxlen=LOOKS)

    def look(self, now: float, in_flight: int) -> None:
        """So many are in flight `now`, in monotonic seconds."""
        self._looks.append((now, in_flight))

    def before(self, at: float) -> int:
        """How many were at the last look before `at`, in monotonic seconds; 0 where there was none."""
        return next((found for seen, found in reversed(self._looks) if seen <= at), 0)


def next_limit(
    limit: int, in_flight: int, observation: Observation, ceiling: int, sent_before: int | None = None
) -> int:
    """The limit after a sample; `in_flight` counts this gateway's sequences at the engine, and `sent_before` those
    that were there before the sample was taken; None if they are the same. Pure.

    Where a queue stands it drops towards this gateway's share of those that run, by a quarter at most, so that a wrong
    guess costs little. Each of several gateways drops in proportion. It grows as far as the KV cache and `max_num_seqs`
    have room for more requests like those that run, at least by one and at most twofold; only if it was reached before
    the sample, for of requests that were sent after it the sample cannot tell whether they wait.
    """
    stats = observation.stats
    if stats is None:
        return limit
    waiting = _waiting(stats)
    if observation.stands and in_flight:
        share = in_flight * stats.running // (stats.running + waiting) + _may_wait(stats)
        limit = min(limit, max(share, in_flight * 3 // 4))
    elif not waiting and _reached(limit, in_flight, sent_before) and stats.kv_usage < FULL:
        limit = max(limit + 1, int(limit * _growth(stats, observation.max_num_seqs)))
    return max(1, min(limit, ceiling))


def _reached(limit: int, in_flight: int, sent_before: int | None) -> bool:
    judged = in_flight if sent_before is None else min(in_flight, sent_before)
    return judged >= limit - limit // REACHED_DIVISOR


def _growth(stats: EngineStats, max_num_seqs: int | None) -> float:
    """The factor by which the engine could run more requests than it does."""
    by_cache = FULL / stats.kv_usage if stats.kv_usage else GROWTH
    by_sequences = max_num_seqs / stats.running if max_num_seqs and stats.running else GROWTH
    return min(GROWTH, by_cache, by_sequences)


def _is_slow(before: EngineStats | None, stats: EngineStats) -> bool:
    if before is None or _waiting(before) <= _may_wait(before):
        return False
    # Who left the queue since runs now or has finished. An engine that does not count those seems slower than it is.
    read = stats.running + stats.finished - before.running - before.finished
    return _waiting(stats) * (stats.at - before.at) > READ_TIME * read


def _waiting(stats: EngineStats) -> int:
    return stats.waiting - stats.deferred


def _may_wait(stats: EngineStats) -> int:
    return max(1, stats.running // QUEUE_DIVISOR)
