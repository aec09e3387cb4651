"""The SQLite file of the usage ledger: one line per request, which are rolled up per day when they are old."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from service.database.file import DatabaseFile, used_bytes
from service.database.owners import Owners

FILE = "usage.sqlite3"
SCHEMA = """
CREATE TABLE lines (
  id TEXT PRIMARY KEY, time REAL NOT NULL, tenant TEXT NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL,
  endpoint TEXT NOT NULL, prompt INTEGER NOT NULL, cached INTEGER NOT NULL, completion INTEGER NOT NULL,
  estimated INTEGER NOT NULL, admitted INTEGER NOT NULL, status INTEGER NOT NULL, outcome TEXT NOT NULL, owner TEXT
) WITHOUT ROWID;
CREATE INDEX lines_by_time ON lines (time);
CREATE INDEX lines_by_owner ON lines (owner) WHERE owner IS NOT NULL;
CREATE TABLE days (
  day TEXT NOT NULL, tenant TEXT NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL, endpoint TEXT NOT NULL,
  requests INTEGER NOT NULL, admitted INTEGER NOT NULL, prompt INTEGER NOT NULL, cached INTEGER NOT NULL,
  completion INTEGER NOT NULL, estimated INTEGER NOT NULL, PRIMARY KEY (day, tenant, key, model, endpoint)
) WITHOUT ROWID;
"""
DAY = 86400.0  # seconds
DAY_OF_LINE = "strftime('%Y-%m-%d', time, 'unixepoch')"
# What is summed; `estimated` is the tokens that no engine counted.
SUMS = (
    "COUNT(*) AS requests, TOTAL(admitted) AS admitted, TOTAL(prompt) AS prompt, TOTAL(cached) AS cached,"
    " TOTAL(completion) AS completion, TOTAL((prompt + completion) * estimated) AS estimated"
)
COLUMNS = "requests, admitted, prompt, cached, completion, estimated"
GROUPED = "day, tenant, key, model, endpoint"
ROLL_UP = (
    f"INSERT INTO days ({GROUPED}, {COLUMNS}) SELECT {DAY_OF_LINE} AS day, tenant, key, model, endpoint, {SUMS}"
    f" FROM lines WHERE time < ? AND owner IS NULL GROUP BY {GROUPED}"
    f" ON CONFLICT ({GROUPED}) DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in COLUMNS.split(", "))
)
# Lines are rolled up at latest when they are a year old, whatever the setting; and days are kept for about three.
OLDEST_DAY = 1100 * DAY
ROLLED_UP_AT_ONCE = 0.1  # of all lines, where the file is too large

GUARDRAIL = "guardrail"  # the endpoint of calls to guards, which the operator has made and budgets do not count
Group = Literal["day", "tenant", "key", "model", "endpoint"]


class Line(msgspec.Struct, frozen=True, gc=False):
    """One request. `time` is when it ended, in Unix seconds; the counts are tokens.

    `estimated` says that no engine counted them, and `admitted` that it was charged to the tenant's budgets. The
    outcome is the record's, or `running` while the request runs, or `lost` if its gateway was killed meanwhile.
    """

    id: str
    time: float
    tenant: str
    key: str
    model: str
    endpoint: str
    prompt: int
    cached: int
    completion: int
    estimated: bool
    admitted: bool
    status: int
    outcome: str


class Usage(NamedTuple):
    """The sums of a group of requests, in the order of `group`. The counts are tokens, but `requests`, `admitted`."""

    group: tuple[str, ...]
    requests: int
    admitted: int
    prompt: int
    cached: int
    completion: int
    estimated: int


class LedgerFile:
    """The file in `folder`, opened at its first use. One thread uses it. Its methods raise sqlite3.Error and OSError.

    Lines are rolled up per day, key, model and endpoint when they are older than `max_age` seconds, or earlier if the
    file would be larger than `max_bytes`. `clock` is in Unix seconds.
    """

    def __init__(
        self, folder: Path, max_age: float = 0, max_bytes: int = 0, clock: Callable[[], float] = time.time
    ) -> None:
        self._max_age, self._max_bytes, self._clock = max_age, max_bytes, clock
        self._file = DatabaseFile(folder / FILE, SCHEMA)
        self._owners = Owners(folder)

    def write(self, lines: Iterable[Line]) -> None:
        """Writes lines, each in place of an earlier one of the same request."""
        own = self._owners.own_name()
        rows = [(*msgspec.structs.astuple(line), own if line.outcome == "running" else None) for line in lines]
        with self._file.transaction() as connection:
            connection.executemany(f"INSERT OR REPLACE INTO lines VALUES ({', '.join('?' * 14)})", rows)

    def recover(self) -> int:
        """Ends the lines of requests whose gateway was killed, with what they had reserved; returns their number."""
        with self._file.transaction("DEFERRED") as connection:
            owners = connection.execute("SELECT DISTINCT owner FROM lines WHERE owner IS NOT NULL").fetchall()
        dead = [owner for owner in owners if not self._owners.lives(*owner)]
        if not dead:
            return 0
        with self._file.transaction() as connection:
            query = "UPDATE lines SET outcome = 'lost', owner = NULL WHERE owner = ?"
            return connection.executemany(query, dead).rowcount

    def clean(self) -> None:
        """Ends what killed gateways left, and rolls up what is old, or more of it if the file is too large."""
        self.recover()
        self._owners.remove_dead()
        now = self._clock()
        oldest = time.strftime("%Y-%m-%d", time.gmtime(now - OLDEST_DAY))
        with self._file.transaction() as connection:
            connection.execute("DELETE FROM days WHERE day < ?", (oldest,))
        self._roll_up((now - self._max_age) // DAY * DAY)
        while (before := self._next_to_roll_up()) is not None:
            self._roll_up(before)

    def usage(self, by: Iterable[Group], since: float = 0, tenant: str | None = None) -> list[Usage]:
        """The sums of all requests from `since` on, in Unix seconds, of one tenant or of all, by these columns.

        Of what is rolled up, the whole day of `since` counts.
        """
        groups = list(by)
        names, day = ", ".join(groups), time.strftime("%Y-%m-%d", time.gmtime(since))
        whose = "" if tenant is None else " AND tenant = :tenant"
        sums = ", ".join(f"TOTAL({name})" for name in COLUMNS.split(", "))
        query = (
            f"SELECT {names}, {sums} FROM (SELECT {GROUPED}, {COLUMNS} FROM days WHERE day >= :day{whose} UNION ALL"
            f" SELECT {DAY_OF_LINE} AS day, tenant, key, model, endpoint, {SUMS} FROM lines"
            f" WHERE time >= :since{whose} GROUP BY {GROUPED}) GROUP BY {names} ORDER BY {names}"
        )
        with self._file.transaction("DEFERRED") as connection:
            rows = connection.execute(query, {"day": day, "since": since, "tenant": tenant}).fetchall()
        return [Usage(row[: len(groups)], *map(int, row[len(groups) :])) for row in rows]

    def used_on(self, day: int) -> dict[str, tuple[int, int]]:
        """The requests and tokens that each tenant was charged on that day, counted from 1970, of UTC."""
        name = time.strftime("%Y-%m-%d", time.gmtime(day * DAY))
        found: dict[str, tuple[int, int]] = {}
        for row in self.usage(["tenant", "day", "endpoint"], day * DAY):
            tenant, of, endpoint = row.group
            if of == name and endpoint != GUARDRAIL:
                requests, tokens = found.get(tenant, (0, 0))
                found[tenant] = requests + row.admitted, tokens + row.prompt + row.completion
        return found

    def close(self) -> None:
        """Closes the file; the next use opens it again."""
        self._file.close()
        self._owners.close()

    def _roll_up(self, before: float) -> None:
        with self._file.transaction() as connection:
            connection.execute(ROLL_UP, (before,))
            connection.execute("DELETE FROM lines WHERE time < ? AND owner IS NULL", (before,))

    def _next_to_roll_up(self) -> float | None:
        """The time before which lines are to be rolled up for the file to become smaller; None if it is fine."""
        with self._file.transaction("DEFERRED") as connection:
            if used_bytes(connection) <= self._max_bytes:
                return None
            (count,) = connection.execute("SELECT COUNT(*) FROM lines WHERE owner IS NULL").fetchone()
            query = "SELECT time FROM lines WHERE owner IS NULL ORDER BY time LIMIT 1 OFFSET ?"
            row = connection.execute(query, (min(count - 1, int(count * ROLLED_UP_AT_ONCE)),)).fetchone()
        return row[0] + 1e-6 if row else None
