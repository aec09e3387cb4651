"""Files of gateway processes in the run folder: demand and registration, and that only live processes count."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.engine import demand, gateway_registry, process_files

OWN_PID = os.getpid()


@pytest.fixture
def other_pid() -> Iterator[int]:
    """The pid of another live process."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.kill()
    process.communicate()


def kill(pid: int) -> None:
    """Kills the process and waits until it is a zombie, without reaping it."""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_a_replica_is_wanted_while_any_gateway_needs_it(tmp_path: Path, other_pid: int) -> None:
    assert not demand.wanted(tmp_path, 2)
    demand.write(tmp_path, OWN_PID, {2, 11})
    demand.write(tmp_path, other_pid, [2])
    assert [order for order in range(13) if demand.wanted(tmp_path, order)] == [2, 11]
    demand.write(tmp_path, OWN_PID, [])
    assert demand.wanted(tmp_path, 2)
    assert not demand.wanted(tmp_path, 11)
    demand.write(tmp_path, other_pid, [])
    assert not demand.wanted(tmp_path, 2)


def test_files_of_dead_processes_do_not_count(tmp_path: Path, other_pid: int) -> None:
    demand.write(tmp_path, other_pid, [0])
    gateway_registry.register(tmp_path, other_pid)
    assert demand.wanted(tmp_path, 0)
    kill(other_pid)
    assert process_files.start_time(other_pid) is None, "a zombie counts as dead"
    assert not demand.wanted(tmp_path, 0)
    assert gateway_registry.registered(tmp_path) == {}
    assert not list(tmp_path.iterdir()), "their files are removed"


def test_a_reused_pid_does_not_count(tmp_path: Path) -> None:
    demand.write(tmp_path, OWN_PID, [0])
    path = tmp_path / f"d{OWN_PID}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"start_time": 1}))
    assert not demand.wanted(tmp_path, 0)
    demand.write(tmp_path, OWN_PID, [0])
    assert demand.wanted(tmp_path, 0)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "null", "{}", '{"start_time": 1}', '{"start_time": START_TIME, "content": 7}', "[" * 100_000],
    ids=range(9),
)
def test_a_malformed_file_is_ignored(text: str, tmp_path: Path) -> None:
    for kind in "dg":
        (tmp_path / f"{kind}{OWN_PID}.json").write_text(
            text.replace("START_TIME", str(process_files.start_time(OWN_PID)))
        )
    assert not demand.wanted(tmp_path, 7)
    assert gateway_registry.registered(tmp_path) == {}


def test_a_file_that_cannot_be_removed_is_ignored(tmp_path: Path, other_pid: int) -> None:
    kill(other_pid)
    (tmp_path / f"g{other_pid}.json").mkdir()
    assert gateway_registry.registered(tmp_path) == {}


@pytest.mark.parametrize("text", ["", "1", "1 (x)", "1 (x) S", "1 (x) S 1 2 3", "1 (x) S " + "y " * 30])
def test_a_process_that_cannot_be_read_does_not_run(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    assert process_files.start_time(OWN_PID) is None


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("e0.json", "dx.json", "d1x.json", "g.json", "d99999999.new"):
        (tmp_path / name).touch()
    assert not demand.wanted(tmp_path, 0)
    assert gateway_registry.registered(tmp_path) == {}
    assert len(list(tmp_path.iterdir())) == 5


def test_a_gateway_registers_drains_and_unregisters(tmp_path: Path, other_pid: int) -> None:
    gateway_registry.register(tmp_path, OWN_PID)
    gateway_registry.register(tmp_path, other_pid)
    assert gateway_registry.registered(tmp_path) == {OWN_PID: False, other_pid: False}
    gateway_registry.mark_draining(tmp_path, OWN_PID)
    assert gateway_registry.registered(tmp_path) == {OWN_PID: True, other_pid: False}
    gateway_registry.unregister(tmp_path, OWN_PID)
    gateway_registry.unregister(tmp_path, OWN_PID)
    assert gateway_registry.registered(tmp_path) == {other_pid: False}


def test_a_missing_run_folder(tmp_path: Path) -> None:
    assert not demand.wanted(tmp_path / "gone", 0)
    with pytest.raises(OSError, match="gone"):
        gateway_registry.register(tmp_path / "gone", OWN_PID)
    gateway_registry.unregister(tmp_path / "gone", OWN_PID)
