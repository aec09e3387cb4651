"""The SQLite file itself: opened when it is first used, private to its owner, in transactions."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUSY = 2.0  # seconds to wait for another process that writes


class DatabaseFile:
    """The file at `path`, whose tables `schema` makes; `version` is theirs. One thread uses it."""

    def __init__(self, path: Path, schema: str, version: int = 1) -> None:
        self._path, self._schema, self._version = path, schema, version
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
            if _version(connection) != self._version:
                connection.execute("BEGIN IMMEDIATE")
                with connection:
                    self._create_tables(connection)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _create_tables(self, connection: sqlite3.Connection) -> None:
        """Makes the tables, unless another process has just done so."""
        found = _version(connection)
        if found not in (0, self._version):
            raise sqlite3.DatabaseError("it was written by another release of Roundhouse")
        for statement in filter(str.strip, self._schema.split(";") if found == 0 else ()):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {self._version}")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def used_bytes(connection: sqlite3.Connection) -> int:
    """The bytes of the pages in use; deleted ones are used again before the file grows."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)
