"""What most commands begin with: settings, catalogue and fleet, or every mistake in them."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from service.catalog import catalog
from service.config.settings import Settings
from service.config.strict_yaml import ConfigError, Document
from service.fleet import fleet
from service.fleet.schema import FleetFile
from service.fleet.shares import parts_by_share, too_large, too_many_asleep
from service.sharing import machine

fleet_option: Callable[..., Any] = click.option(
    "--fleet", "fleet_file", type=click.Path(path_type=Path), help="The fleet file, if not ROUNDHOUSE_FLEET's."
)


def settings_and_catalog() -> tuple[Settings, catalog.Catalog]:
    """Settings of the environment and the catalogue; exits with 2 and every mistake."""
    with refused():
        settings = Settings.from_environ(os.environ)
        return settings, catalog.load(settings.models)


def configured(fleet_file: Path | None) -> tuple[Settings, catalog.Catalog, fleet.Fleet]:
    """Settings, catalogue and the fleet that is asked for; exits with 2 and every mistake."""
    settings, known = settings_and_catalog()
    with refused():
        path, may_log_prompts = fleet_file or settings.fleet, settings.prompt_log is not None
        return settings, known, fleet.load(path, known, settings.weights, may_log_prompts=may_log_prompts)


def refuse_large_shares(path: Path, served: fleet.Fleet) -> None:
    """Exits with 2 where memory that engines of the fleet file share is more than this machine or its cards have."""
    if not parts_by_share(served.served):
        return
    with refused():
        document = Document(path)
        memory = machine.memory()
        problems = list(too_large(document, document.read(FleetFile), memory))
        if asleep := too_many_asleep(served.served, memory[None]):
            problems.append(document.problem(("shares",), asleep))
        if problems:
            raise ConfigError(problems)


def refuse_taken(host: str, port: int, options: str) -> None:
    """Ends the command with 1 where it cannot listen on the port, and names the options that change it."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            message = f"cannot listen on {host}:{port}: {error.strerror}. Choose another with {options}."
            raise click.ClickException(message) from None


@contextmanager
def refused() -> Iterator[None]:
    """Ends the command with 2 where a file of the operator's is wrong, and says what."""
    try:
        yield
    except ConfigError as error:
        click.echo(str(error), err=True)
        raise SystemExit(2) from None
