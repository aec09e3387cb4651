"""`roundhouse keys`: makes, lists and revokes the API keys of tenants, in the keys file."""

import os
import pwd
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import click
from pydantic import ValidationError
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from service.auth.keys import DEFAULT_GROUPS, EndpointGroup, digest
from service.auth.keys_file import KeyEntry, edited, read
from service.cli.configured import refused
from service.config.settings import Settings, variable
from service.config.strict_yaml import plain
from service.observability.audit import audit_line
from service.observability.rotating_file import RotatingFile

KEY_BYTES = 32  # random ones
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Span(click.ParamType[timedelta]):
    """A span of time such as `30d`."""

    name = "span"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """The span; fails where it is none, or ends after the year 9999."""
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"([1-9]\d{0,3})([mhdw])", str(value))
        if not found:
            self.fail(f"'{value}' is none: a number and m, h, d or w, such as 30d", param, ctx)
        return timedelta(**{UNITS[found[2]]: int(found[1])})


class Words(click.ParamType[tuple[str, ...]]):
    """Words separated by commas, each of `known` if there are some."""

    name = "words"

    def __init__(self, known: Sequence[str] = ()) -> None:
        self._known = known

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """The words; fails where there is none, or one that is not known."""
        words = tuple(value) if isinstance(value, tuple) else tuple(filter(None, map(str.strip, str(value).split(","))))
        unknown = [word for word in words if self._known and word not in self._known]
        if unknown or not words:
            self.fail(f"{', '.join(unknown) or 'nothing'} is not among {', '.join(self._known) or 'names'}", param, ctx)
        return words


file_option = click.option(
    "--file", "path", type=click.Path(path_type=Path), help=f"The keys file, if not {variable('keys')}'s."
)
expires_option = click.option("--expires", type=Span(), help="How long it is valid, such as 12h, 30d or 8w.")


@click.group()
def keys() -> None:
    """Make, list and revoke API keys of tenants.

    They are kept in the file that ROUNDHOUSE_KEYS names, as digests. A running service notices a change within seconds.
    """


@keys.command()
@click.argument("tenant")
@file_option
@expires_option
@click.option("--models", type=Words(), help="Ids and aliases that it may use, separated by commas, instead of all.")
@click.option(
    "--endpoints", type=Words(get_args(EndpointGroup)),
    help=f"What it is for, instead of {','.join(sorted(DEFAULT_GROUPS))}: {', '.join(get_args(EndpointGroup))}.",
)  # fmt: skip
@click.option("--proxy", is_flag=True, help="Its bearer may name the tenant, by the header x-roundhouse-tenant.")
def create(
    tenant: str, path: Path | None, expires: timedelta | None, models: tuple[str, ...] | None,
    endpoints: tuple[str, ...] | None, proxy: bool,
) -> None:  # fmt: skip
    """Make a key for TENANT and print it, which happens only this once."""
    secret, file = new_secret(), keys_path(path)
    given = {"models": models, "endpoints": endpoints, "proxy": proxy}
    with changing(file) as entries:
        entry = new_entry(secret, tenant, free_id(tenant, entries), expires, given)
        entries.append(entry)
        audit("key_created", entry, file)
    show(entry, secret, file)


@keys.command(name="list")
@file_option
def list_keys(path: Path | None) -> None:
    """Show the keys of the file, without what would let anyone in."""
    with refused():
        entries = read(keys_path(path))
    table = Table("id", "tenant", "created", "expires", "models", "for", box=SIMPLE, padding=(0, 1, 0, 0))
    table.columns[0].no_wrap = True
    now = datetime.now(UTC)
    for entry in entries:
        purpose = ", ".join([*entry.endpoints, *(["naming tenants"] if entry.proxy else [])])
        expires = "never" if entry.expires is None else f"{entry.expires:%Y-%m-%d %H:%M}"
        if entry.expires and entry.expires <= now:
            expires = f"expired {expires}"
        models = ", ".join(entry.models or ("all",))
        table.add_row(entry.id, entry.tenant, f"{entry.created:%Y-%m-%d}", expires, models, purpose)
    Console().print(table)


@keys.command()
@click.argument("id")
@file_option
def revoke(id: str, path: Path | None) -> None:
    """Remove the key with this ID: a running service refuses it within seconds."""
    file = keys_path(path)
    with changing(file) as entries:
        entry = found(id, entries)
        entries.remove(entry)
        audit("key_revoked", entry, file)
    click.echo(f"Revoked {id}.", err=True)


