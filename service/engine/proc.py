"""What the kernel says of an engine's processes and threads, read from proc(5). Nothing here raises."""

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
MAX_PROCESSES, MAX_THREADS = 128, 256  # more are left out
STATES = {"R": "running", "S": "sleeping", "D": "in uninterruptible sleep", "T": "stopped", "t": "traced", "Z": "ended"}
TICKS = os.sysconf("SC_CLK_TCK")  # per second


@dataclass(frozen=True)
class ThreadState:
    """One thread: its state as proc(5) abbreviates it, and the seconds of CPU time that it has used.

    `waits_in` is the kernel's function that it sleeps in, `syscall` the number of its system call, if the kernel says;
    `kernel_stack` is only told to the superuser.
    """

    id: int
    name: str
    state: str
    cpu: float
    waits_in: str = ""
    syscall: str = ""
    kernel_stack: str = ""


@dataclass(frozen=True)
class Process:
    """One process, its main thread first. `command` is its title, such as `VLLM::EngineCore`, or its command line."""

    pid: int
    command: str
    threads: tuple[ThreadState, ...]


def descendants(pid: int) -> list[Process]:
    """The live processes that `pid` and its children have started, the oldest generation first."""
    return [process for one in [*_started_by(pid)][:MAX_PROCESSES] if (process := read(one))]


def cpu_time(pid: int) -> float:
    """The seconds of CPU time of all processes that `pid` and its children have started, and have not left."""
    return sum(sum(map(int, fields[11:15])) for fields in _started_by(pid).values()) / TICKS


def read(pid: int) -> Process | None:
    """One process; None where it has ended."""
    threads = sorted(_threads(pid), key=lambda thread: thread.id != pid)
    command = _text(PROC / str(pid) / "cmdline").replace("\0", " ").strip()
    return Process(pid, command[:200], tuple(threads)) if threads and threads[0].state not in "ZX" else None


def catches(pid: int, number: int) -> bool:
    """Whether the process has a handler for this signal: without one it would end by it."""
    for line in _text(PROC / str(pid) / "status").splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def parent(pid: int) -> int:
    """The pid of its parent; 0 where it has ended."""
    fields = _stat(PROC / str(pid))
    return int(fields[1][1]) if fields else 0


def _started_by(pid: int) -> dict[int, list[str]]:
    """The processes below `pid`, the oldest generation first, with the fields of their `stat`."""
    children: dict[int, dict[int, list[str]]] = defaultdict(dict)
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (stat := _stat(entry)):
            children[int(stat[1][1])][int(entry.name)] = stat[1]
    found: dict[int, list[str]] = {}
    generation = children[pid]
    while generation:
        found |= generation
        generation = {one: fields for parent in generation for one, fields in children[parent].items()}
    return found


def _threads(pid: int) -> Iterator[ThreadState]:
    try:
        tasks = sorted((PROC / str(pid) / "task").iterdir(), key=lambda path: int(path.name))[:MAX_THREADS]
    except (OSError, ValueError):
        return
    for path in tasks:
        if found := _stat(path):
            name, fields = found
            cpu = (int(fields[11]) + int(fields[12])) / TICKS
            call = _text(path / "syscall").split(maxsplit=1)[:1]  # the rest are addresses
            yield ThreadState(
                int(path.name), name, fields[0], cpu, _text(path / "wchan"), "".join(call), _text(path / "stack")
            )


def _stat(path: Path) -> tuple[str, list[str]] | None:
    """A task's name and the fields of its `stat` that follow; None where it has ended."""
    head, _, rest = _text(path / "stat").rpartition(")")
    fields = rest.split()
    return (head.partition("(")[2], fields) if len(fields) > 14 else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
