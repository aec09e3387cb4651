"""Builds every object of the gateway once and wires them: the order of the middleware is one visible expression."""

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from service.admission.gate import Admission
from service.catalog.catalog import Catalog
from service.config.settings import Settings
from service.engine import demand
from service.fleet.fleet import Fleet
from service.gateway.endpoints import Endpoints
from service.gateway.middleware import Bounded, Recorded, Rendered
from service.gateway.scale_to_zero import Waking
from service.observability.metrics import Metrics
from service.relay.relay import Relay
from service.server.asgi import App, Receive, Scope, Send
from service.transport.pool import Transport
from service.upstreams.limit import ceiling
from service.upstreams.upstreams import Upstreams

TICK = 0.25  # seconds between two looks at which engines are wanted


class Gateway:
    """The gateway as an ASGI app, and what its owner does with it.

    `counts` is the folder where the metrics of several workers meet, if there are several.
    """

    def __init__(self, settings: Settings, catalog: Catalog, fleet: Fleet, counts: Path | None = None) -> None:
        assert settings.run_dir
        self._fleet, self._run_dir, self._gateways = fleet, settings.run_dir, settings.workers * settings.gateways
        self.metrics, self.transport = Metrics(counts), Transport()
        self.upstreams = Upstreams(fleet, settings, self.transport, time.monotonic)
        self.admission = Admission(settings, time.monotonic, random.random)
        self._relay = Relay(fleet, catalog, self.upstreams, self.admission, self.transport, settings, time.monotonic)
        self._endpoints = Endpoints(fleet, self.upstreams, self._relay, self.show, self.metrics, settings)
        self._waking = Waking(fleet)
        self._recorded = Recorded(
            Rendered(Bounded(self._endpoints, settings.max_headers, settings.max_body)),
            self.metrics, self._endpoints.name_of, Lines().write,
        )  # fmt: skip
        self.app: App = self._recorded

    def is_ready(self) -> bool:
        """Whether requests should be sent here: some model answers, or wakes for one, and this is not the end."""
        ready = (one.served.always == 0 or one.condition()[0] == "ready" for one in self.upstreams)
        return not self._recorded.closing and any(ready)

    def apply(self, fleet: Fleet) -> None:
        """Makes this the fleet that is served; requests on their way end under the one they began with."""
        self._fleet = fleet
        self.upstreams.apply(fleet)
        self._relay.apply(fleet)
        self._endpoints.apply(fleet)
        self.admission.apply(fleet)

    def reloaded(self, problems: list[str]) -> None:
        """Makes known what came of a changed fleet file: nothing to say is a success."""
        self.metrics.reload_failed.set(bool(problems))
        outcome = "refused: the fleet file as it was stays in use" if problems else "in use"
        fields = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "event": "reload",
            "outcome": outcome,
            "problems": problems,
        }
        _write(json.dumps(fields, ensure_ascii=False))

    def drain(self) -> None:
        """Says from now on that this gateway leaves: in its readiness, and to each client in its answer."""
        self._recorded.closing = True

    def end(self) -> None:
        """Breaks off what still runs, with an error that its client sees."""
        self._relay.end()

    def show(self) -> None:
        """Sets the gauges to what holds now."""
        self.metrics.show_replicas(self.upstreams.counts())
        self.metrics.idempotency_cache_bytes.set(self._relay.idempotency_cache_bytes)
        for upstream in self.upstreams:
            model = upstream.served.id
            self.metrics.in_flight.labels(model).set(self.admission.load(model))
            self.metrics.queued.labels(model).set(self.admission.queued(model))
            self.metrics.demand.labels(model).set(self.admission.demand(model))

    def wanted(self) -> list[int]:
        """The engines on demand that should run now, by their number in starting order."""
        places = {served.id: ceiling(served, self._gateways) for served in self._fleet.served}
        demand = {served.id: self.admission.peak(served.id) for served in self._fleet.served}
        return self._waking.wanted(self._fleet, demand.__getitem__, places.__getitem__, time.monotonic())

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Keeps everything up to date while the context lasts."""
        self.upstreams.refresh()
        tasks = [asyncio.create_task(one) for one in (self.upstreams.watch(self.admission.stir), self._ask())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self.transport.close()

    async def _ask(self) -> None:
        """Asks for the engines that are wanted, for ever."""
        asked: list[int] = []
        while True:
            self.show()
            self._relay.expire()
            self.transport.expire()
            wanted = self.wanted()
            if wanted != asked:
                with contextlib.suppress(OSError):  # a full disk: asked again at the next look
                    demand.write(self._run_dir, os.getpid(), wanted)
                    asked = wanted
            due = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            self.metrics.loop_delay.observe(max(0.0, time.monotonic() - due))


class Lines:
    """Standard output, where all lines of one turn of the event loop are written at once: each write costs as much."""

    def __init__(self) -> None:
        self._waiting: list[str] = []

    def write(self, line: str) -> None:
        """Writes the line before long."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(line)

    def _flush(self) -> None:
        lines, self._waiting = self._waiting, []
        _write("\n".join(lines))


def with_lifespan(gateway: Gateway) -> App:
    """The app for a plain ASGI server, watching its upstreams while it runs. Under BentoML its hooks do that."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await gateway.app(scope, receive, send)
            return
        await receive()
        async with gateway.watching():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    return app


def _write(line: str) -> None:
    with contextlib.suppress(OSError):  # a full disk loses lines, and no request
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