@keys.command()
@click.argument("id")
@file_option
@expires_option
def rotate(id: str, path: Path | None, expires: timedelta | None) -> None:
    """Replace the key with this ID by a new one for the same, and print that."""
    secret, file = new_secret(), keys_path(path)
    with changing(file) as entries:
        old = found(id, entries)
        if expires is None and old.expires is not None:
            expires = old.expires - old.created
        given = {"models": old.models, "endpoints": old.endpoints, "proxy": old.proxy}
        entry = new_entry(secret, old.tenant, id, expires, given)
        entries[entries.index(old)] = entry
        audit("key_rotated", entry, file)
    show(entry, secret, file)


def new_secret() -> str:
    """A new key."""
    return f"rh_{secrets.token_urlsafe(KEY_BYTES)}"


def new_entry(secret: str, tenant: str, id: str, expires: timedelta | None, given: Mapping[str, object]) -> KeyEntry:
    """The entry of a key that is valid from now on; members of `given` that are None have their default."""
    now = datetime.now(UTC).replace(microsecond=0)
    members = {name: value for name, value in given.items() if value is not None}
    if expires is not None:
        members["expires"] = now + expires
    hashed = digest(secret.encode()).hex()
    try:
        return KeyEntry.model_validate({"id": id, "tenant": tenant, "sha256": hashed, "created": now, **members})
    except ValidationError as error:
        wrong = [f"{item['loc'][0]}: {plain(item)}" for item in error.errors() if item["loc"][0] != "id"]
        raise click.ClickException("\n".join(wrong)) from None


def free_id(tenant: str, entries: Sequence[KeyEntry]) -> str:
    """The first of `tenant-1`, `tenant-2`, … that no key has."""
    taken, number = {entry.id for entry in entries}, 1
    while f"{tenant}-{number}" in taken:
        number += 1
    return f"{tenant}-{number}"


def found(id: str, entries: Sequence[KeyEntry]) -> KeyEntry:
    """The entry with this id; raises ClickException where there is none."""
    for entry in entries:
        if entry.id == id:
            return entry
    raise click.ClickException(f"there is no key '{id}'; `roundhouse keys list` shows those that there are")


def show(entry: KeyEntry, secret: str, file: Path) -> None:
    """Prints the key on standard output, and what it is beside it."""
    until = f", until {entry.expires:%Y-%m-%d %H:%M} UTC" if entry.expires else ""
    click.echo(f"{entry.id} of {entry.tenant}{until}, in {file}. The key is shown only now:", err=True)
    click.echo(secret)


def keys_path(given: Path | None) -> Path:
    """The keys file; exits where neither the command nor the environment names one."""
    with refused():
        path = given or Settings.from_environ(os.environ).keys
    if path is None:
        raise click.ClickException(f"no keys file: set {variable('keys')}, here and where the service runs, or --file")
    return path


def audit(action: str, entry: KeyEntry, file: Path) -> None:
    """Writes to the audit log, if there is one, which user of the system changes a key; exits where it cannot."""
    with refused():
        settings = Settings.from_environ(os.environ)
    if settings.audit_log is None:
        return
    who = {"user": user_name(), "uid": os.getuid(), "behind_sudo": os.environ.get("SUDO_USER")}
    what = {"key": entry.id, "tenant": entry.tenant, "file": str(file)}
    line = audit_line(time.time(), action, {**who, **what})
    target = RotatingFile(settings.audit_log, settings.audit_max_bytes, settings.audit_files)
    try:
        target.append(f"{line}\n".encode())
    except OSError as error:
        message = f"nothing was changed: the audit log {settings.audit_log} cannot be written: {error.strerror}"
        raise click.ClickException(message) from None


def user_name() -> str:
    """The name of the user of the system who runs this; empty for one without a name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


@contextmanager
def changing(path: Path) -> Iterator[list[KeyEntry]]:
    """The entries of the file, to be changed; exits where it cannot be read or written."""
    with refused():
        try:
            with edited(path) as entries:
                yield entries
        except OSError as error:
            raise click.ClickException(f"{path} cannot be written: {error.strerror}") from None


COMMANDS = (keys,)
