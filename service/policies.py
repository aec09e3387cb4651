"""The rules that choose a replica: pure functions, registered by the name the fleet file uses."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from service.upstreams.replica import Replica

# `replicas` is not empty; `turn` counts the model's requests.
Policy = Callable[[Sequence[Replica], int], Replica]


def least_load(replicas: Sequence[Replica], turn: int) -> Replica:
    """The one with the fewest requests of ours; among equals each in its turn."""
    first = turn % len(replicas)
    return min([*replicas[first:], *replicas[:first]], key=lambda replica: replica.in_flight)


def round_robin(replicas: Sequence[Replica], turn: int) -> Replica:
    """Each in its turn."""
    return replicas[turn % len(replicas)]


POLICIES: Mapping[str, Policy] = MappingProxyType({"least_load": least_load, "round_robin": round_robin})
