"""Builds every object of the gateway once and wires them: the order of the middleware is one visible expression."""

import asyncio
import sys
import time
from dataclasses import dataclass
from functools import partial

from service.admission import Admission
from service.asgi import App, Receive, Scope, Send
from service.catalog import Catalog
from service.endpoints import Endpoints
from service.fleet import Fleet
from service.metrics import Metrics
from service.middleware import Bounded, Recorded, Rendered
from service.relay import Relay
from service.settings import Settings
from service.transport import Transport
from service.upstreams import Upstreams


@dataclass(frozen=True)
class Gateway:
    """The gateway as an ASGI app and what its owner must run beside it."""

    app: App
    upstreams: Upstreams
    metrics: Metrics
    transport: Transport

    def is_ready(self) -> bool:
        """Whether at least one model answers."""
        return any(upstream.condition()[0] == "ready" for upstream in self.upstreams)

    async def watch(self) -> None:
        """Keeps the upstreams up to date until cancelled."""
        await self.upstreams.watch(lambda: self.metrics.show_replicas(self.upstreams.counts()))


def assemble(settings: Settings, catalog: Catalog, fleet: Fleet) -> Gateway:
    """The gateway of a fleet whose engines have their sockets and states in `settings.run_dir`."""
    assert settings.run_dir
    metrics, transport, admission = Metrics(), Transport(), Admission()
    upstreams = Upstreams(fleet, settings.run_dir, time.monotonic)
    relay = Relay(fleet, catalog, upstreams, admission, transport, settings, time.monotonic)
    endpoints = Endpoints(fleet, upstreams, relay, metrics, settings)
    for served in fleet.served:
        metrics.in_flight.labels(served.id).set_function(partial(admission.load, served.id))
    app = Recorded(
        Rendered(Bounded(endpoints, settings.max_headers, settings.max_body)), metrics, endpoints.name_of, _write
    )
    return Gateway(app, upstreams, metrics, transport)


def with_lifespan(gateway: Gateway) -> App:
    """The app for a plain ASGI server, watching its upstreams while it runs. Under BentoML its hooks do that."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await gateway.app(scope, receive, send)
            return
        await receive()
        watching = asyncio.create_task(gateway.watch())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        watching.cancel()
        gateway.transport.close()
        await send({"type": "lifespan.shutdown.complete"})

    return app


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
