"""What most commands begin with: settings, catalogue and fleet, or every mistake in them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from service.catalog import catalog
from service.config.settings import Settings
from service.config.strict_yaml import ConfigError
from service.fleet import fleet

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


@contextmanager
def refused() -> Iterator[None]:
    """Ends the command with 2 where a file of the operator's is wrong, and says what."""
    try:
        yield
    except ConfigError as error:
        click.echo(str(error), err=True)
        raise SystemExit(2) from None
