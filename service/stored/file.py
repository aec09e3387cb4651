"""The SQLite file itself: opened when it is first used, private to its owner, in transactions."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VERSION = 1  # of the tables
BUSY = 2.0  # seconds to wait for another process that writes
SCHEMA = """
CREATE TABLE responses (
  number INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, id TEXT NOT NULL, previous INTEGER,
  status TEXT NOT NULL, owner TEXT, used REAL NOT NULL, prefix_key TEXT NOT NULL, UNIQUE (tenant, id)
);
CREATE TABLE bodies (
  number INTEGER PRIMARY KEY REFERENCES responses (number) ON DELETE CASCADE, body BLOB NOT NULL
);
CREATE INDEX responses_by_use ON responses (used);
CREATE INDEX responses_by_owner ON responses (owner) WHERE owner IS NOT NULL;
CREATE TABLE items (
  response INTEGER NOT NULL REFERENCES responses (number) ON DELETE CASCADE, position INTEGER NOT NULL,
  tenant TEXT NOT NULL, id TEXT NOT NULL, output INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (response, position)
);
CREATE INDEX items_by_id ON items (tenant, id);
"""


class DatabaseFile:
    """The file at `path`. One thread uses it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    @contextmanager
    def transaction(self, kind: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
        """One transaction; one that only reads is DEFERRED. After an error the file is opened anew, whatever it was."""
        try:
            connection = self._connection = self._connection or self._open()
            connection.execute(f"BEGIN {kind}")
            with connection:
                yield connection
        except sqlite3.Error:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file; the next transaction opens it again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> sqlite3.Connection:
        path = self._path
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))  # SQLite's other files get its mode
        connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None)
        try:
            # A process that is killed loses nothing that was committed; a power cut may take the last seconds.
            for setting in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON", "secure_delete = ON"):
                connection.execute(f"PRAGMA {setting}").close()
            if _version(connection) != VERSION:
                connection.execute("BEGIN IMMEDIATE")
                with connection:
                    _create_tables(connection)
        except sqlite3.Error:
            connection.close()
            raise
        return connection


def _create_tables(connection: sqlite3.Connection) -> None:
    """Makes the tables, unless another process has just done so."""
    if _version(connection) not in (0, VERSION):
        raise sqlite3.DatabaseError("it was written by another release of Roundhouse")
    for statement in filter(str.strip, SCHEMA.split(";") if _version(connection) == 0 else ()):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def used_bytes(connection: sqlite3.Connection) -> int:
    """The bytes of the pages in use; deleted ones are used again before the file grows."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)
