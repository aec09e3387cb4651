"""Which engines on demand are wanted now: pure, with the time and the demand passed in."""

import math
from collections.abc import Callable

from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel


class Activator:
    """Remembers when each engine on demand was last needed, so that it is kept for a while without work.

    Engines are numbered in starting order, as `Fleet.replicas` gives them.
    """

    def __init__(self, fleet: Fleet) -> None:
        rows = enumerate(fleet.replicas())
        self._on_demand = {
            order: (served.id, number) for order, (served, number) in rows if number >= served.min_replicas
        }
        self._needed_at: dict[int, float] = {}

    def wanted(self, fleet: Fleet, demand: Callable[[str], int], places: Callable[[str], int], now: float) -> list[int]:
        """The engines on demand that should run, in order.

        `demand` is a model's requests, running and waiting; `places` how many one of its replicas takes; `now` is
        monotonic. A model that is no longer in the fleet wants none.
        """
        served = {one.id: one for one in fleet.served}
        wanted = []
        for order, (model_id, number) in self._on_demand.items():
            one = served.get(model_id)
            if one is None:
                continue
            if number < needed(one, demand(model_id), places(model_id)):
                self._needed_at[order] = now
            if now - self._needed_at.get(order, -math.inf) < one.scale_down_after:
                wanted.append(order)
        return wanted


def needed(served: ServedModel, demand: int, places: int) -> int:
    """How many replicas so many requests keep busy, within what the fleet says."""
    return min(served.max_replicas, max(served.min_replicas, math.ceil(demand / max(1, places))))
