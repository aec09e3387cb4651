"""The state file of a replica: written by its supervisor into the run folder, read by every gateway process."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import msgspec

from service.engine.bundles import Cause
from service.engine.process_files import start_time

Condition = Literal["waiting", "scaled_to_zero", "starting", "ready", "failed", "stopping", "stopped"]
CONDITIONS: tuple[Condition, ...] = ("waiting", "scaled_to_zero", "starting", "ready", "failed", "stopping", "stopped")

# In these conditions there is no engine, so that a state holds on while its supervisor is restarted.
WITHOUT_PROCESS: tuple[Condition, ...] = ("failed", "stopped", "scaled_to_zero")


@dataclass(frozen=True)
class Evidence:
    """The bundle of evidence of an engine's last failure, at Unix time `at` in seconds.

    `kept` is None while it is being collected, and False where it was lost.
    """

    id: str
    cause: Cause
    at: float
    kept: bool | None = None


@dataclass(frozen=True)
class EngineState:
    """The state of one replica.

    `order` is its position in the fleet's startup order, from 0. `phase` is what it is doing in this condition, and
    `reason` why it failed, both for people to read. `since` is Unix time in seconds, `restarts` counts the starts after
    a crash, and `pid` is the API server's. `start_phases` has the seconds of each phase of the last start so far.
    `evidence` is what is kept of its last failure. `ready_at` is when it may be ready, in seconds of
    the machine's monotonic clock, None where nobody knows. One that `drains` still takes what was admitted to it, and
    nothing else.
    `adapters` are those that it was asked to load, by id: None where one is loaded, else why it is not.
    """

    replica: str
    model: str
    order: int
    condition: Condition
    phase: str = ""
    reason: str | None = None
    since: float = 0.0
    restarts: int = 0
    pid: int | None = None
    start_phases: dict[str, float] = field(default_factory=dict)
    evidence: Evidence | None = None
    ready_at: float | None = None
    drains: bool = False
    adapters: dict[str, str | None] = field(default_factory=dict)

    def has_adapter(self, id: str) -> bool:
        """Whether the adapter is loaded."""
        return id in self.adapters and self.adapters[id] is None


@dataclass(frozen=True)
class StateFile:
    """The content of a state file: the state, and its processes by pid: when each started, as process_files has it.

    These are the writer, which is the supervisor, and the engine if there is one. Pids are reused, times are not.
    """

    state: EngineState
    processes: dict[int, int | None]


def replica_id(model: str, number: int) -> str:
    """`("pebble-chat", 0)` → `pebble-chat-0`."""
    return f"{model}-{number}"


def socket_path(run_dir: Path, order: int) -> Path:
    """The Unix socket of the engine with this startup order. Short, since such a path has at most 107 bytes."""
    return run_dir / f"e{order}.sock"


def state_path(run_dir: Path, order: int) -> Path:
    """The state file of the engine with this startup order."""
    return run_dir / f"e{order}.json"


def write(run_dir: Path, state: EngineState) -> None:
    """Replaces the replica's state file atomically. Raises OSError where the run folder cannot be written."""
    path = state_path(run_dir, state.order)
    temporary = path.with_suffix(".new")
    pids = [os.getpid()] if state.pid is None else [os.getpid(), state.pid]
    document = StateFile(state, {pid: start_time(pid) for pid in pids})
    temporary.write_text(msgspec.json.encode(document).decode())
    temporary.replace(path)


def read(run_dir: Path, order: int) -> EngineState | None:
    """The replica's state; None before its supervisor has written one, or where the file is malformed.

    It has failed where its supervisor, or the engine that it calls ready, is no longer running.
    """
    try:
        file = msgspec.json.decode(state_path(run_dir, order).read_bytes(), type=StateFile)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    state = file.state
    gone = [pid for pid, started in file.processes.items() if started is None or start_time(pid) != started]
    if not gone or state.condition in WITHOUT_PROCESS:
        return state
    if state.pid in gone and len(gone) == 1:
        if state.condition != "ready":
            return state  # its supervisor is about to say what became of it
        return replace(state, condition="failed", reason="its process is gone")
    return replace(state, condition="failed", phase="", reason="its supervisor is gone, and is being restarted")


def parallel_starts(startup: str, cores: int, free: int, need: int) -> int:
    """How many engines may start in parallel. A start keeps about one core busy; `free` and `need` are bytes."""
    if startup != "auto":
        return 1 if startup == "sequential" else 2**16
    return max(1, min(cores, free // max(1, need)))


def may_start(order: int, earlier: list[EngineState | None], max_parallel: int, engines: int) -> bool:
    """Whether engine number `order` of `engines` may start, given the states of those before it. Pure.

    Where not all can start in parallel the first one starts alone, so that one model answers as early as possible.
    """
    pending = [state is None or state.condition in ("waiting", "starting") for state in earlier[:order]]
    if max_parallel < engines and pending and pending[0]:
        return False
    return sum(pending) < max_parallel
