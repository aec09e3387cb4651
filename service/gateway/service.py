"""The entry point for BentoML: loads the configuration and builds the gateway service and the engine services.

`bentoml serve` imports this module in every process: in its own first, then in each worker, which runs one service.
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
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import bentoml
import click
import psutil
from circus import sighandler
from prometheus_client import values
from prometheus_client.multiprocess import mark_process_dead
from pydantic import SecretStr

from service.auth import keys_file
from service.auth.keys import Keys
from service.catalog import catalog as catalogs
from service.config import run_dir
from service.config.file_watch import FileWatch
from service.config.secret import read_secret, shared_cache_secret
from service.config.settings import Settings, variable
from service.config.strict_yaml import ConfigError
from service.engine import process_files
from service.engine.service import QUIET, Progress, end_with_parent, engine_service
from service.fleet import fleet as fleets
from service.fleet.reload import Reload
from service.gateway import app
from service.gateway.authentication import PROBES
from service.gateway.listening import check_access, is_open
from service.gateway.prerequisites import unmet_here
from service.gateway.shutdown import GracefulShutdown
from service.observability import background
from service.observability.background import OnFailure
from service.observability.rotating_file import check_private
from service.server.asgi import App, Receive, Scope, Send

GC_THRESHOLD = 5_000  # new container objects before the garbage collector runs; Python's default is 700
RUN_DIR = "ROUNDHOUSE_RUN_DIR"


class BypassBentoML:
    """Sends every path but BentoML's probes to the gateway app, so that BentoML's own endpoints are not exposed."""

    def __init__(self, app: App, gateway_app: App) -> None:
        self._app, self._gateway_app = app, gateway_app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._gateway_app if scope["type"] == "http" and scope["path"] not in PROBES else self._app
        await app(scope, receive, send)


def check_prerequisites() -> None:
    """Exits the process with the reason where the service cannot run here."""
    if problems := unmet_here():
        sys.exit("\n".join(("Roundhouse cannot start:", *problems)))


def address_of_command() -> str | None:
    """The address that BentoML's command was told to listen on, by option or environment; None if it was not."""
    context = click.get_current_context(silent=True)
    host = context.params.get("host") if context else None
    return str(host) if host else None


def listen_addresses() -> list[str]:
    """The addresses that this process listens on for TCP: those that BentoML has bound, whoever told it to."""
    found = psutil.Process().net_connections("tcp")
    return [one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN]


def load_fleet(settings: Settings, catalog: catalogs.Catalog) -> fleets.Fleet:
    """The fleet that the settings name; raises ConfigError with every mistake in its file."""
    may_log_prompts = settings.prompt_log is not None
    return fleets.load(settings.fleet, catalog, settings.weights, may_log_prompts=may_log_prompts)


def load_configuration() -> tuple[Settings, catalogs.Catalog, fleets.Fleet, Keys | None]:
    """Settings, catalogue, fleet and keys; exits the process with a list of all mistakes if there are any."""
    try:
        if host := address_of_command():
            os.environ[variable("host")] = host  # the workers are not told the command's options
        settings = Settings.from_environ(os.environ)
        catalog = catalogs.load(settings.models)
        fleet = load_fleet(settings, catalog)
        keys = keys_file.load(settings, fleet.sign_on is not None)
        check_access(settings.host, fleet.auth, keys)
        given = {name: SecretStr(read_secret(settings, name)) for name in ("cache_secret", "engine_key")}
        path = run_dir.prepare(settings.run_dir) if settings.run_dir else None
        folders = {name: getattr(settings, name) for name in ("responses_dir", "usage_dir", "evidence_dir")}
        for name, folder in folders.items():
            if folder:
                folders[name] = run_dir.private_folder(folder, name)
                os.environ[variable(name)] = str(folders[name])  # the workers run in another folder
        for name in ("audit_log", "prompt_log"):
            if file := getattr(settings, name):
                check_private(file, variable(name))
        for name in ("api_key_file", "keys", "audit_log", "prompt_log", "cache_secret_file", "engine_key_file"):
            if file := getattr(settings, name):
                os.environ[variable(name)] = str(file.absolute())
    except ConfigError as error:
        sys.exit(f"Roundhouse cannot start:\n{error}")
    if path is None:
        # `bentoml serve` creates it for all its workers, which inherit the variable, and removes it at exit.
        path = Path(tempfile.mkdtemp(prefix="roundhouse-"))
        atexit.register(shutil.rmtree, path, ignore_errors=True)
    os.environ[RUN_DIR] = str(path)
    try:
        given["cache_secret"] = given["cache_secret"] or SecretStr(shared_cache_secret(path))
    except ConfigError as error:
        sys.exit(f"Roundhouse cannot start:\n{error}")
    found = given | {"run_dir": path, **folders}
    return settings.model_copy(update=found), catalog, fleet, keys


