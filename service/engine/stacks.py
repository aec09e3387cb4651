"""Where the threads of an engine's Python processes stand: asked for by a signal, answered in a file for each."""

import os
import re
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from service.engine import proc, stack_hook
from service.engine.proc import Process, ThreadState

MAX_CHARACTERS = 256 * 1024  # of one process' stacks
FATAL = "Fatal Python error"
HEADING = re.compile(r"^(?:Current thread|Thread) 0x\w+.*:$", re.MULTILINE)
FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\S+) in (?P<function>.+)$', re.MULTILINE)
CORE = ("EngineCore", "run_engine_core", "Worker")  # in a command or a stack: the processes to look at first


def install(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with which an engine's processes answer; makes `folder` anew. Raises OSError where it cannot."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    shutil.copyfile(stack_hook.__file__, folder / f"{stack_hook.NAME}.py")
    path = filter(None, (str(folder), environment.get("PYTHONPATH")))
    return {**environment, "PYTHONPATH": os.pathsep.join(path)}


class Question:
    """Asks live processes for their stacks; `read` has the answers so far.

    A stopped process is continued until it has answered, and then stopped again. One without a handler for the signal
    is not asked.
    """

    def __init__(self, folder: Path, processes: Sequence[Process]) -> None:
        self._folder = folder
        self._waiting: dict[int, int] = {}  # pid → the size of its answer when it was last looked at
        self._stopped = {process.pid for process in processes if process.threads[0].state == "T"}
        self.unasked = [one for one in processes if not proc.catches(one.pid, signal.SIGUSR2)]
        self._start = {pid: self._size(pid) for pid in {one.pid for one in processes}}
        for process in processes:
            if process not in self.unasked and _signal(process.pid, signal.SIGUSR2):
                self._waiting[process.pid] = self._start[process.pid]
                if process.pid in self._stopped:
                    _signal(process.pid, signal.SIGCONT)

    def answered(self) -> bool:
        """Whether all have answered; to be asked again every few milliseconds, for an answer grows until it is whole.

        Stops again what was stopped and has answered.
        """
        for pid, before in list(self._waiting.items()):
            size = self._size(pid)
            if size == before > self._start[pid]:
                self._done(pid)
            else:
                self._waiting[pid] = size
        return not self._waiting

    def end(self) -> list[int]:
        """Stops waiting; returns the pids of those that have not answered."""
        for pid in (silent := list(self._waiting)):
            self._done(pid)
        return silent

    def read(self) -> dict[int, str]:
        """The answers by pid, and what ended processes wrote when they crashed."""
        found: dict[int, str] = {}
        for path in sorted(self._folder.glob("*.stack")):
            if not path.stem.isdigit():
                continue
            pid = int(path.stem)
            try:
                with path.open("rb") as file:
                    file.seek(self._start.get(pid, 0))
                    text = file.read(MAX_CHARACTERS).decode(errors="replace").strip()
            except OSError:
                continue
            if text and (pid in self._start or FATAL in text):
                found[pid] = text
        return found

    def _done(self, pid: int) -> None:
        del self._waiting[pid]
        if pid in self._stopped:
            _signal(pid, signal.SIGSTOP)

    def _size(self, pid: int) -> int:
        try:
            return (self._folder / f"{pid}.stack").stat().st_size
        except OSError:
            return 0


def main_thread(stack: str, frames: int = 8) -> list[str]:
    """The innermost frames of the main thread in what faulthandler wrote: `core.py:12 step`. Threads come newest first.

    Of a process that crashed it is the thread that did.
    """
    blocks = HEADING.split(stack)[1:]
    if not blocks:
        return []
    block = blocks[-1]
    if FATAL in stack:
        current = stack.find("Current thread 0x")
        block = HEADING.split(stack[current:])[1] if current >= 0 else block
    found = list(FRAME.finditer(block))[:frames]
    return [f"{Path(one['file']).name}:{one['line']} {one['function']}" for one in found]


def most_telling(stacks: Mapping[int, str], commands: Mapping[int, str]) -> int | None:
    """The pid whose main thread says most: one that crashed, else the engine core, else a worker, else the first."""

    def rank(pid: int) -> tuple[int, int]:
        text = f"{commands.get(pid, '')}\n{stacks[pid]}"
        known = [place for place, word in enumerate(CORE) if word in text]
        return 0 if FATAL in text else 1, min(known, default=len(CORE))

    return min(stacks, key=rank, default=None)


def render(
    processes: Sequence[Process], later: Mapping[int, Process], seconds: float, stacks: Mapping[int, str]
) -> str:
    """All of it as text. `later` are the same processes after `seconds`, which shows who uses the CPU."""
    parts = [_process(one, later.get(one.pid), seconds, stacks.get(one.pid, "")) for one in processes]
    live = {one.pid for one in processes}
    parts += [f"process {pid}, which has ended\n{text}" for pid, text in stacks.items() if pid not in live]
    return "\n\n".join(parts) + "\n"


def cpu_share(thread: ThreadState, later: Process | None, seconds: float) -> float:
    """The part of a core that the thread has used between two looks, from 0 to 1."""
    after = next((one.cpu for one in later.threads if one.id == thread.id), thread.cpu) if later else thread.cpu
    return min(1.0, (after - thread.cpu) / seconds) if seconds > 0 else 0.0


def _process(process: Process, later: Process | None, seconds: float, stack: str) -> str:
    lines = [f"process {process.pid}  {process.command}"]
    for thread in process.threads:
        share = cpu_share(thread, later, seconds)
        lines.append(f"  thread {thread.id}  {thread.name}: {', '.join(_details(thread, share))}")
        lines += [f"    {line}" for line in thread.kernel_stack.splitlines()]
    return "\n".join([*lines, stack or "  no Python stacks"])


def _details(thread: ThreadState, share: float) -> Iterator[str]:
    yield proc.STATES.get(thread.state, thread.state)
    yield f"{share:.0%} of a core"
    if thread.waits_in not in ("", "0"):
        yield f"waits in {thread.waits_in}"
    if thread.syscall not in ("", "running", "-1"):
        yield f"system call {thread.syscall}"


def _signal(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except OSError:
        return False
    return True
