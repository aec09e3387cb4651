"""One process of the service, as a program with the command line of BentoML's own worker, and less in memory.

BentoML's worker imports all of BentoML, which takes 50 MB, and serves through its layers, which the gateway bypasses.
This one imports what its service needs: the gateway, or the supervisor of one engine.
"""

import asyncio
import logging
import socket
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from service.auth.keys import Keys
from service.catalog.catalog import Catalog
from service.config.settings import Settings
from service.engine.worker import EngineWorker, service_name
from service.fleet.fleet import Fleet
from service.gateway.configuration import load_configuration

GATEWAY = "gateway"
# BentoML's names of what uvicorn is told, and what uvicorn takes if they are not given.
SERVER_OPTIONS = (
    ("--ssl-certfile", str), ("--ssl-keyfile", str), ("--ssl-keyfile-password", str), ("--ssl-version", int),
    ("--ssl-cert-reqs", int), ("--ssl-ca-certs", str), ("--ssl-ciphers", str), ("--timeout-keep-alive", int),
    ("--timeout-graceful-shutdown", int), ("--backlog", int),
)  # fmt: skip
IGNORED = ("--args", "--timeout", "--worker-env", "--runner-map")  # of requests and services that there are none of


def main(words: Sequence[str]) -> None:
    """Runs the service that the command line names until SIGTERM or SIGINT."""
    options = parsed(words)
    name = f"{options.service_name}:{options.worker_id}"
    form = f"%(asctime)s [%(levelname)s] [{name}] %(message)s"
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format=form, datefmt="%Y-%m-%dT%H:%M:%S%z")
    settings, catalog, fleet, keys = load_configuration()
    if options.service_name == GATEWAY:
        serve(options, settings, catalog, fleet, keys)
    else:
        asyncio.run(engine_worker(options.service_name, fleet, settings).run())


def parsed(words: Sequence[str]) -> Namespace:
    """BentoML's command line; exits with 2 where it has an option that is not known here."""
    parser = ArgumentParser(prog="run_worker.py", allow_abbrev=False)
    parser.add_argument("bento")
    parser.add_argument("--service-name", required=True)
    parser.add_argument("--fd", type=int)
    parser.add_argument("--worker-id", type=int)
    for name in IGNORED:
        parser.add_argument(name)
    for name, kind in SERVER_OPTIONS:
        parser.add_argument(name, type=kind)
    return parser.parse_args(words)


def engine_worker(name: str, fleet: Fleet, settings: Settings) -> EngineWorker:
    """The replica whose BentoML service has this name; exits the process where the fleet has none."""
    for order, (served, number) in enumerate(fleet.replicas()):
        if service_name(served.id, number, order) == name:
            return EngineWorker(served, number, order, fleet, settings)
    sys.exit(f"Roundhouse cannot start:\n{settings.fleet}: there is no '{name}' in it any more: restart the service")


def serve(options: Namespace, settings: Settings, catalog: Catalog, fleet: Fleet, keys: Keys | None) -> None:
    """Serves the gateway on the socket that BentoML has bound."""
    import uvicorn  # engines need neither

    from service.gateway.probes import Probes
    from service.gateway.process import GatewayProcess
    from service.server.open_counts import OpenCounts
    from service.server.shared_listener import SharedServer

    process = GatewayProcess(settings, catalog, fleet, keys)

    async def start() -> None:
        await process.start(options.worker_id)

    given = {name[2:].replace("-", "_") for name, _ in SERVER_OPTIONS}
    told = {name: value for name, value in vars(options).items() if name in given and value is not None}
    app = Probes(process.is_ready, start, process.stop)
    config = uvicorn.Config(app, log_config=None, server_header=False, lifespan="on", **told)
    server = uvicorn.Server(config)
    if settings.workers > 1:
        assert settings.run_dir
        server = SharedServer(config, OpenCounts(settings.run_dir, options.worker_id, settings.workers))
    server.run(sockets=[socket.socket(fileno=options.fd)])
