"""The command that runs one engine of the fleet in the foreground, for containers and other machines."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import click
from pydantic import SecretStr

from service.catalog import catalog
from service.cli.configured import fleet_option, refuse_taken, refused
from service.config import run_dir
from service.config.loopback import is_loopback
from service.config.secret import read_secret
from service.config.setting_types import MAKE_KEY
from service.config.settings import Settings, variable
from service.config.strict_yaml import ConfigError
from service.engine import standalone
from service.engine.listening import Tcp
from service.fleet import fleet as fleets
from service.fleet.fleet import Fleet
from service.gateway.prerequisites import wrong_platform
from service.observability.log_writer import LogWriter

STANDARD_OUTPUT, STANDARD_ERROR = 1, 2


@click.command()
@fleet_option
@click.option("--model", required=True, metavar="ID", help="Id of the model in the fleet file.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
def engine(fleet_file: Path | None, model: str, host: str, port: int) -> None:
    """Run one engine of a model of the fleet, for a gateway whose fleet file gives its 'addresses'.

    It is started as the gateway would start it, and stays in the foreground. SIGTERM lets running requests finish. It
    ends with 1 when the engine fails, so that whoever started it can start it again.
    """
    settings, fleet = _configuration(fleet_file, model, host)
    refuse_taken(host, port, "--port")
    if problem := wrong_platform(sys.platform, "An engine") or _missing_vllm(settings):
        raise click.ClickException(problem)
    with _run_dir(settings) as prepared, _lines(STANDARD_ERROR) as progress, _lines(STANDARD_OUTPUT) as log:
        failure = asyncio.run(
            standalone.run(
                fleet[model], fleet, prepared, Tcp(host, port), lambda text: progress(f"roundhouse  {text}"), log
            )
        )
    raise SystemExit(1 if failure else 0)


def _configuration(fleet_file: Path | None, model: str, host: str) -> tuple[Settings, Fleet]:
    """Settings with the engine's key and the fleet; exits with 2 and every mistake."""
    with refused():
        settings = Settings.from_environ(os.environ)
        path = fleet_file or settings.fleet
        fleet = fleets.load(path, catalog.load(settings.models), settings.weights, here=model)
        if not any(one.id == model for one in fleet.served):
            raise ConfigError(
                [f"{path}: there is no model '{model}', only {', '.join(one.id for one in fleet.served)}"]
            )
        key = read_secret(settings, "engine_key")
        check_reach(host, fleet, bool(key))
        run = {"run_dir": run_dir.prepare(settings.run_dir)} if settings.run_dir else {}
        return settings.model_copy(update={"engine_key": SecretStr(key), **run}), fleet


def check_reach(host: str, fleet: Fleet, has_key: bool) -> None:
    """Raises ConfigError where the engine would answer everybody who reaches it, and nothing says that it may."""
    if has_key or fleet.auth == "none" or is_loopback(host.lower()):
        return
    raise ConfigError(
        [
            f"{host} can be reached from other machines, and the engine has no key, so anyone could use it:",
            f'  export {variable("engine_key")}="$({MAKE_KEY})"        # the same for the gateway',
            "  or listen on 127.0.0.1; or, where something else keeps strangers out, add 'auth: none' to the fleet "
            "file",
        ]
    )


@contextmanager
def _run_dir(settings: Settings) -> Iterator[Settings]:
    """The settings with a run folder: a temporary one, removed at the end, where they name none."""
    if settings.run_dir:
        yield settings
        return
    with tempfile.TemporaryDirectory(prefix="roundhouse-", ignore_cleanup_errors=True) as folder:
        yield settings.model_copy(update={"run_dir": Path(folder)})


@contextmanager
def _lines(descriptor: int) -> Iterator[Callable[[str], None]]:
    """Writes lines there, and all of them before it ends."""
    writer = LogWriter(descriptor)
    try:
        yield writer.write
    finally:
        writer.close()


def _missing_vllm(settings: Settings) -> str | None:
    if settings.engine_program or find_spec("vllm"):
        return None
    return (
        "vLLM is not installed here: install requirements/cpu.lock or requirements/cuda.lock, or use the image "
        f"'engine'. {variable('engine_program')} names another command that starts it."
    )


COMMANDS = (engine,)
