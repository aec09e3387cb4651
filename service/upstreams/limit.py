"""The adaptive concurrency limit of a replica.

It is about what the engine runs at once, so that further requests queue in the gateway: from there they can still go to
any replica, in the order of priority and fairness; from the engine's own queue they cannot. As in AIMD congestion
control the limit grows while it is reached and the engine's queue is empty, and drops when that queue builds up; unlike
in AIMD both steps are proportional.
"""

from service.engine.engine_stats import EngineStats
from service.fleet.served_model import ServedModel

QUEUE_DIVISOR = 20  # the engine may queue one request for each 20 that run, at least one, so that no step goes idle
GROWTH_DIVISOR = 10  # a limit grows by a tenth, at least by one
FULL = 0.95  # used fraction of the KV cache above which more requests would only preempt others


def ceiling(served: ServedModel, gateways: int) -> int:
    """The most sequences that one of `gateways` gateway processes may have in flight at one replica.

    A single request of more of them exceeds it.
    """
    return max(1, min(served.max_in_flight, served.engine_bound or served.max_in_flight) // gateways)


def initial_limit(served: ServedModel, gateways: int) -> int:
    """The limit before the engine's first sample: this gateway's share of `max_num_seqs`, else the ceiling."""
    max_num_seqs = served.engine.get("max_num_seqs")
    most = ceiling(served, gateways)
    return min(most, max(1, max_num_seqs // gateways)) if isinstance(max_num_seqs, int) else most


def next_limit(limit: int, in_flight: int, stats: EngineStats, ceiling: int) -> int:
    """The limit after a sample of the engine; `in_flight` counts this gateway's sequences there. Pure.

    When too many requests wait in the engine it drops towards this gateway's share of those that run, by a quarter at
    most, since a burst of long prompts waits only for a moment. Each of several gateways drops in proportion.
    """
    may_wait = max(1, stats.running // QUEUE_DIVISOR)
    if stats.waiting > may_wait:
        if in_flight:
            share = in_flight * stats.running // (stats.running + stats.waiting) + may_wait
            limit = min(limit, max(share, in_flight * 3 // 4))
    elif not stats.waiting and in_flight >= limit - limit // GROWTH_DIVISOR and stats.kv_usage < FULL:
        limit += max(1, limit // GROWTH_DIVISOR)
    return max(1, min(limit, ceiling))
