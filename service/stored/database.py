"""The SQLite file of stored responses: its tables, and every question that is asked of it. One thread uses it.

A response holds the items that its request added; those before them belong to the responses that it continues. So a
conversation of any length is stored once, and deleting a response takes what it added out of those that continue it.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from service.database.file import DatabaseFile, used_bytes
from service.database.owners import Owners
from service.stored.response import RUNNING, Body, Conversation, Item, NewResponse, TooLargeError, encode, failed

FILE = "responses.sqlite3"
EVICTED_AT_ONCE = 8
STOPPED = "The gateway stopped before the response was complete. Send the request again."
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
CHAIN = """
WITH RECURSIVE chain (number, previous, depth) AS (
  SELECT number, previous, 0 FROM responses WHERE tenant = :tenant AND id = :id
  UNION ALL SELECT r.number, r.previous, depth + 1 FROM chain JOIN responses r ON r.number = chain.previous
) """


class Database:
    """The file in `folder`, which is opened when it is first used. Its methods raise sqlite3.Error and OSError.

    `max_bytes` bounds the file, beside SQLite's own log of recent writes; the responses that were used least recently
    are evicted. `max_age` is how many seconds one is kept after it was last continued.
    """

    def __init__(self, folder: Path, max_bytes: int, max_age: float, clock: Callable[[], float] = time.time) -> None:
        self._max_bytes, self._max_age, self._clock = max_bytes, max_age, clock
        self._file = DatabaseFile(folder / FILE, SCHEMA)
        self._owners = Owners(folder)

    def save(self, response: NewResponse) -> None:
        """Stores a response that has ended. Raises TooLargeError."""
        self._check_size(response)
        with self._file.transaction() as connection:
            self._insert(connection, response, None)
            self._evict(connection)

    def begin(self, response: NewResponse) -> None:
        """Stores a response that this process is going to run."""
        self._check_size(response)
        owner = self._owners.own_name()
        with self._file.transaction() as connection:
            self._insert(connection, response, owner)
            self._evict(connection)

    def update(self, response: NewResponse) -> bool:
        """Replaces a running response by its later state; returns whether it still was to run."""
        self._check_size(response)
        with self._file.transaction() as connection:
            number = self._update(connection, response.tenant, response.id, response.body)
            if number is not None and response.body["status"] not in RUNNING:
                self._insert_items(connection, number, response.tenant, response.outputs, output=True)
                self._evict(connection)
        return number is not None

    def get(self, tenant: str, id: str) -> Body | None:
        """A stored response."""
        self._fail_abandoned()
        query = "SELECT body FROM responses JOIN bodies USING (number) WHERE tenant = ? AND id = ?"
        with self._file.transaction("DEFERRED") as connection:
            row = connection.execute(query, (tenant, id)).fetchone()
        return json.loads(row[0]) if row else None

    def delete(self, tenant: str, id: str) -> bool:
        """Deletes a response, also a running one, and its items; returns whether there was one."""
        with self._file.transaction() as connection:
            return connection.execute("DELETE FROM responses WHERE tenant = ? AND id = ?", (tenant, id)).rowcount > 0

    def conversation(self, tenant: str, id: str, max_bytes: int, with_output: bool) -> Conversation | None:
        """The conversation that ends with this response, with or without its output."""
        named = {"tenant": tenant, "id": id, "output": with_output}
        self._fail_abandoned()
        with self._file.transaction("DEFERRED") as connection:
            chain = connection.execute(CHAIN + "SELECT number, previous FROM chain ORDER BY depth", named).fetchall()
            if not chain:
                return None
            number = chain[0][0]
            status, prefix_key = connection.execute(
                "SELECT status, prefix_key FROM responses WHERE number = ?", (number,)
            ).fetchone()
            (size,) = connection.execute(
                CHAIN + "SELECT TOTAL(LENGTH(body)) FROM items JOIN chain ON response = number"
                " WHERE depth > 0 OR output <= :output", named,
            ).fetchone()  # fmt: skip
            items = [
                Item(*row)
                for each, _ in reversed(chain if size <= max_bytes else ())
                for row in connection.execute(
                    "SELECT id, body FROM items WHERE response = ? AND output <= ? ORDER BY position",
                    (each, with_output or each != number),
                )
            ]
        return Conversation(number, status, int(prefix_key), chain[-1][1] is None, int(size), items)

    def items(self, tenant: str, ids: Iterable[str]) -> dict[str, bytes]:
        """The items with these ids, of each the one that was stored last; those that do not exist are left out."""
        with self._file.transaction("DEFERRED") as connection:
            query = "SELECT body FROM items WHERE tenant = ? AND id = ? ORDER BY response DESC LIMIT 1"
            rows = {id: connection.execute(query, (tenant, id)).fetchone() for id in ids}
        return {id: row[0] for id, row in rows.items() if row}

    def ended(self, running: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
        """Those of the responses `running` here, by tenant and id, that were cancelled or deleted."""
        query = f"SELECT 1 FROM responses WHERE tenant = ? AND id = ? AND status IN {RUNNING}"
        with self._file.transaction("DEFERRED") as connection:
            return [key for key in running if connection.execute(query, key).fetchone() is None]

    def clean(self) -> None:
        """Evicts what is too old, and fails what a process left running that lives no more."""
        self._fail_abandoned()
        with self._file.transaction() as connection:
            self._evict(connection)
        self._owners.remove_dead()

    def size(self) -> int:
        """Bytes in use."""
        with self._file.transaction("DEFERRED") as connection:
            return used_bytes(connection)

    def close(self) -> None:
        """Closes the file; the next use opens it again."""
        self._file.close()
        self._owners.close()

    def _check_size(self, response: NewResponse) -> None:
        if response.size > self._max_bytes:
            raise TooLargeError

    def _insert(self, connection: sqlite3.Connection, response: NewResponse, owner: str | None) -> None:
        status = response.body["status"]
        key = str(response.prefix_key)  # it can be larger than SQLite's integers
        number = connection.execute(
            "INSERT INTO responses (tenant, id, previous, status, owner, used, prefix_key)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (response.tenant, response.id, response.previous, status, owner, self._clock(), key),
        ).lastrowid
        assert number is not None
        connection.execute("INSERT INTO bodies (number, body) VALUES (?, ?)", (number, encode(response.body)))
        self._insert_items(connection, number, response.tenant, response.items, output=False)
        self._insert_items(connection, number, response.tenant, response.outputs, output=True)
        # A conversation that goes on is not old.
        named = {"tenant": response.tenant, "id": response.id, "now": self._clock()}
        connection.execute(
            CHAIN + "UPDATE responses SET used = :now WHERE number IN (SELECT number FROM chain)", named
        )  # fmt: skip

    def _insert_items(
        self, connection: sqlite3.Connection, number: int, tenant: str, items: Iterable[Item], *, output: bool
    ) -> None:
        (first,) = connection.execute("SELECT COUNT(*) FROM items WHERE response = ?", (number,)).fetchone()
        connection.executemany(
            "INSERT INTO items (response, position, tenant, id, output, body) VALUES (?, ?, ?, ?, ?, ?)",
            [(number, first + place, tenant, item.id, output, item.body) for place, item in enumerate(items)],
        )

    def _update(self, connection: sqlite3.Connection, tenant: str, id: str, body: Body) -> int | None:
        """Gives a running response its new state; returns its number, or None where it is not running."""
        owner = "owner" if body["status"] in RUNNING else "NULL"
        row = connection.execute(
            f"UPDATE responses SET status = ?, used = ?, owner = {owner}"
            f" WHERE tenant = ? AND id = ? AND status IN {RUNNING} RETURNING number",
            (body["status"], self._clock(), tenant, id),
        ).fetchone()
        if row is None:
            return None
        connection.execute("UPDATE bodies SET body = ? WHERE number = ?", (encode(body), row[0]))
        return int(row[0])

    def _fail_abandoned(self) -> None:
        """Fails the responses that ran in processes which have ended."""
        with self._file.transaction("DEFERRED") as connection:
            owners = connection.execute("SELECT DISTINCT owner FROM responses WHERE owner IS NOT NULL").fetchall()
        dead = [owner for (owner,) in owners if not self._owners.lives(owner)]
        if not dead:
            return
        with self._file.transaction() as connection:
            for owner in dead:
                query = "SELECT tenant, id, body FROM responses JOIN bodies USING (number) WHERE owner = ?"
                for tenant, id, body in connection.execute(query, (owner,)).fetchall():
                    self._update(connection, tenant, id, failed(json.loads(body), "server_error", STOPPED))

    def _evict(self, connection: sqlite3.Connection) -> None:
        ended = "owner IS NULL"
        connection.execute(f"DELETE FROM responses WHERE {ended} AND used < ?", (self._clock() - self._max_age,))
        oldest = f"SELECT number FROM responses WHERE {ended} ORDER BY used, number LIMIT {EVICTED_AT_ONCE}"
        while used_bytes(connection) > self._max_bytes:
            if not connection.execute(f"DELETE FROM responses WHERE number IN ({oldest})").rowcount:
                break
