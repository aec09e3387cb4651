"""Every upstream of the fleet, and the background tasks that keep replicas, health, load and limits current."""

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from service.config.settings import Settings
from service.engine import state
from service.engine.state import Condition
from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel
from service.observability.background import OnFailure, keep_running
from service.transport.pool import ConnectionPool
from service.upstreams.discovery import Discovery, Lookup, look_up
from service.upstreams.limit import (
    InFlight,
    Observation,
    ceiling,
    configured_max_num_seqs,
    initial_limit,
    next_limit,
    observe,
)
from service.upstreams.local import LocalEngine
from service.upstreams.remote import RemoteEngine
from service.upstreams.replica import Replica
from service.upstreams.upstream import Upstream

log = logging.getLogger("roundhouse")

POLL = 0.25  # seconds between two reads of the state files; also the least between two checks of an engine
CHECK_INTERVAL = 1.0  # seconds between two checks of an engine, unless a request fails there
RESOLVE_INTERVAL = 5.0  # seconds between two lookups of a name, unless a request fails at the model
MIN_RESOLVE_INTERVAL = 1.0  # seconds between two lookups in any case
Changed = Callable[[], None]
Loop = Callable[[], Coroutine[Any, Any, None]]


class Upstreams:
    """The upstreams by model id, in the fleet's order. `clock` returns monotonic seconds, `lookup` resolves names.

    Local replicas have no state before the first `refresh`; remote ones have none before `watch` has checked them.
    """

    def __init__(
        self,
        fleet: Fleet,
        settings: Settings,
        transport: ConnectionPool,
        clock: Callable[[], float],
        lookup: Lookup = look_up,
    ) -> None:
        assert settings.run_dir
        self._settings, self._transport, self._clock, self._lookup = settings, transport, clock, lookup
        self._gateways = settings.gateway_processes
        self._local_replicas: dict[str, list[Replica]] = {}
        self._local_engines: dict[Replica, LocalEngine] = {}
        for order, (served, number) in enumerate(fleet.replicas()):
            address = str(state.socket_path(settings.run_dir, order))
            replica = self._replica(state.replica_id(served.id, number), address, served)
            self._local_replicas.setdefault(served.id, []).append(replica)
            self._local_engines[replica] = LocalEngine(replica, order, settings.run_dir, transport, clock)
        self._by_model: dict[str, Upstream] = {}
        self.apply(fleet)

    def __getitem__(self, model_id: str) -> Upstream:
        return self._by_model[model_id]

    def __iter__(self) -> Iterator[Upstream]:
        return iter(self._by_model.values())

    def apply(self, fleet: Fleet) -> None:
        """Replaces the fleet. Local replicas stay those of the first fleet, whose engines BentoML started."""
        known, self._by_model = self._by_model, {}
        for served in fleet.served:
            upstream = self._by_model[served.id] = known.get(served.id) or Upstream(served)
            if not served.addresses:
                upstream.replicas = self._local_replicas.get(served.id, [])
            if upstream.served.max_in_flight != served.max_in_flight:
                for replica in upstream.replicas:
                    replica.limit = initial_limit(served, self._gateways)
            upstream.served = served
            upstream.recheck.set()

    def record_request(self, replica: Replica) -> None:
        """A request is sent to the replica; if that is half-open, it is the trial request."""
        if replica.breaker.ejections:
            replica.breaker.record_request(self._clock())

    def record_failure(self, replica: Replica, refused: bool = False) -> None:
        """A request failed at the replica; `refused` means that it got no connection, or that the engine is dead.

        The last replica left is ejected only if `refused`: while it accepts connections it may still answer some.
        """
        upstream = next((upstream for upstream in self if replica in upstream.replicas), None)
        if refused or upstream is None or upstream.has_alternative(replica):
            before = replica.breaker.ejections
            replica.breaker.record_failure(self._clock(), refused)
            if upstream and replica.breaker.ejections > before:
                upstream.ejection_count += 1
        replica.recheck.set()
        if upstream:
            upstream.recheck.set()

    def record_success(self, replica: Replica) -> None:
        """A response of the replica has begun."""
        if replica.breaker.failures:
            replica.breaker.record_success()

    def counts(self) -> Iterator[tuple[str, Condition, int]]:
        """Rows of (model, condition, number of replicas), one for every condition of every model."""
        for upstream in self:
            counted = Counter(upstream.conditions())
            for condition in state.CONDITIONS:
                yield upstream.served.id, condition, counted[condition]

    def refresh(self) -> bool:
        """Reads the state files that changed; returns whether any did."""
        return sum(engine.refresh() for engine in self._local_engines.values()) > 0

    async def watch(self, changed: Changed, on_failure: OnFailure) -> None:
        """Keeps everything current until cancelled; calls `changed` after each change that may add capacity.

        Each replica and each model's discovery has a task of its own: one that fails is reported to `on_failure` and
        restarted, and stops no other.
        """
        tasks: dict[Replica | Upstream, asyncio.Task[None]] = {}
        before = self._clock()
        async with asyncio.TaskGroup() as group:
            while True:
                now = self._clock()
                replicas = (replica for upstream in self for replica in upstream.replicas)
                trial_due = any(replica.breaker.trial_due(before, now) for replica in replicas)
                if self.refresh() or trial_due:
                    changed()
                loops = dict(self._loops(changed, on_failure))
                for removed in tasks.keys() - loops.keys():
                    tasks.pop(removed).cancel()
                for added in loops.keys() - tasks.keys():
                    tasks[added] = group.create_task(loops[added]())
                before = now
                await asyncio.sleep(POLL)

    def _loops(self, changed: Changed, on_failure: OnFailure) -> Iterator[tuple[Replica | Upstream, Loop]]:
        """The background loops to run: a check of each replica, and the discovery of each remote model's replicas."""
        for upstream in self:
            if upstream.served.addresses:
                yield upstream, partial(self._discover, upstream, changed, on_failure)
            for replica in upstream.replicas:
                yield replica, partial(self._attend, upstream, replica, changed, on_failure)

    async def _attend(self, upstream: Upstream, replica: Replica, changed: Changed, on_failure: OnFailure) -> None:
        """Checks one replica until cancelled; what is known of it outlives a failure of the check."""
        engine = self._local_engines.get(replica) or RemoteEngine(
            replica, upstream, self._settings, self._transport, self._clock, changed
        )
        check = partial(self._check, upstream, replica, engine, changed)
        await keep_running("replica", check, on_failure, replica.id)

    async def _check(
        self, upstream: Upstream, replica: Replica, engine: LocalEngine | RemoteEngine, changed: Changed
    ) -> None:
        """Checks one replica regularly, and soon after a failed request; adapts its concurrency limit to its load."""
        last_sample = self._clock()
        observation, in_flight = Observation(configured_max_num_seqs(upstream.served)), InFlight()
        while True:
            in_flight.look(self._clock(), replica.in_flight)
            recheck = replica.recheck.is_set()
            replica.recheck.clear()
            await engine.poll(recheck)
            if replica.stats and replica.stats.at > last_sample:
                last_sample = replica.stats.at
                observation = observe(observation, replica.stats)
                before, most = replica.limit, ceiling(upstream.served, self._gateways)
                sent = in_flight.before(last_sample)
                replica.limit = next_limit(before, replica.in_flight, observation, most, sent)
                if replica.limit > before:
                    changed()
            await asyncio.sleep(POLL)
            await _wait(replica.recheck, CHECK_INTERVAL - POLL)

    async def _discover(self, upstream: Upstream, changed: Changed, on_failure: OnFailure) -> None:
        """Looks for one model's replicas until cancelled; the known addresses outlive a failure."""
        find = partial(self._find_replicas, upstream, Discovery(self._lookup), changed)
        await keep_running("discovery", find, on_failure, upstream.served.id)

    async def _find_replicas(self, upstream: Upstream, discovery: Discovery, changed: Changed) -> None:
        """Resolves the model's names regularly, and soon after a failed request; adds and removes replicas."""
        while True:
            upstream.recheck.clear()
            addresses = await discovery.find(upstream.served.addresses)
            if discovery.error and discovery.error != upstream.discovery_error:
                log.warning("%s: %s", upstream.served.id, discovery.error)
            known = {replica.address: replica for replica in upstream.replicas}
            if list(known) != addresses or upstream.discovery_error != discovery.error:
                upstream.replicas = [
                    known.get(address) or self._remote_replica(address, upstream.served) for address in addresses
                ]
                upstream.discovery_error, upstream.discovery_reason = discovery.error, discovery.reason
                changed()
            await asyncio.sleep(MIN_RESOLVE_INTERVAL)
            await _wait(upstream.recheck, RESOLVE_INTERVAL - MIN_RESOLVE_INTERVAL)

    def _remote_replica(self, address: str, served: ServedModel) -> Replica:
        """A replica whose id is the same for every gateway that knows the address, and does not show it."""
        digest = hashlib.blake2s(address.encode(), digest_size=4).hexdigest()
        return self._replica(f"{served.id}-{digest}", address, served, remote=True)

    def _replica(self, name: str, address: str, served: ServedModel, *, remote: bool = False) -> Replica:
        return Replica(name, address, limit=initial_limit(served, self._gateways), remote=remote)


async def _wait(event: asyncio.Event, limit: float) -> None:
    """Returns when the event is set, or after `limit` seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(limit):
            await event.wait()
