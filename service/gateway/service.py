"""The composition root: reads what is configured, and declares the BentoML services that run it.

`bentoml serve` imports this module in every process: once in its own, then in each worker, which runs one service.
"""

import asyncio
import atexit
import contextlib
import gc
import logging
import os
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import bentoml
import psutil
from circus import sighandler
from prometheus_client import values

from service.catalog import catalog
from service.config.settings import Settings
from service.config.strict_yaml import ConfigError
from service.engine.service import QUIET, end_with_parent, engine_service
from service.fleet import fleet
from service.fleet.reload import Reload
from service.gateway import app
from service.gateway.prerequisites import unmet_here
from service.gateway.shutdown import Leaving
from service.server.asgi import App, Receive, Scope, Send
from service.server.connection import Connection

YOUNG = 5_000  # objects made and not yet gone, before the garbage collector looks for circles among them
RUN_DIR = "ROUNDHOUSE_RUN_DIR"
PROBES = ("/livez", "/readyz", "/healthz")


class OnlyOurs:
    """Hides the paths that BentoML adds of its own: only its probes and our table exist."""

    def __init__(self, app: App, ours: App) -> None:
        self._app, self._ours = app, ours

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._ours if scope["type"] == "http" and scope["path"] not in PROBES else self._app
        await app(scope, receive, send)


def require() -> None:
    """Ends the process, and says why, where the service cannot run here."""
    if problems := unmet_here():
        sys.exit("\n".join(("Roundhouse cannot start:", *problems)))


def configure() -> tuple[Settings, catalog.Catalog, fleet.Fleet]:
    """Settings, catalogue and fleet, or the end of the process with every mistake named."""
    try:
        settings = Settings.from_environ(os.environ)
        known = catalog.load(settings.models)
        served = fleet.load(settings.fleet, known, settings.weights)
    except ConfigError as error:
        sys.exit(f"Roundhouse cannot start:\n{error}")
    if settings.run_dir is None:
        # The workers of `bentoml serve` inherit it: the first process that gets here decides for all, and cleans up.
        run_dir = tempfile.mkdtemp(prefix="roundhouse-")
        os.environ[RUN_DIR] = run_dir
        atexit.register(shutil.rmtree, run_dir, ignore_errors=True)
        settings = replace(settings, run_dir=Path(run_dir))
    return settings, known, served


def say(line: str) -> None:
    """One line of progress for whoever started the service."""
    sys.stderr.write(f"roundhouse  {line}\n")
    sys.stderr.flush()


def hasten() -> None:
    """Has every signal after the first reach the workers too: BentoML's first process would only go on waiting.

    Raises where circus, which BentoML's first process runs on, hears signals in another way.
    """
    if not hasattr(sighandler.SysHandler, "quit"):
        raise ImportError("This circus hears signals elsewhere: adapt service/gateway/service.py to it.")
    ask = sighandler.SysHandler.quit

    def ask_again(handler: Any) -> None:
        for worker in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.terminate()
        ask(handler)

    def ask_once(handler: Any) -> None:
        handler.quit = partial(ask_again, handler)
        ask(handler)

    sighandler.SysHandler.quit = ask_once


def count_in(folder: Path, workers: int) -> Path | None:
    """Where the metrics of several workers meet; None where one worker has them all in its memory.

    BentoML makes prometheus_client write every count to a file, in a folder that outlives the service.
    """
    if workers == 1:
        values.ValueClass = values.MutexValue
        return None
    (shared := folder / "metrics").mkdir(exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared)
    values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
    return shared


def lighten() -> None:
    """Spares each request what a process of BentoML's would otherwise do for it, and every stream the long pauses.

    What start has made, which is most of all there is, is never looked at again by the garbage collector, for which
    every stream would stand still; and requests alone no longer set it off.
    """
    logging.getLogger("uvicorn.access").propagate = False
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)


def declare(settings: Settings, known: catalog.Catalog, served: fleet.Fleet) -> Any:
    """The Gateway service, depending on one Engine service for each replica of the fleet."""
    assert settings.run_dir
    gateway = app.Gateway(settings, known, served, count_in(settings.run_dir, settings.workers))
    limit = settings.drain_timeout
    leaving = Leaving(settings.run_dir, min(settings.drain_grace, limit), limit, gateway.drain, gateway.end)
    load = partial(fleet.load, settings.fleet, known, settings.weights)
    reload = Reload(settings.fleet, served, load, gateway.apply, gateway.reloaded)

    class Gateway:
        @bentoml.on_startup
        async def start(self) -> None:
            end_with_parent()
            leaving.enter()
            if leaving.server:
                leaving.server.config.http_protocol_class = partial(Connection, ours=gateway.app, theirs=PROBES)
            self.running = contextlib.AsyncExitStack()
            await self.running.enter_async_context(gateway.watching())
            tasks = [reload.watch()]
            if bentoml.server_context.worker_index in (None, 1):
                tasks.append(_greet(gateway, settings))
            for task in map(asyncio.create_task, tasks):
                self.running.callback(task.cancel)
            lighten()

        @bentoml.on_shutdown
        async def stop(self) -> None:
            await self.running.aclose()
            leaving.leave()

        async def __is_ready__(self) -> bool:
            return gateway.is_ready()

    for order, (one, number) in enumerate(served.replicas()):
        engine = engine_service(one, number, order, served, settings, say)
        setattr(Gateway, f"engine_{order}", bentoml.depends(engine))
    http = {"host": settings.host, "port": settings.port}
    service = bentoml.service(name="gateway", workers=settings.workers, http=http, **QUIET)(Gateway)
    service.add_asgi_middleware(OnlyOurs, ours=gateway.app)
    return service


async def _greet(gateway: app.Gateway, settings: Settings) -> None:
    """Tells the terminal when the first model answers and when all do."""
    began, greeted = time.monotonic(), False
    while True:
        conditions = [one.condition()[0] for one in gateway.upstreams if one.served.always]
        ready = conditions.count("ready")
        if ready and not greeted:
            say(f"the first of {len(conditions)} models answers, {time.monotonic() - began:.0f} s after the gateway")
            say(f"  curl http://{settings.host}:{settings.port}/v1/models")
            greeted = True
        if ready == len(conditions):
            say(f"all {ready} models answer, {time.monotonic() - began:.0f} s after the gateway")
            return
        await asyncio.sleep(0.5)


require()
hasten()
Gateway = declare(*configure())
