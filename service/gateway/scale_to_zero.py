"""Decides which on-demand engines should run. Pure: time and demand are arguments."""

import math
from collections.abc import Callable

from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel


class Activator:
    """Activates on-demand engines, and keeps each for `scale_down_after` seconds after it was last needed.

    Engines are numbered in start order, as `Fleet.replicas` gives them.
    """

    def __init__(self, fleet: Fleet) -> None:
        replicas = enumerate(fleet.replicas())
        self._on_demand = {
            order: (served.id, number) for order, (served, number) in replicas if number >= served.min_replicas
        }
        self._needed_at: dict[int, float] = {}

    def wanted_engines(
        self, fleet: Fleet, demand: Callable[[str], int], slots: Callable[[str], int], now: float
    ) -> list[int]:
        """The on-demand engines that should run, in start order.

        `demand` gives a model's requests, in flight and queued; `slots` how many requests one of its replicas takes;
        `now` is in monotonic seconds. A model that is no longer in the fleet needs none.
        """
        served = {model.id: model for model in fleet.served}
        wanted = []
        for order, (model_id, number) in self._on_demand.items():
            model = served.get(model_id)
            if model is None:
                continue
            if number < replicas_needed(model, demand(model_id), slots(model_id)):
                self._needed_at[order] = now
            if now - self._needed_at.get(order, -math.inf) < model.scale_down_after:
                wanted.append(order)
        return wanted


def replicas_needed(served: ServedModel, demand: int, slots: int) -> int:
    """The replicas that `demand` requests need at `slots` each, between the model's minimum and maximum."""
    return min(served.max_replicas, max(served.min_replicas, math.ceil(demand / max(1, slots))))
