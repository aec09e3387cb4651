"""The file of stored responses: conversations, tenants, bounds, and what is left when a process is killed."""

import json
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from service.database.file import DatabaseFile
from service.stored.database import FILE, SCHEMA, Database
from service.stored.response import Item, NewResponse, TooLargeError

ROOT = Path(__file__).parents[2]
AGE = 3600.0
SIZE = 2**20
Open = Callable[..., Database]
"""Opens the file of a test, which closes it; takes what bounds it besides its age."""


def response(id: str, text: str = "question", *, tenant: str = "a", previous: int | None = None, **body: Any) -> Any:
    """A response to `text`; its answer is the id."""
    output = [{"id": f"msg_{id}", "type": "message", "role": "assistant", "content": [{"text": id}]}]
    item = Item(f"in_{id}", json.dumps({"role": "user", "content": text}).encode())
    return NewResponse(tenant, id, previous, 2**63 + 7, {"status": "completed", "output": output, **body}, (item,))


def running(id: str, **fields: Any) -> Any:
    return response(id, status="in_progress", output=[], background=True, **fields)


@pytest.fixture
def open_file(tmp_path: Path) -> Iterator[Open]:
    with ExitStack() as opened:
        yield lambda size=SIZE, *clock: opened.enter_context(closing(Database(tmp_path, size, AGE, *clock)))


@pytest.fixture
def database(open_file: Open) -> Database:
    return open_file()


def texts(database: Database, id: str, *, output: bool = True, tenant: str = "a") -> list[str]:
    found = database.conversation(tenant, id, SIZE, with_output=output)
    assert found
    return [item.id for item in found.items]


def test_a_conversation_is_all_items_in_order(database: Database) -> None:
    database.save(response("1"))
    first = database.conversation("a", "1", SIZE, with_output=True)
    assert first and (first.prefix_key, first.complete, first.status) == (2**63 + 7, True, "completed")
    database.save(response("2", previous=first.number))
    assert texts(database, "2") == ["in_1", "msg_1", "in_2", "msg_2"]
    assert texts(database, "2", output=False) == ["in_1", "msg_1", "in_2"]
    assert (database.get("a", "2") or {})["output"][0]["id"] == "msg_2"
    small = database.conversation("a", "2", 10, with_output=True)
    assert small and small.size > 10 and not small.items


def test_a_deleted_response_is_missing_from_what_continues_it(database: Database) -> None:
    database.save(response("1"))
    first = database.conversation("a", "1", SIZE, with_output=True)
    assert first
    database.save(response("2", previous=first.number))
    assert database.delete("a", "1") and not database.delete("a", "1")
    second = database.conversation("a", "2", SIZE, with_output=True)
    assert second and not second.complete
    assert database.items("a", ["in_1", "msg_1", "in_2"]).keys() == {"in_2"}


def test_what_is_of_another_tenant_does_not_exist(database: Database) -> None:
    database.save(response("1"))
    assert database.get("b", "1") is None
    assert database.conversation("b", "1", SIZE, with_output=True) is None
    assert not database.delete("b", "1")
    assert database.items("b", ["msg_1"]) == {}
    database.save(response("1", "other", tenant="b"))  # an id is free for every tenant
    assert b"other" in database.items("b", ["in_1"])["in_1"]


def test_the_file_is_its_owners_alone(database: Database, tmp_path: Path) -> None:
    database.save(response("1"))
    database.begin(running("2"))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 4 and set(modes.values()) == {0o600}, modes


def test_the_oldest_go_first_when_there_is_no_room(open_file: Open, tmp_path: Path) -> None:
    now = [0.0]
    database = open_file(SIZE, lambda: now[0])
    for number in range(40):
        now[0] += 1
        database.save(response(str(number), "x" * 100_000))
        assert database.size() <= SIZE
    kept = [number for number in range(40) if database.get("a", str(number))]
    assert kept == list(range(min(kept), 40)) and 5 <= len(kept) <= 10
    assert (tmp_path / FILE).stat().st_size <= SIZE + 300_000
    with pytest.raises(TooLargeError):
        database.save(response("huge", "x" * SIZE))
    assert database.get("a", "39")


def test_age_counts_from_the_last_response_that_continued_it(open_file: Open) -> None:
    now = [0.0]
    database = open_file(SIZE, lambda: now[0])
    database.save(response("1"))
    database.save(response("lonely"))
    first = database.conversation("a", "1", SIZE, with_output=True)
    assert first
    now[0] = AGE - 1
    database.save(response("2", previous=first.number))
    now[0] = AGE + 1
    database.clean()
    assert database.get("a", "1") and not database.get("a", "lonely")
    now[0] = 2 * AGE
    database.clean()
    assert database.get("a", "1") is database.get("a", "2") is None


def test_a_running_response_is_not_evicted_and_ends_once(open_file: Open) -> None:
    now = [0.0]
    database = open_file(SIZE, lambda: now[0])
    database.begin(running("1"))
    now[0] = 2 * AGE
    database.clean()
    assert database.ended([("a", "1"), ("a", "2")]) == [("a", "2")]
    assert database.update(response("1", status="cancelled", output=[]))
    assert not database.update(response("1"))
    assert (database.get("a", "1") or {})["status"] == "cancelled"
    assert database.ended([("a", "1")]) == [("a", "1")]


def test_one_that_ran_in_a_living_process_goes_on(database: Database, open_file: Open) -> None:
    database.begin(running("1"))
    other = open_file()
    other.clean()
    assert (other.get("a", "1") or {})["status"] == "in_progress"
    database.close()
    assert (other.get("a", "1") or {})["error"]["code"] == "server_error"


KILLED = """
import sys, json
from pathlib import Path
from tests.stored.test_database import AGE, SIZE, Database, response, running
database = Database(Path(sys.argv[1]), SIZE, AGE)
database.save(response("done"))
database.begin(running("begun"))
print("ready", flush=True)
sys.stdin.readline()
for number in range(10**9):
    database.save(response(f"n{number}", "x" * 20_000))
    print(number, flush=True)
"""


def test_what_was_stored_survives_a_killed_process_and_what_ran_has_failed(open_file: Open, tmp_path: Path) -> None:
    """The process is killed while it writes, and another one shares the file with it meanwhile."""
    database = open_file(64 * SIZE)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdin and process.stdout and process.stdout.readline() == "ready\n"
    assert (database.get("a", "begun") or {})["status"] == "in_progress"
    database.save(response("ours"))
    process.stdin.write("\n")
    process.stdin.flush()
    while (last := int(process.stdout.readline())) < 5:
        pass
    process.kill()
    process.communicate()
    assert (database.get("a", "begun") or {})["status"] == "failed"
    later = open_file(64 * SIZE)
    for id in ("done", "ours", *(f"n{number}" for number in range(last + 1) if last - number < 5)):
        assert later.get("a", id), id
    assert texts(later, "done") == ["in_done", "msg_done"]
    later.clean()
    assert not list(tmp_path.glob("*.lock"))


def test_a_file_of_another_release_is_left_alone(database: Database, tmp_path: Path) -> None:
    with closing(DatabaseFile(tmp_path / FILE, SCHEMA)) as file, file.transaction() as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(Exception, match="another release"):
        database.get("a", "1")
