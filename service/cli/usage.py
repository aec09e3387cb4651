"""`roundhouse usage`: what tenants, keys and models have used, from the usage ledger."""

import csv
import io
import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from service.cli.configured import refused
from service.config.settings import Settings, variable
from service.observability.ledger_file import FILE
from service.observability.usage import (
    COUNTS,
    DEFAULT_GROUPS,
    DEFAULT_SINCE,
    GROUPS,
    as_row,
    groups_of,
    read_usage,
    since_of,
)

Row = dict[str, Any]


@click.command()
@click.option(
    "--by",
    default=",".join(DEFAULT_GROUPS),
    show_default=True,
    help=f"What to group by, of {', '.join(GROUPS)}; several are separated by commas.",
)
@click.option(
    "--since",
    default=DEFAULT_SINCE,
    show_default=True,
    help="A date such as 2026-11-01, in UTC, or a span such as 24h, 7d or 2w.",
)
@click.option("--tenant", help="Of this tenant alone.")
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path), help=f"The ledger's folder, if not {variable('usage_dir')}'s."
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def usage(by: str, since: str, tenant: str | None, folder: Path | None, as_csv: bool, as_json: bool) -> None:
    """Show what was used: requests, and tokens of prompts and completions.

    Estimated tokens are those of the total that no engine counted, as the client left or the engine broke off.
    """
    path = ledger_folder(folder)
    try:
        groups = groups_of(by.split(","))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--by") from None
    try:
        begin = since_of(since, time.time())
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--since") from None
    try:
        rows = [as_row(groups, one) for one in read_usage(path, groups, begin, tenant)]
    except (sqlite3.Error, OSError) as error:
        raise click.ClickException(f"{path / FILE} cannot be read: {error}") from None
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif as_csv:
        click.echo(as_text(rows, [*groups, *COUNTS]), nl=False)
    else:
        Console().print(as_table(rows, groups))


def ledger_folder(given: Path | None) -> Path:
    """The ledger's folder; exits where neither the command nor the environment names one that has a ledger."""
    with refused():
        path = given or Settings.from_environ(os.environ).usage_dir
    if path is None:
        raise click.ClickException(f"no usage ledger: set {variable('usage_dir')}, as where the service runs, or --dir")
    if not (path / FILE).is_file():
        raise click.ClickException(
            f"there is no usage ledger in {path}: a service that has it as {variable('usage_dir')} writes one"
        )
    return path


def as_text(rows: list[Row], names: list[str]) -> str:
    """The rows as CSV, with a head."""
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_table(rows: list[Row], groups: tuple[str, ...]) -> Table:
    """The rows for a person, with their sum."""
    table = Table(*groups, box=SIMPLE, padding=(0, 1, 0, 0))
    for name in COUNTS:
        table.add_column(name.removesuffix("_tokens"), justify="right")
    for row in rows:
        table.add_row(*(row[name] or "-" for name in groups), *(f"{row[name]:,}" for name in COUNTS))
    if len(rows) > 1:
        table.add_section()
        table.add_row("all", *[""] * (len(groups) - 1), *(f"{sum(row[name] for row in rows):,}" for name in COUNTS))
    return table


COMMANDS = (usage,)
