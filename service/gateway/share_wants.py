"""What this gateway process wants of engines that share memory, for their supervisors."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from service.admission.gate import Admission
from service.engine import share_demand
from service.engine.share_demand import Want
from service.fleet.fleet import Fleet
from service.upstreams.upstreams import Upstreams

# Seconds for which requests that were refused still count as waiting: their clients were told when to come again.
HOLD_TIME = 60.0


class ShareWants:
    """The demand for each engine that shares memory, by its startup order. Pure: times are arguments.

    A model has waited since its first request that had to: also while its clients are away because they were refused.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._models = {order: model.id for order, (model, _) in enumerate(fleet.replicas()) if model.part}
        self._since: dict[int, float] = {}
        self._queued_at: dict[int, float] = {}
        self._used_at: dict[int, float] = {}

    def __bool__(self) -> bool:
        return bool(self._models)

    def update(
        self, queued: Callable[[str], int], running: Callable[[str], int], ready: Callable[[str], bool], now: float
    ) -> Mapping[int, Want]:
        """What is wanted now: `queued` and `running` count a model's requests, `ready` says whether it answers any."""
        found = {}
        for order, model in self._models.items():
            waiting, admitted = queued(model), running(model)
            if waiting:
                self._queued_at[order] = now
                self._since.setdefault(order, now)
            elif ready(model) or now - self._queued_at.get(order, now) > HOLD_TIME:
                self._since.pop(order, None)
            if waiting or admitted:
                self._used_at[order] = float(round(now))
            if order in self._used_at:
                found[order] = Want(waiting, admitted, self._since.get(order, 0.0), self._used_at[order])
        return found


class WantsWriter:
    """Keeps the file of this process up to date; writes none where no engines share memory."""

    def __init__(self, fleet: Fleet, run_dir: Path, upstreams: Upstreams, admission: Admission) -> None:
        self._wants, self._run_dir, self._upstreams, self._admission = ShareWants(fleet), run_dir, upstreams, admission
        self._written: Mapping[int, Want] = {}

    def write(self, now: float) -> None:
        """Writes what is wanted now, if that has changed. Where it cannot, the next call tries again."""
        if not self._wants:
            return
        conditions = {upstream.served.id: upstream.condition()[0] for upstream in self._upstreams}
        admission = self._admission
        wants = self._wants.update(admission.queued, admission.load, lambda id: conditions.get(id) == "ready", now)
        if wants != self._written:
            with suppress(OSError):
                share_demand.write(self._run_dir, os.getpid(), wants)
                self._written = wants
