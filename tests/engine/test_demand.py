"""What gateways say of themselves in the run folder, and that only the living count."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.engine import demand, gateway_registry, process_files

ME = os.getpid()


@pytest.fixture
def other() -> Iterator[int]:
    """Another process that lives."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.kill()
    process.communicate()


def end(pid: int) -> None:
    """Kills the process and takes its exit status, so that nothing of it is left."""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_a_replica_is_wanted_while_any_gateway_wants_it(tmp_path: Path, other: int) -> None:
    assert not demand.wanted(tmp_path, 2)
    demand.write(tmp_path, ME, {2, 11})
    demand.write(tmp_path, other, [2])
    assert [order for order in range(13) if demand.wanted(tmp_path, order)] == [2, 11]
    demand.write(tmp_path, ME, [])
    assert demand.wanted(tmp_path, 2)
    assert not demand.wanted(tmp_path, 11)
    demand.write(tmp_path, other, [])
    assert not demand.wanted(tmp_path, 2)


def test_the_wishes_of_the_dead_do_not_count(tmp_path: Path, other: int) -> None:
    demand.write(tmp_path, other, [0])
    gateway_registry.register(tmp_path, other)
    assert demand.wanted(tmp_path, 0)
    end(other)
    assert process_files.start_time(other) is None, "it is a zombie, which is as good as dead"
    assert not demand.wanted(tmp_path, 0)
    assert gateway_registry.registered(tmp_path) == {}
    assert not list(tmp_path.iterdir()), "and nothing of them stays"


def test_a_pid_that_passed_to_another_process_does_not_count(tmp_path: Path) -> None:
    demand.write(tmp_path, ME, [0])
    path = tmp_path / f"d{ME}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"start_time": 1}))
    assert not demand.wanted(tmp_path, 0)
    demand.write(tmp_path, ME, [0])
    assert demand.wanted(tmp_path, 0)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", "{}", '{"start_time": 1}', '{"start_time": BORN, "content": 7}']
)
def test_a_file_that_is_no_note_says_nothing(text: str, tmp_path: Path) -> None:
    for kind in "dg":
        (tmp_path / f"{kind}{ME}.json").write_text(text.replace("BORN", str(process_files.start_time(ME))))
    assert not demand.wanted(tmp_path, 7)
    assert gateway_registry.registered(tmp_path) == {}


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("e0.json", "dx.json", "d1x.json", "g.json", "d99999999.new"):
        (tmp_path / name).touch()
    assert not demand.wanted(tmp_path, 0)
    assert gateway_registry.registered(tmp_path) == {}
    assert len(list(tmp_path.iterdir())) == 5


def test_a_gateway_comes_drains_and_leaves(tmp_path: Path, other: int) -> None:
    gateway_registry.register(tmp_path, ME)
    gateway_registry.register(tmp_path, other)
    assert gateway_registry.registered(tmp_path) == {ME: False, other: False}
    gateway_registry.mark_draining(tmp_path, ME)
    assert gateway_registry.registered(tmp_path) == {ME: True, other: False}
    gateway_registry.unregister(tmp_path, ME)
    gateway_registry.unregister(tmp_path, ME)
    assert gateway_registry.registered(tmp_path) == {other: False}


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert not demand.wanted(tmp_path / "gone", 0)
    with pytest.raises(OSError, match="gone"):
        gateway_registry.register(tmp_path / "gone", ME)
    gateway_registry.unregister(tmp_path / "gone", ME)
