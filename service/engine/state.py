"""What an engine says about itself: one small file per replica in the run folder, written by its supervisor."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Condition = Literal["waiting", "scaled_to_zero", "starting", "ready", "failed", "stopping", "stopped"]
CONDITIONS: tuple[Condition, ...] = ("waiting", "scaled_to_zero", "starting", "ready", "failed", "stopping", "stopped")


@dataclass(frozen=True)
class EngineState:
    """One replica's condition. `since` is Unix time in seconds; `reason` tells a person why it is not ready."""

    replica: str
    model: str
    order: int
    condition: Condition
    phase: str = ""
    reason: str | None = None
    since: float = 0.0
    restarts: int = 0
    pid: int | None = None


def replica_id(model: str, number: int) -> str:
    """`("pebble-chat", 0)` → `pebble-chat-0`."""
    return f"{model}-{number}"


def socket_path(run_dir: Path, order: int) -> Path:
    """Where the engine that starts as number `order` listens. Short, since a socket's path has at most 107 bytes."""
    return run_dir / f"e{order}.sock"


def state_path(run_dir: Path, order: int) -> Path:
    """The state file of the engine that starts as number `order`."""
    return run_dir / f"e{order}.json"


def write(run_dir: Path, state: EngineState) -> None:
    """Replaces the replica's state file; a reader sees the old one or the new one, whole."""
    path = state_path(run_dir, state.order)
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(asdict(state)))
    scratch.replace(path)


def read(run_dir: Path, order: int) -> EngineState | None:
    """The replica's state, or None before its supervisor has written one."""
    try:
        return EngineState(**json.loads(state_path(run_dir, order).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def parallel_starts(startup: str, cores: int, free: int, need: int) -> int:
    """How many engines may start at once. Starting one keeps about a core busy; `free` and `need` are bytes."""
    if startup != "auto":
        return 1 if startup == "sequential" else 2**16
    return max(1, min(cores, free // max(1, need)))


def may_start(order: int, earlier: list[EngineState | None], at_once: int, engines: int) -> bool:
    """Whether engine number `order` of `engines` may start, given the states of those before it.

    Where not all can start at once the first one starts alone, so that something answers as soon as possible.
    """
    pending = [state is None or state.condition in ("waiting", "starting") for state in earlier[:order]]
    if at_once < engines and pending and pending[0]:
        return False
    return sum(pending) < at_once
