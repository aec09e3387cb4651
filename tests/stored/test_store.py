"""The store as the gateway uses it: a file that cannot be used is a 503, soon, and is counted."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from service.database import file
from service.errors import ApiError
from service.stored.database import FILE, Database
from service.stored.store import Store
from tests.stored.test_database import AGE, SIZE, response


async def fails(store: Store, failures: list[int], reason: str, number: int = 1) -> None:
    with pytest.raises(ApiError) as caught:
        await store.run(Database.save, response(f"{len(failures)}", "x" * SIZE * number))
    assert (caught.value.status, caught.value.code, caught.value.retry_after) == (503, "store_unavailable", 5.0)
    assert reason in caught.value.message
    assert failures == [1]


async def test_a_locked_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "BUSY", 0.01)
    failures: list[int] = []
    store = Store(Database(tmp_path, 9 * SIZE, AGE), lambda: failures.append(1))
    await store.run(Database.save, response("before"))
    with closing(sqlite3.connect(tmp_path / FILE)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert await store.run(Database.get, "a", "before")  # reading needs no lock
        await fails(store, failures, "database is locked")
    await store.run(Database.save, response("after"))
    await store.close()


async def test_a_full_disk(tmp_path: Path) -> None:
    failures: list[int] = []
    store = Store(Database(tmp_path, 9 * SIZE, AGE), lambda: failures.append(1))
    await store.run(Database.save, response("before"))
    await store.run(shrink)
    await fails(store, failures, "full")
    await store.run(Database.save, response("after"))  # the file was opened anew
    await store.close()


def shrink(database: Database) -> None:
    """Leaves no room in the file, as a full disk does."""
    with database._file.transaction() as connection:
        connection.execute("PRAGMA max_page_count = 1")


async def test_a_damaged_file_and_a_missing_folder(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database at all" * 100)
    failures: list[int] = []
    store = Store(Database(tmp_path, 9 * SIZE, AGE), lambda: failures.append(1))
    await fails(store, failures, "not a database")
    failures.clear()
    store = Store(Database(tmp_path / "gone", 9 * SIZE, AGE), lambda: failures.append(1))
    await fails(store, failures, "No such file")


async def test_what_does_not_get_its_turn_in_time_is_never_run(tmp_path: Path) -> None:
    failures: list[int] = []
    store = Store(Database(tmp_path, 9 * SIZE, AGE), lambda: failures.append(1), timeout=0.0)
    await fails(store, failures, "did not answer")
    await store.close()  # its thread may have begun before it was told not to
