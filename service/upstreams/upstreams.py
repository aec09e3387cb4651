"""Every upstream of the fleet, kept up to date: which replicas there are, and what is known of each."""

import asyncio
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
from service.transport.pool import ConnectionPool
from service.upstreams.discovery import Discovery, Lookup, look_up
from service.upstreams.limit import adapted, ceiling, opening
from service.upstreams.local import LocalEngine
from service.upstreams.remote import RemoteEngine
from service.upstreams.replica import Replica
from service.upstreams.upstream import Upstream

POLL = 0.25  # seconds between two looks at the state files
LOOK = 1.0  # seconds between two looks at an engine
RESOLVE = 5.0  # seconds after which names are asked for their addresses again
HASTE = 1.0  # seconds after which they may be, when an engine fails
Changed = Callable[[], None]


class Upstreams:
    """The upstreams by model id, in the fleet's order. `clock` gives monotonic seconds, `lookup` resolves names.

    Nothing is known before the first `refresh`, and of engines that others start before `watch` has seen them.
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
        self._here: dict[str, list[Replica]] = {}
        self._locals: dict[Replica, LocalEngine] = {}
        for order, (served, number) in enumerate(fleet.replicas()):
            address = str(state.socket_path(settings.run_dir, order))
            replica = self._replica(state.replica_id(served.id, number), address, served)
            self._here.setdefault(served.id, []).append(replica)
            self._locals[replica] = LocalEngine(replica, order, settings.run_dir, transport, clock)
        self._by_model: dict[str, Upstream] = {}
        self.apply(fleet)

    def __getitem__(self, model_id: str) -> Upstream:
        return self._by_model[model_id]

    def __iter__(self) -> Iterator[Upstream]:
        return iter(self._by_model.values())

    def apply(self, fleet: Fleet) -> None:
        """Makes this the fleet that is served. The engines here stay those that the first fleet started."""
        known, self._by_model = self._by_model, {}
        for served in fleet.served:
            upstream = self._by_model[served.id] = known.get(served.id) or Upstream(served)
            if not served.addresses:
                upstream.replicas = self._here.get(served.id, [])
            if upstream.served.max_in_flight != served.max_in_flight:
                for replica in upstream.replicas:
                    replica.limit = opening(served, self._gateways)
            upstream.served = served
            upstream.recheck.set()

    def asked(self, replica: Replica) -> None:
        """Takes note that a request goes there: a replica that rested gets one at a time."""
        replica.breaker.asked(self._clock())

    def failed(self, replica: Replica, refused: bool = False) -> None:
        """Takes note that a request failed there; `refused` says that it got no connection, or that the engine is dead.

        The only replica that is left stays in use: what it answers is better than nothing.
        """
        upstream = next((one for one in self if replica in one.replicas), None)
        if refused or upstream is None or upstream.has_alternative(replica):
            replica.breaker.failed(self._clock(), refused)
        replica.recheck.set()
        if upstream:
            upstream.recheck.set()

    def succeeded(self, replica: Replica) -> None:
        """Takes note that an answer of the replica has begun."""
        replica.breaker.succeeded()

    def counts(self) -> Iterator[tuple[str, Condition, int]]:
        """Rows of (model, condition, number of replicas) for every condition there is."""
        for upstream in self:
            counted = Counter(upstream.conditions())
            for condition in state.CONDITIONS:
                yield upstream.served.id, condition, counted[condition]

    def refresh(self) -> bool:
        """Reads the state files that changed; returns whether any did."""
        return sum(local.refresh() for local in self._locals.values()) > 0

    async def watch(self, changed: Changed) -> None:
        """Follows everything for ever, calling `changed` after each difference, and when there may be more room."""
        tasks: dict[Replica | Upstream, asyncio.Task[None]] = {}
        before = self._clock()
        async with asyncio.TaskGroup() as group:
            while True:
                now = self._clock()
                rested = any(one.breaker.reopened(before, now) for upstream in self for one in upstream.replicas)
                if self.refresh() or rested:
                    changed()
                wanted = dict(self._work(changed))
                for gone in tasks.keys() - wanted.keys():
                    tasks.pop(gone).cancel()
                for new in wanted.keys() - tasks.keys():
                    tasks[new] = group.create_task(wanted[new]())
                before = now
                await asyncio.sleep(POLL)

    def _work(self, changed: Changed) -> Iterator[tuple[Replica | Upstream, Callable[[], Coroutine[Any, Any, None]]]]:
        """What goes on all the time: each replica is watched, and what the names stand for."""
        for upstream in self:
            if upstream.served.addresses:
                yield upstream, partial(self._discover, upstream, changed)
            for replica in upstream.replicas:
                yield replica, partial(self._attend, upstream, replica, changed)

    async def _attend(self, upstream: Upstream, replica: Replica, changed: Changed) -> None:
        """Looks at one replica, at once when a request failed there, and adapts its limit to its load."""
        watched = self._locals.get(replica) or RemoteEngine(
            replica, upstream, self._settings, self._transport, self._clock, changed
        )
        adapted_at = self._clock()
        while True:
            doubted = replica.recheck.is_set()
            replica.recheck.clear()
            await watched.poll(doubted)
            if replica.stats and replica.stats.at > adapted_at:
                adapted_at = replica.stats.at
                before, most = replica.limit, ceiling(upstream.served, self._gateways)
                replica.limit = adapted(before, replica.in_flight, replica.stats, most)
                if replica.limit > before:
                    changed()
            await asyncio.sleep(POLL)
            await _stirred(replica.recheck, LOOK - POLL)

    async def _discover(self, upstream: Upstream, changed: Changed) -> None:
        """Keeps the replicas those that the names stand for now."""
        discovery = Discovery(self._lookup)
        while True:
            upstream.recheck.clear()
            addresses = await discovery.find(upstream.served.addresses)
            known = {replica.address: replica for replica in upstream.replicas}
            if list(known) != addresses or upstream.trouble != discovery.trouble:
                upstream.replicas = [
                    known.get(address) or self._replica(f"{upstream.served.id}@{address}", address, upstream.served)
                    for address in addresses
                ]
                upstream.trouble = discovery.trouble
                changed()
            await asyncio.sleep(HASTE)
            await _stirred(upstream.recheck, RESOLVE - HASTE)

    def _replica(self, name: str, address: str, served: ServedModel) -> Replica:
        return Replica(name, address, limit=opening(served, self._gateways))


async def _stirred(recheck: asyncio.Event, limit: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(limit):
            await recheck.wait()
