"""The rules that choose a replica: pure functions, registered by the name the fleet file uses."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple
from zlib import crc32

from service.upstreams.replica import Replica

FULL = 0.9  # of the KV cache in use: from here on an engine may have to put requests back
AHEAD = 0.25  # how far above its share of the load a replica may be kept, and the least for few requests as variances:
CONTEXTS = 2.0  # a context of many conversations, which other replicas would soon know as well
CONVERSATIONS = 4.0  # one conversation, which they would not
ODD = 0x9E3779B97F4A7C15
BITS = 2**64 - 1


class PolicyInput(NamedTuple):
    """What a policy may go by: the count of the model's requests, and what this one has in common with others.

    `key` is of 64 bits, see `affinity.key`: the upper half for what many conversations share, the lower for this one.
    """

    request_count: int
    key: int


# The replicas are those that may be asked, at least one.
Policy = Callable[[Sequence[Replica], PolicyInput], Replica]


def least_load(replicas: Sequence[Replica], choice: PolicyInput) -> Replica:
    """The one that is busy with the least part of what it can do; among equals each in its turn."""
    first = choice.request_count % len(replicas)
    return min([*replicas[first:], *replicas[:first]], key=load)


def power_of_two(replicas: Sequence[Replica], choice: PolicyInput) -> Replica:
    """The less loaded of two that are drawn: gateways that do not know of each other rarely agree on the same one."""
    count = len(replicas)
    if count == 1:
        return replicas[0]
    drawn = ((choice.key ^ choice.request_count) * ODD & BITS) >> 32
    first, step = drawn % count, 1 + drawn // count % (count - 1)
    return min(replicas[first], replicas[(first + step) % count], key=load)


def prefix_affinity(replicas: Sequence[Replica], choice: PolicyInput) -> Replica:
    """The one that has probably read most of this prompt before, unless it has more than its share to do.

    Where the replica of a shared context is busy, the conversations spread over the others, each to one of its own.
    """
    if not choice.key:
        return least_load(replicas, choice)
    loads = [busy(replica) for replica in replicas]
    share = sum(loads) / sum([replica.limit for replica in replicas])
    context, conversation = choice.key >> 32, choice.key & 0xFFFFFFFF
    away: Replica | None = None
    if context != conversation:
        home = _preferred(replicas, context)
        if loads[replicas.index(home)] < _bound(share * home.limit, CONTEXTS):
            return home
        away = home
    own = _preferred(replicas, conversation)
    if own is not away and loads[replicas.index(own)] < _bound(share * own.limit, CONVERSATIONS):
        return own
    others = [
        replica
        for replica, load in zip(replicas, loads, strict=True)
        if replica is not away and load < _bound(share * replica.limit, CONVERSATIONS)
    ]
    return _preferred(others, conversation)


def round_robin(replicas: Sequence[Replica], choice: PolicyInput) -> Replica:
    """Each in its turn."""
    return replicas[choice.request_count % len(replicas)]


def load(replica: Replica) -> float:
    """The part of what it can do that a replica is busy with; 1 is all of it."""
    return busy(replica) / replica.limit


def busy(replica: Replica) -> float:
    """How many requests a replica is busy with, a KV cache that is nearly full counted as if they were more."""
    stats, count = replica.stats, float(replica.in_flight)
    if stats is None:
        return count
    # Our count is of now, the engine's is up to a second old and was seen by every gateway: what it has more than we
    # know of counts half, or all gateways would turn to the same replica at once.
    seen = stats.running + stats.waiting
    if seen > count:
        count += (seen - count) / 2
    if stats.kv_usage > FULL:
        count += (stats.kv_usage - FULL) / (1 - FULL) * replica.limit
    return count


def _preferred(replicas: Sequence[Replica], key: int) -> Replica:
    """The highest of rendezvous hashing: where replicas come or go, only their own keys move."""
    ranks = [crc32(replica.id.encode(), key) * ODD & BITS for replica in replicas]
    return replicas[ranks.index(max(ranks))]


def _bound(fair: float, variances: float) -> float:
    """Below how many requests a replica may be given more than its fair share.

    Chance alone makes counts differ by their square root, so a bound without it would part conversations for nothing.
    """
    return fair - 1 + max(AHEAD * fair, math.sqrt(variances * (1 + fair)))


POLICIES: Mapping[str, Policy] = MappingProxyType({
    "prefix_affinity": prefix_affinity,
    "least_load": least_load,
    "power_of_two": power_of_two,
    "round_robin": round_robin,
})  # fmt: skip
