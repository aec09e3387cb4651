"""Load balancing policies: pure functions that pick a replica, registered by their name in the fleet file."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple
from zlib import crc32

from service.upstreams.replica import Replica

KV_CACHE_FULL = 0.9  # share of the KV cache in use from which on an engine may have to preempt requests
# The load bound of affinity: this share above the fair load, or at low load the square root of so many times it.
EXCESS = 0.25
CONTEXT_VARIANCE = 2.0  # for a context that many conversations share: other replicas would soon have it cached too
CONVERSATION_VARIANCE = 4.0  # for one conversation, which no other replica has cached
GOLDEN_RATIO = 0x9E3779B97F4A7C15
MASK = 2**64 - 1


class PolicyInput(NamedTuple):
    """What a policy knows of a request: how many the model has had before, and its prefix key.

    `key` has 64 bits, see `prefix_key.key`: the upper half stands for the shared context, the lower for the
    conversation. 0 is no affinity.
    """

    request_count: int
    key: int


# The replicas are the candidates, at least one.
Policy = Callable[[Sequence[Replica], PolicyInput], Replica]


def least_load(replicas: Sequence[Replica], request: PolicyInput) -> Replica:
    """The replica with the lowest load; equally loaded ones in turn."""
    start = request.request_count % len(replicas)
    return min([*replicas[start:], *replicas[:start]], key=load)


def power_of_two(replicas: Sequence[Replica], request: PolicyInput) -> Replica:
    """The less loaded of two random replicas.

    Several gateways with the same, outdated view of the load do not all pick the same replica. M. Mitzenmacher, "The
    power of two choices in randomized load balancing", IEEE TPDS 12(10), 2001.
    """
    count = len(replicas)
    if count == 1:
        return replicas[0]
    random_bits = ((request.key ^ request.request_count) * GOLDEN_RATIO & MASK) >> 32
    start, step = random_bits % count, 1 + random_bits // count % (count - 1)
    return min(replicas[start], replicas[(start + step) % count], key=load)


def prefix_affinity(replicas: Sequence[Replica], request: PolicyInput) -> Replica:
    """The replica that probably has most of the prompt in its prefix cache, unless that exceeds its load bound.

    Rendezvous hashing with bounded loads, applied first to the shared context and then to the conversation: if the
    replica of a context is at its bound, the conversations over it spread over the others, each to one of its own.
    V. Mirrokni, M. Thorup and M. Zadimoghaddam, "Consistent hashing with bounded loads", SODA 2018.
    """
    if not request.key:
        return least_load(replicas, request)
    loads = [busy(replica) for replica in replicas]
    load_per_slot = sum(loads) / sum([replica.limit for replica in replicas])
    context, conversation = request.key >> 32, request.key & 0xFFFFFFFF
    busy_home: Replica | None = None
    if context != conversation:
        home = _rendezvous(replicas, context)
        if loads[replicas.index(home)] < _load_bound(load_per_slot * home.limit, CONTEXT_VARIANCE):
            return home
        busy_home = home
    target = _rendezvous(replicas, conversation)
    if target is not busy_home and loads[replicas.index(target)] < _load_bound(
        load_per_slot * target.limit, CONVERSATION_VARIANCE
    ):
        return target
    under_bound = [
        replica
        for replica, load in zip(replicas, loads, strict=True)
        if replica is not busy_home and load < _load_bound(load_per_slot * replica.limit, CONVERSATION_VARIANCE)
    ]
    return _rendezvous(under_bound, conversation)


def round_robin(replicas: Sequence[Replica], request: PolicyInput) -> Replica:
    """Each replica in turn."""
    return replicas[request.request_count % len(replicas)]


def load(replica: Replica) -> float:
    """The requests at a replica relative to its limit; 1 is full."""
    return busy(replica) / replica.limit


def busy(replica: Replica) -> float:
    """The effective number of requests at a replica: those in flight, and more while its KV cache is nearly full."""
    stats, count = replica.stats, float(replica.in_flight)
    if stats is None:
        return count
    # Our count is current but only ours; the engine's counts all gateways but is up to a second old, and all gateways
    # see it. The difference counts half, or all of them would turn to the same replica at once.
    reported = stats.running + stats.waiting
    if reported > count:
        count += (reported - count) / 2
    if stats.kv_usage > KV_CACHE_FULL:
        count += (stats.kv_usage - KV_CACHE_FULL) / (1 - KV_CACHE_FULL) * replica.limit
    return count


def _rendezvous(replicas: Sequence[Replica], key: int) -> Replica:
    """The replica with the highest hash of id and key: when replicas come or go, only their own keys move.

    D. Thaler and C. Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM ToN 6(1), 1998.
    """
    ranks = [crc32(replica.id.encode(), key) * GOLDEN_RATIO & MASK for replica in replicas]
    return replicas[ranks.index(max(ranks))]


def _load_bound(fair_load: float, variance: float) -> float:
    """The number of requests below which a replica may get one more, with `fair_load` its fair share of all requests.

    Random arrivals alone make counts differ by about their square root, so a tighter bound would move conversations for
    nothing.
    """
    return fair_load - 1 + max(EXCESS * fair_load, math.sqrt(variance * (1 + fair_load)))


POLICIES: Mapping[str, Policy] = MappingProxyType({
    "prefix_affinity": prefix_affinity,
    "least_load": least_load,
    "power_of_two": power_of_two,
    "round_robin": round_robin,
})  # fmt: skip
