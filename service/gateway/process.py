"""One process of the gateway: its app, and what runs beside it between start and stop."""

import asyncio
import contextlib
import gc
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
from prometheus_client import values
from prometheus_client.multiprocess import mark_process_dead

from service.auth import keys_file
from service.auth.keys import Keys
from service.catalog.catalog import Catalog
from service.config.file_watch import FileWatch
from service.config.settings import Settings
from service.engine import process_files
from service.engine.worker import Progress, end_with_parent
from service.fleet.fleet import Fleet
from service.fleet.reload import Reload
from service.gateway import app
from service.gateway.authentication import PROBES
from service.gateway.configuration import load_fleet
from service.gateway.listening import is_open
from service.gateway.shutdown import GracefulShutdown
from service.observability import background, trace_settings
from service.observability.background import OnFailure
from service.observability.log import EventHandler, Log

GC_THRESHOLD = 5_000  # new container objects before the garbage collector runs; Python's default is 700
FIRST_LOOK = 2.0  # seconds that a start may wait for engines at addresses to be looked for
POLL_INTERVAL = 0.02  # seconds between two looks whether they have been


class GatewayProcess:
    """The gateway of this process. `app` answers every path but BentoML's probes, for which `is_ready` is asked."""

    def __init__(self, settings: Settings, catalog: Catalog, fleet: Fleet, keys: Keys | None = None) -> None:
        assert settings.run_dir
        self._settings, self._fleet, self._progress = settings, fleet, Progress()
        self.gateway = app.Gateway(
            settings, catalog, fleet, setup_multiprocess_metrics(settings.run_dir, settings.workers), keys,
            trace_settings.read(os.environ),
        )  # fmt: skip
        self.app, self.is_ready = self.gateway.app, self.gateway.is_ready
        timeout, grace = settings.drain_timeout, min(settings.drain_grace, settings.drain_timeout)
        self._shutdown = GracefulShutdown(
            settings.run_dir, grace, timeout, self.gateway.start_draining, self.gateway.abort_requests
        )
        load = partial(load_fleet, settings, catalog)
        self._reload = Reload(settings.fleet, fleet, load, self.gateway.apply, self.gateway.log_reload)
        self._keys_reload = settings.keys and FileWatch(
            settings.keys, partial(keys_file.load, settings), self.gateway.use_keys, self.gateway.log_keys_reload
        )
        self._background = contextlib.AsyncExitStack()

    async def start(self, worker: int | None = None) -> None:
        """Starts all tasks of the gateway, once the server listens; `worker` counts the gateway's processes from 1."""
        end_with_parent()
        settings, gateway = self._settings, self.gateway
        self._shutdown.install()
        if self._shutdown.server:
            self._shutdown.server.config.http_protocol_class = gateway.connection(server_paths=PROBES)
        if is_open(listen_addresses(), self._fleet.auth, gateway.keys):
            gateway.use_keys({})
            self._progress.print("it listens on another address than it was told, so without an API key nobody gets in")
        self._background.enter_context(events_of_loggers(gateway.log))
        await self._background.enter_async_context(gateway.background_tasks())
        await self._look_for_engines()
        self._keep_running("reload", self._reload.watch, partial(self._failed, settings.fleet, gateway.log_reload))
        self._keep_running("checks", gateway.start_checking, gateway.count_failure)
        if settings.keys and self._keys_reload:
            keys_failed = partial(self._failed, settings.keys, gateway.log_keys_reload)
            self._keep_running("keys reload", self._keys_reload.watch, keys_failed)
        if worker in (None, 1):
            self._keep_running("progress", self._print_readiness, gateway.count_failure)
        tune_gc()

    async def stop(self) -> None:
        """Ends all tasks; call it after the last request."""
        await self._background.aclose()
        self._shutdown.uninstall()
        self._progress.close()

    async def _look_for_engines(self) -> None:
        """Waits until engines at addresses have been looked for once: other workers may serve them already."""
        elsewhere = [upstream for upstream in self.gateway.upstreams if upstream.served.addresses]
        for _ in range(round(FIRST_LOOK / POLL_INTERVAL)):
            if all(upstream.condition()[0] not in ("waiting", "starting") for upstream in elsewhere):
                return
            await asyncio.sleep(POLL_INTERVAL)

    def _keep_running(self, name: str, loop: Callable[[], Awaitable[None]], on_failure: OnFailure) -> None:
        task = asyncio.create_task(background.keep_running(name, loop, on_failure))
        self._background.callback(task.cancel)

    def _failed(self, path: Path, log: Callable[[list[str]], None], task: str, error: BaseException) -> None:
        self.gateway.count_failure(task, error)
        log([f"{path}: it could not be read: {type(error).__name__}: {error}"])

    async def _print_readiness(self) -> None:
        """Prints when the first model is ready, and when all are. Models that scale to zero do not count."""
        gateway, settings, started, first_printed = self.gateway, self._settings, time.monotonic(), False
        while True:
            conditions = [upstream.condition()[0] for upstream in gateway.upstreams if upstream.served.min_replicas]
            ready = conditions.count("ready")
            if ready and not first_printed:
                took = time.monotonic() - started
                self._progress.print(f"the first of {len(conditions)} models is ready after {took:.0f} s")
                header = "" if gateway.keys is None else "-H 'Authorization: Bearer KEY' "
                self._progress.print(f"  curl {header}http://{settings.host}:{settings.port}/v1/models")
                first_printed = True
            if ready == len(conditions):
                after = f"all {ready} models are ready after {time.monotonic() - started:.0f} s"
                self._progress.print(after if conditions else "each model is loaded when it is asked for")
                return
            await asyncio.sleep(0.5)


def listen_addresses() -> list[str]:
    """The addresses that this process listens on for TCP: those that BentoML has bound, whoever told it to."""
    found = psutil.Process().net_connections("tcp")
    return [one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN]


def setup_multiprocess_metrics(folder: Path, workers: int) -> Path | None:
    """Configures prometheus_client; returns the multiprocess folder, or None for a single worker.

    BentoML makes it write every value to a file, in a folder that outlives the service. One worker keeps its values in
    memory instead, and several share a folder in the run folder.
    """
    if workers == 1:
        values.ValueClass = values.MutexValue
        return None
    (shared := folder / "metrics").mkdir(exist_ok=True)
    mark_process_dead(os.getpid(), str(shared))  # type: ignore[no-untyped-call]  # an earlier process may have had it
    process_files.write(folder, app.WORKER, os.getpid(), None)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared)
    values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
    return shared


def tune_gc() -> None:
    """Removes pauses and overhead from the hot path; called once start-up is complete.

    Freezes the objects that exist by now, which are most of all, so that collections need not scan them while streams
    wait; raises the threshold so that requests alone rarely trigger one. Also turns off uvicorn's access log.
    """
    logging.getLogger("uvicorn.access").propagate = False
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


@contextlib.contextmanager
def events_of_loggers(log: Log) -> Iterator[None]:
    """What our own tasks and the export of traces say to `logging` is an event of the log while the context lasts."""
    handler, loggers = EventHandler(log), [logging.getLogger(name) for name in ("roundhouse", "opentelemetry")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.propagate = True
