"""The live replicas of each served model: what their engines say of themselves, and what the gateway saw of them."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from service.engine import state
from service.engine.state import EngineState
from service.fleet import Fleet, Served

POLL = 0.25  # seconds between two looks at the state files
EJECTION = 1.0  # seconds a replica rests after its first failure; doubled at each further one
LONGEST_EJECTION = 30.0


@dataclass
class Replica:
    """One engine as the gateway sees it. `address` is its socket's path; times are of the monotonic clock."""

    id: str
    address: str
    state: EngineState | None = None
    in_flight: int = 0
    failures: int = 0
    rests_until: float = 0.0

    def usable(self, now: float) -> bool:
        """Whether a request may be sent there."""
        return self.state is not None and self.state.condition == "ready" and now >= self.rests_until


@dataclass
class Upstream:
    """All replicas of a served model."""

    served: Served
    replicas: list[Replica]
    turn: int = field(default=0)

    def usable(self, now: float) -> list[Replica]:
        """The replicas that may get a request."""
        return [replica for replica in self.replicas if replica.usable(now)]

    def condition(self) -> tuple[str, str | None]:
        """The model's state in one word, and the reason when it is not `ready`."""
        states = [replica.state for replica in self.replicas if replica.state]
        for wanted in ("ready", "starting", "waiting", "failed", "stopping", "stopped"):
            for one in states:
                if one.condition == wanted:
                    return wanted, one.reason or (one.phase if wanted != "ready" else None)
        return "waiting", "its engine service has not started yet"


class Upstreams:
    """Every upstream of the fleet, kept up to date from the run folder."""

    def __init__(self, fleet: Fleet, run_dir: Path, clock: Callable[[], float]) -> None:
        self._run_dir, self._clock = run_dir, clock
        self._by_model: dict[str, Upstream] = {}
        self._by_order: list[Replica] = []
        self._seen: dict[int, tuple[int, int]] = {}
        for order, (served, number) in enumerate(fleet.replicas()):
            upstream = self._by_model.setdefault(served.id, Upstream(served, []))
            address = str(state.socket_path(run_dir, order))
            replica = Replica(state.replica_id(served.id, number), address)
            upstream.replicas.append(replica)
            self._by_order.append(replica)

    def __getitem__(self, model_id: str) -> Upstream:
        return self._by_model[model_id]

    def __iter__(self) -> Iterator[Upstream]:
        return iter(self._by_model.values())

    def refresh(self) -> bool:
        """Reads the state files that changed; returns whether any did."""
        changed = False
        for order, replica in enumerate(self._by_order):
            try:
                found = state.state_path(self._run_dir, order).stat()
            except OSError:
                continue
            # Two writes can fall into one tick of the file system's clock, but each makes a new file.
            stamp = found.st_mtime_ns, found.st_ino
            if self._seen.get(order) != stamp:
                self._seen[order] = stamp
                replica.state = state.read(self._run_dir, order) or replica.state
                replica.failures, replica.rests_until = 0, 0.0
                changed = True
        return changed

    async def watch(self, changed: Callable[[], None]) -> None:
        """Refreshes for ever, calling `changed` after each difference."""
        while True:
            if self.refresh():
                changed()
            await asyncio.sleep(POLL)

    def failed(self, replica: Replica) -> None:
        """Lets a replica rest that just failed: longer at each failure in a row."""
        replica.failures += 1
        rest = min(LONGEST_EJECTION, EJECTION * 2 ** (replica.failures - 1))
        replica.rests_until = self._clock() + rest

    def counts(self) -> Iterator[tuple[str, str, int]]:
        """Rows of (model, condition, number of replicas) for every condition there is."""
        for upstream in self:
            counted = Counter(one.state.condition if one.state else "waiting" for one in upstream.replicas)
            for condition in state.CONDITIONS:
                yield upstream.served.id, condition, counted[condition]
