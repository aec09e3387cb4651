"""The entry point for BentoML: loads the configuration and declares the gateway service and the engine services.

`bentoml serve` imports this module in its first process, which needs no more than that. What it starts are programs of
ours (`service.gateway.handover`); where BentoML runs its own workers, each imports this and runs one service.
"""

import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import bentoml
import click

from service.auth.keys import Keys
from service.catalog.catalog import Catalog
from service.config.settings import Settings
from service.engine.service import QUIET, engine_service
from service.fleet.fleet import Fleet
from service.gateway.authentication import PROBES
from service.gateway.configuration import RUN_DIR, load_configuration
from service.gateway.handover import hand_over
from service.gateway.prerequisites import unmet_here
from service.gateway.supervisor import forward_repeated_signals
from service.gateway.worker import GATEWAY
from service.server.asgi import App, Receive, Scope, Send

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.gateway.process import GatewayProcess


class BypassBentoML:
    """Sends every path but BentoML's probes to the gateway app, so that BentoML's own endpoints are not exposed."""

    def __init__(self, app: App, process: "Callable[[], GatewayProcess]") -> None:
        self._app, self._gateway_app = app, process().app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._gateway_app if scope["type"] == "http" and scope["path"] not in PROBES else self._app
        await app(scope, receive, send)


def check_prerequisites() -> None:
    """Exits the process with the reason where the service cannot run here."""
    if problems := unmet_here():
        sys.exit("\n".join(("Roundhouse cannot start:", *problems)))


def serve_command() -> "dict[str, Any] | None":
    """The options of the `bentoml serve` that this process runs; None if it runs something else."""
    context = click.get_current_context(silent=True)
    return context.params if context and context.command.name == "serve" else None


def build_service(settings: Settings, catalog: Catalog, fleet: Fleet, keys: Keys | None = None) -> Any:
    """The BentoML Gateway service, which depends on one Engine service for each replica of the fleet."""

    @cache
    def process() -> "GatewayProcess":
        # Only a worker needs the gateway, which takes 20 MB.
        from service.gateway.process import GatewayProcess

        return GatewayProcess(settings, catalog, fleet, keys)

    class Gateway:
        @bentoml.on_startup
        async def start(self) -> None:
            await process().start(bentoml.server_context.worker_index)

        @bentoml.on_shutdown
        async def stop(self) -> None:
            await process().stop()

        async def __is_ready__(self) -> bool:
            return process().is_ready()

    for order, (model, number) in enumerate(fleet.replicas()):
        setattr(Gateway, f"engine_{order}", bentoml.depends(engine_service(model, number, order, fleet, settings)))
    http = {"host": settings.host, "port": settings.port}
    service = bentoml.service(name=GATEWAY, workers=settings.workers, http=http, **QUIET)(Gateway)
    service.add_asgi_middleware(BypassBentoML, process=process)
    return service


def declare() -> Any:
    """The service as this process needs it: to serve it, to run a part of it, or to build a Bento."""
    check_prerequisites()
    forward_repeated_signals()
    command, temporary = serve_command(), not os.environ.get(RUN_DIR)
    settings, catalog, fleet, keys = load_configuration((command or {}).get("host"))
    assert settings.run_dir
    if command is not None:
        hand_over(settings.run_dir, [settings.run_dir] if temporary else [])
    return build_service(settings, catalog, fleet, keys)


Gateway = declare()
