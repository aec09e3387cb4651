"""The state files of replicas, and the startup order."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine import state
from service.engine.state import CONDITIONS, Condition, EngineState, may_start, parallel_starts

STATE = EngineState("pebble-chat-0", "pebble-chat", 0, "ready", since=5.5, pid=os.getpid())
MIB = 2**20


def test_a_written_state_is_read(tmp_path: Path) -> None:
    assert state.read(tmp_path, 0) is None
    for written in (STATE, replace(STATE, condition="failed", reason="模型\n")):
        state.write(tmp_path, written)
        assert state.read(tmp_path, 0) == written
    state.write(tmp_path, replace(STATE, order=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e0.json", "e1.json"]


def changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the document of a state file."""
    path = state.state_path(folder, 0)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


MALFORMED = ["", "{", "[]", "3", '{"replica": "x"}', '{"unheard": 1}', "\xff", "[" * 100_000]


@pytest.mark.parametrize("text", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_state_file_is_none(tmp_path: Path, text: str) -> None:
    state.state_path(tmp_path, 0).write_text(text, encoding="latin-1")
    assert state.read(tmp_path, 0) is None


@pytest.mark.parametrize("field", [{"condition": "unheard"}, {"condition": []}, {"restarts": "2"}, {"pid": {}}])
def test_a_state_with_a_wrong_value_is_none(field: dict[str, Any], tmp_path: Path) -> None:
    state.write(tmp_path, STATE)
    changed(tmp_path, lambda document: document["state"].update(field))
    assert state.read(tmp_path, 0) is None


@pytest.fixture
def ended() -> int:
    """The pid of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_state_without_its_supervisor_has_failed(condition: Condition, tmp_path: Path, ended: int) -> None:
    state.write(tmp_path, replace(STATE, condition=condition, pid=None))
    changed(tmp_path, lambda document: document.update(processes={str(ended): 5}))
    found = state.read(tmp_path, 0)
    assert found
    assert found.condition == (condition if condition in state.WITHOUT_PROCESS else "failed")


@pytest.mark.parametrize("condition", CONDITIONS)
def test_no_engine_is_ready_whose_process_is_gone(condition: Condition, tmp_path: Path, ended: int) -> None:
    state.write(tmp_path, replace(STATE, condition=condition, pid=ended))
    found = state.read(tmp_path, 0)
    assert found
    assert (found.condition, found.reason) == (
        ("failed", "its process is gone") if condition == "ready" else (condition, None)
    )


def test_a_pid_that_was_given_to_another_process_is_no_engine(tmp_path: Path) -> None:
    state.write(tmp_path, replace(STATE, pid=os.getppid()))
    found = state.read(tmp_path, 0)
    assert found
    assert found.condition == "ready"
    changed(tmp_path, lambda document: document["processes"].update({str(os.getppid()): 1}))
    found = state.read(tmp_path, 0)
    assert found
    assert found.condition == "failed"


def test_every_condition_is_listed() -> None:
    assert get_args(Condition) == CONDITIONS


def test_replica_ids_and_socket_paths() -> None:
    assert state.replica_id("pebble-chat", 2) == "pebble-chat-2"
    assert state.socket_path(Path("/run"), 12) == Path("/run/e12.sock")


@pytest.mark.parametrize(
    ("start", "cores", "free", "need", "expected"),
    [
        ("sequential", 64, 10**12, MIB, 1),
        ("parallel", 1, 0, MIB, 2**16),
        ("auto", 4, 100 * MIB, MIB, 4),
        ("auto", 64, 3 * MIB, MIB, 3),
        ("auto", 64, 0, MIB, 1),
        ("auto", 0, 0, 0, 1),
    ],
)
def test_how_many_engines_start_in_parallel(start: str, cores: int, free: int, need: int, expected: int) -> None:
    assert parallel_starts(start, cores, free, need) == expected


def engines(*conditions: Condition | None) -> list[EngineState | None]:
    return [condition and replace(STATE, condition=condition) for condition in conditions]


@pytest.mark.parametrize(
    ("order", "earlier", "max_parallel", "may"),
    [
        (0, (), 1, True),
        (1, ("starting",), 1, False),
        (1, ("ready",), 1, True),
        (1, (None,), 1, False),
        # Where two of three may start in parallel, the first still starts alone.
        (1, ("starting",), 2, False),
        (1, ("waiting",), 2, False),
        (1, ("ready",), 2, True),
        (2, ("ready", "starting"), 2, True),
        (2, ("ready", "starting"), 1, False),
        # One that failed does not hold up the others.
        (1, ("failed",), 1, True),
        (2, ("stopped", "failed"), 1, True),
        # Where all may start in parallel, none waits.
        (2, ("starting", "starting"), 3, True),
        (2, (None, None), 3, True),
    ],
)
def test_may_start(order: int, earlier: tuple[Condition | None, ...], max_parallel: int, may: bool) -> None:
    assert may_start(order, engines(*earlier), max_parallel, engines=3) is may


STATES = st.lists(st.sampled_from([None, *CONDITIONS]), min_size=1, max_size=6)


@given(STATES, st.integers(1, 8))
def test_no_more_engines_start_than_max_parallel(conditions: list[Condition | None], max_parallel: int) -> None:
    pending = {None, "waiting", "starting"}
    starting = [
        order for order, condition in enumerate(conditions)
        if condition in pending and may_start(order, engines(*conditions), max_parallel, len(conditions))
    ]  # fmt: skip
    assert len(starting) <= max_parallel
    if pending & set(conditions):
        assert starting, "some pending engine may always start"


@given(STATES, st.integers(1, 8))
def test_startup_follows_the_order_of_the_fleet(conditions: list[Condition | None], max_parallel: int) -> None:
    allowed = [may_start(order, engines(*conditions), max_parallel, 9) for order in range(len(conditions))]
    assert all(earlier or not later for earlier, later in pairwise(allowed[1:]))
