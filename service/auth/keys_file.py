"""Reads and writes the keys file, which holds digests, and reads the first key from the settings."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, Field

from service.auth.keys import DEFAULT_GROUPS, FIRST, EndpointGroup, Key, Keys, digest
from service.config.run_dir import WRITE_BY_OTHERS
from service.config.secret import read_secret
from service.config.settings import Settings
from service.config.strict_yaml import ConfigError, Document, Frozen

HEADER = "# API keys, as digests. `roundhouse keys` writes this file anew with each change: comments are lost then.\n"
PRIVATE = 0o600


def _in_utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,95}$")]
Time = Annotated[datetime, AfterValidator(_in_utc)]


class KeyEntry(Frozen):
    """One key as written in the file; docs/security.md explains each member. Times without a zone are UTC."""

    id: Name
    tenant: Name
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: Time
    expires: Time | None = None
    models: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    endpoints: Annotated[tuple[EndpointGroup, ...], Field(min_length=1)] = tuple(sorted(DEFAULT_GROUPS))
    proxy: bool = False

    def key(self) -> Key:
        """What the entry says of its key."""
        return Key(
            self.id,
            self.tenant,
            self.expires.timestamp() if self.expires else None,
            None if self.models is None else frozenset(self.models),
            frozenset(self.endpoints),
            self.proxy,
        )


class KeysFile(Frozen):
    """The whole file."""

    keys: tuple[KeyEntry, ...] = ()


def load(settings: Settings, sign_on: bool = False) -> Keys | None:
    """The keys that the settings name; raises ConfigError with every mistake.

    None where they name none, so that none is asked for, unless users `sign_on`.
    """
    first = first_key(settings)
    if not first and settings.keys is None:
        return {} if sign_on else None
    keys = {digest(first.encode()): FIRST} if first else {}
    entries = read(settings.keys) if settings.keys else ()
    return keys | {bytes.fromhex(entry.sha256): entry.key() for entry in entries}


def first_key(settings: Settings) -> str:
    """The key of `ROUNDHOUSE_API_KEY` or of its file; empty if there is none. Raises ConfigError."""
    return read_secret(settings, "api_key")


def read(path: Path) -> tuple[KeyEntry, ...]:
    """The entries of a keys file; raises ConfigError with every mistake in it."""
    document = Document(path)
    entries = document.read(KeysFile).keys
    if path.stat().st_mode & WRITE_BY_OTHERS:
        raise ConfigError([f"{path}: other users can change it: chmod 600 {path}"])
    problems = []
    for index, entry in enumerate(entries):
        for name in ("id", "sha256"):
            if any(getattr(entry, name) == getattr(earlier, name) for earlier in entries[:index]):
                problems.append(document.problem(("keys", index, name), "another key has the same"))
    if problems:
        raise ConfigError(problems)
    return entries


@contextmanager
def edited(path: Path) -> Iterator[list[KeyEntry]]:
    """The entries of a keys file, to be changed in place; it is written whole at the end, for its owner alone.

    A file that does not exist counts as empty. Raises ConfigError, and OSError where it cannot be written. Of two
    programs that change it at once the second waits.
    """
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        entries = list(read(path)) if path.exists() else []
        yield entries
        _write(path, entries)
    finally:
        os.close(folder)


def _write(path: Path, entries: Sequence[KeyEntry]) -> None:
    path = path.resolve()  # a symbolic link stays one
    rows = [entry.model_dump(mode="json", exclude_defaults=True) for entry in entries]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE), "w") as file:
            file.write(HEADER + yaml.safe_dump({"keys": rows}, sort_keys=False))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
