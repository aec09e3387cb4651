"""The usage ledger: a line for every request, written behind it, and whole after a kill."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from service.observability.ledger import Ledger
from service.observability.ledger_file import DAY, FILE, LedgerFile, Line
from service.observability.record import Record
from tests.support.waiting import PATIENCE, until

NOW = 1_790_000_000.0


def line(id: str, time: float = NOW, outcome: str = "complete", *, tenant: str = "t", completion: int = 5) -> Line:
    return Line(id, time, tenant, f"{tenant}-1", "m", "/v1/completions", 10, 4, completion, False, True, 200, outcome)


def record(id: str) -> Record:
    made = Record(id, "/v1/completions", 0.0, tenant="t", key="t-1", requested="m", model="m", admitted=0.0)
    made.prompt_tokens, made.completion_tokens, made.status = 10, 5, 200
    return made


def totals(folder: Path) -> tuple[int, int, int]:
    """Requests, tokens and estimated tokens, of all."""
    with closing(LedgerFile(folder)) as file:
        rows = file.usage(["tenant"])
    return (
        sum(row.requests for row in rows),
        sum(row.prompt + row.completion for row in rows),
        sum(row.estimated for row in rows),
    )


class Counts:
    def __init__(self) -> None:
        self.failed = self.dropped = 0

    def fail(self) -> None:
        self.failed += 1

    def drop(self) -> None:
        self.dropped += 1


@pytest.fixture
def counts() -> Counts:
    return Counts()


@asynccontextmanager
async def writing(folder: Path, counts: Counts) -> AsyncIterator[Ledger]:
    """A ledger that is closed at the end."""
    ledger = Ledger(LedgerFile(folder, DAY, 2**30), counts.fail, counts.drop, interval=0.01, max_waiting=50)
    task = asyncio.create_task(ledger.watch())
    try:
        yield ledger
    finally:
        task.cancel()
        await asyncio.wait([task])
        await ledger.close()


async def test_an_ended_request_is_one_line_with_what_the_engine_counted(tmp_path: Path, counts: Counts) -> None:
    async with writing(tmp_path, counts) as ledger:
        ledger.begin(record("a"), 400.0, 256.0)
        ledger.end(record("a"))
        broken = record("b")
        broken.estimate = 12, 3
        ledger.end(broken)
    assert totals(tmp_path) == (2, 30, 15)
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0


async def test_a_locked_file_stops_nobody_and_is_said_once(
    tmp_path: Path, counts: Counts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.database.file.BUSY", 0.01)
    monkeypatch.setattr("service.observability.ledger.RETRY", 0.01)
    with closing(LedgerFile(tmp_path)) as file:
        file.write([line("first")])
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    async with writing(tmp_path, counts) as ledger:
        for number in range(30):
            ledger.end(record(f"r{number}"))
        await until(lambda: counts.failed > 2, "attempts that fail")
        for number in range(30, 200):
            ledger.end(record(f"r{number}"))
        assert counts.dropped >= 100
        # Whoever reads the file below may be the last to close it, which locks it for a moment.
        monkeypatch.setattr("service.database.file.BUSY", PATIENCE)
        other.execute("ROLLBACK")
        other.close()
        await until(lambda: totals(tmp_path)[0] == 201 - counts.dropped, "what was not dropped")
    said = [one.getMessage() for one in caplog.records]
    assert [("cannot" in one, "again." in one) for one in said] == [(True, True), (False, True)], said


async def test_a_folder_that_is_gone_ends_nothing(
    tmp_path: Path, counts: Counts, caplog: pytest.LogCaptureFixture
) -> None:
    async with writing(tmp_path / "none", counts) as ledger:
        ledger.end(record("a"))
    assert counts.failed
    assert "lacks 1 lines" in caplog.text


KILLED = """
    import asyncio, sys
    from pathlib import Path
    from service.observability.ledger import Ledger
    from service.observability.ledger_file import LedgerFile
    from tests.observability.test_ledger import record

    async def main():
        ledger = Ledger(LedgerFile(Path(sys.argv[1]), 86400.0, 2**30), int, int)
        for number in range(1000):
            ledger.begin(record(f"r{number}"), 40.0, 200.0)
        for number in range(990):
            ledger.end(record(f"r{number}"))
        task = asyncio.create_task(ledger.watch())
        while ledger._waiting or ledger._batch:
            await asyncio.sleep(0.01)
        print("written", flush=True)
        await task

    asyncio.run(main())
"""


def test_after_a_kill_what_was_written_stays_and_what_ran_counts_as_reserved(tmp_path: Path) -> None:
    program = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "written\n"
        living = LedgerFile(tmp_path)
        assert living.recover() == 0
        process.send_signal(signal.SIGKILL)
    assert living.recover() == 10
    assert totals(tmp_path) == (1000, 990 * 15 + 10 * 240, 2400)
    living.close()


def test_old_lines_become_days_and_the_sums_stay(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path, 2 * DAY, 2**30, lambda: NOW)
    old = [line(f"o{number}", NOW - number * DAY) for number in range(6)]
    file.write([*old, line("x", NOW - 5 * DAY, tenant="u"), line("runs", NOW - 5 * DAY, "running")])
    before = file.usage(["day", "tenant"])
    for _ in range(2):
        file.clean()
        assert file.usage(["day", "tenant"]) == before
    with file._file.transaction() as connection:
        kept = connection.execute("SELECT id FROM lines ORDER BY id").fetchall()
    assert kept == [("o0",), ("o1",), ("o2",), ("runs",)]
    assert [row.requests for row in file.usage(["tenant"], NOW - 4 * DAY, "t")] == [5]
    file.close()


def test_a_file_that_is_too_large_is_rolled_up_early(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path, 30 * DAY, 120_000, lambda: NOW)
    file.write(line(f"{number:032x}", NOW - number) for number in range(3000))
    file.clean()
    assert sum(row.requests for row in file.usage(["model"])) == 3000
    with file._file.transaction() as connection:
        (kept,) = connection.execute("SELECT COUNT(*) FROM lines").fetchone()
    assert 0 < kept < 2000
    file.close()


def test_days_of_years_ago_are_forgotten(tmp_path: Path) -> None:
    file = LedgerFile(tmp_path, DAY, 2**30, lambda: NOW)
    file.write([line("old", NOW - 1200 * DAY), line("new")])
    file.clean()
    file.clean()
    assert [row.group for row in file.usage(["day"])] == [(time.strftime("%Y-%m-%d", time.gmtime(NOW)),)]
    file.close()
