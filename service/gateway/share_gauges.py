"""Sets the metrics of memory that engines share, from what their supervisors write into the run folder."""

from pathlib import Path

from service.engine.seats import CHANGES, Held, Seats
from service.fleet.fleet import Fleet
from service.observability.fleet_metrics import FleetMetrics
from service.sharing.parts import Part


class ShareGauges:
    """Updates `metrics`; does nothing for a fleet without shares."""

    def __init__(self, metrics: FleetMetrics, fleet: Fleet, run_dir: Path) -> None:
        self._metrics = metrics
        self._models: dict[int, str] = {}
        shares: dict[str, dict[int, Part]] = {}
        for order, (model, _) in enumerate(fleet.replicas()):
            if model.part:
                self._models[order] = model.id
                shares.setdefault(model.part.share.name, {})[order] = model.part
        self._shares = [(Seats(run_dir, name, parts), parts) for name, parts in shares.items()]

    def update(self, now: float) -> None:
        """Sets all of them; `now` is in monotonic seconds."""
        for seats, parts in self._shares:
            found = seats.read()
            share = next(iter(parts.values())).share
            self._metrics.share_memory.labels(share.name).set(share.memory)
            taken = sum(_taken(seat, parts[order]) for order, seat in found.items())
            self._metrics.share_taken.labels(share.name).set(taken)
            for order, seat in found.items():
                model = self._models[order]
                self._metrics.share_wait.labels(model).set(seat.waited_until(now))
                for change in CHANGES:
                    self._metrics.share_changes.labels(model, change).set(seat.changes.get(change, 0))


def _taken(seat: Held, part: Part) -> int:
    return {"out": 0, "asleep": part.asleep}.get(seat.place, part.memory)