def forward_repeated_signals() -> None:
    """Makes BentoML's first process forward every stop signal after the first to its workers; it would ignore them.

    Patches circus, on which that process runs; raises ImportError for a version without the patched method.
    """
    if not hasattr(sighandler.SysHandler, "quit"):
        raise ImportError("This version of circus has no SysHandler.quit: adapt service/gateway/service.py to it.")
    original_quit = sighandler.SysHandler.quit

    def quit_and_signal_workers(handler: Any) -> None:
        for worker in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.terminate()
        original_quit(handler)

    def quit_on_first_signal(handler: Any) -> None:
        handler.quit = partial(quit_and_signal_workers, handler)
        original_quit(handler)

    sighandler.SysHandler.quit = quit_on_first_signal


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


def build_service(settings: Settings, catalog: catalogs.Catalog, fleet: fleets.Fleet, keys: Keys | None = None) -> Any:
    """The BentoML Gateway service, which depends on one Engine service for each replica of the fleet."""
    assert settings.run_dir
    progress = Progress()
    gateway = app.Gateway(
        settings, catalog, fleet, setup_multiprocess_metrics(settings.run_dir, settings.workers), keys
    )
    timeout = settings.drain_timeout
    shutdown = GracefulShutdown(
        settings.run_dir, min(settings.drain_grace, timeout), timeout, gateway.start_draining, gateway.abort_requests
    )
    load = partial(load_fleet, settings, catalog)
    reload = Reload(settings.fleet, fleet, load, gateway.apply, gateway.log_reload)
    keys_reload = settings.keys and FileWatch(
        settings.keys, partial(keys_file.load, settings), gateway.use_keys, gateway.log_keys_reload
    )

    def failed(path: Path, log: Callable[[list[str]], None], task: str, error: BaseException) -> None:
        gateway.count_failure(task, error)
        log([f"{path}: it could not be read: {type(error).__name__}: {error}"])

    class Gateway:
        @bentoml.on_startup
        async def start(self) -> None:
            end_with_parent()
            shutdown.install()
            if shutdown.server:
                shutdown.server.config.http_protocol_class = gateway.connection(server_paths=PROBES)
            if is_open(listen_addresses(), fleet.auth, gateway.keys):
                gateway.use_keys({})
                progress.print("it listens on another address than it was told, so without an API key nobody gets in")
            self.background = contextlib.AsyncExitStack()
            await self.background.enter_async_context(gateway.background_tasks())
            self.keep_running("reload", reload.watch, partial(failed, settings.fleet, gateway.log_reload))
            self.keep_running("checks", gateway.start_checking, gateway.count_failure)
            if settings.keys and keys_reload:
                keys_failed = partial(failed, settings.keys, gateway.log_keys_reload)
                self.keep_running("keys reload", keys_reload.watch, keys_failed)
            if bentoml.server_context.worker_index in (None, 1):
                self.keep_running(
                    "progress", partial(_print_readiness, gateway, settings, progress), gateway.count_failure
                )
            tune_gc()

        def keep_running(self, name: str, loop: Callable[[], Awaitable[None]], on_failure: OnFailure) -> None:
            task = asyncio.create_task(background.keep_running(name, loop, on_failure))
            self.background.callback(task.cancel)

        @bentoml.on_shutdown
        async def stop(self) -> None:
            await self.background.aclose()
            shutdown.uninstall()
            progress.close()

        async def __is_ready__(self) -> bool:
            return gateway.is_ready()

    for order, (model, number) in enumerate(fleet.replicas()):
        engine = engine_service(model, number, order, fleet, settings, progress)
        setattr(Gateway, f"engine_{order}", bentoml.depends(engine))
    http = {"host": settings.host, "port": settings.port}
    service = bentoml.service(name="gateway", workers=settings.workers, http=http, **QUIET)(Gateway)
    service.add_asgi_middleware(BypassBentoML, gateway_app=gateway.app)
    return service


async def _print_readiness(gateway: app.Gateway, settings: Settings, progress: Progress) -> None:
    """Prints when the first model is ready, and when all are. Models that scale to zero do not count."""
    started, first_printed = time.monotonic(), False
    while True:
        conditions = [upstream.condition()[0] for upstream in gateway.upstreams if upstream.served.min_replicas]
        ready = conditions.count("ready")
        if ready and not first_printed:
            progress.print(f"the first of {len(conditions)} models is ready after {time.monotonic() - started:.0f} s")
            header = "" if gateway.keys is None else "-H 'Authorization: Bearer KEY' "
            progress.print(f"  curl {header}http://{settings.host}:{settings.port}/v1/models")
            first_printed = True
        if ready == len(conditions):
            progress.print(f"all {ready} models are ready after {time.monotonic() - started:.0f} s")
            return
        await asyncio.sleep(0.5)


check_prerequisites()
forward_repeated_signals()
Gateway = build_service(*load_configuration())
