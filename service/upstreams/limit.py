"""How many requests an engine is given at once: as many as it runs, so that the others wait where a choice is left."""

from service.engine.engine_stats import EngineStats
from service.fleet.served_model import ServedModel

DEPTH = 20  # one request may wait in the engine for each so many that run, and one in any case: no step goes idle
STEP = 10  # a limit grows by the tenth part
FULL = 0.95  # used part of the KV cache from which on more requests would only push each other out


def ceiling(served: ServedModel, gateways: int) -> int:
    """The most requests that one of so many gateway processes may have at a replica."""
    return max(1, served.max_in_flight // gateways)


def opening(served: ServedModel, gateways: int) -> int:
    """The limit before anything is known of the engine: what it is set to run at once, if it is."""
    seats = served.engine.get("max_num_seqs")
    most = ceiling(served, gateways)
    return min(most, max(1, seats // gateways)) if isinstance(seats, int) else most


def adapted(limit: int, in_flight: int, reading: EngineStats, ceiling: int) -> int:
    """The next limit, given one that held until this reading, and the requests this gateway has in flight there.

    Where too many wait in the engine it becomes our part of those that run, in steps: a burst of long prompts waits
    too, but only for a moment. Several gateways of one engine each give way by their part of what waits.
    """
    spare = max(1, reading.running // DEPTH)
    if reading.waiting > spare:
        if in_flight:
            ours = in_flight * reading.running // (reading.running + reading.waiting) + spare
            limit = min(limit, max(ours, in_flight * 3 // 4))
    elif not reading.waiting and in_flight >= limit - limit // STEP and reading.kv_usage < FULL:
        limit += max(1, limit // STEP)
    return max(1, min(limit, ceiling))
