"""The program that writes one bundle of evidence: `python -m service.engine.collect`, with a `Task` as JSON on stdin.

A process of its own, so that the supervisor goes on meanwhile, may end it when its time is up, and survives whatever
goes wrong here. Each part that cannot be had is a line of `notes` in the summary; what ends the program without a
summary goes to standard error, with an exit status that is not 0.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.engine import bundles, proc, process_files, stacks
from service.engine.proc import Process
from service.engine.stacks import Question

LOOK = 0.2  # seconds at least between two looks at the processes' CPU time
ANSWERS = 0.4  # of the time that there is, at most for the stacks, and for the gateways' requests
CARD = 0.7  # of the time that there is, when nvidia-smi must have said its part
POLL = 0.01
MAX_CHARACTERS = 2**20  # of a file


@dataclass(frozen=True)
class Task:
    """What the supervisor knows and asks for: `summary`, `log` and `figures` go into the bundle as they are.

    `limit` is the seconds that all of it may take: then the program is killed.
    `keeper` is the pid of the process that has started the engine's, 0 if it has ended. `stacks` is the folder where
    they answer, if they can. `gateways` are asked for their requests through the state of the replica with this
    startup order, and answer in the run folder.
    """

    id: str
    limit: float
    folder: str
    most: int
    most_bytes: int
    run_dir: str
    order: int
    keeper: int
    stacks: str | None
    gateways: list[int]
    summary: dict[str, Any]
    log: list[str]
    figures: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)


def answers_kind(order: int) -> str:
    """The kind of file in the run folder by which gateways tell which requests were at the replica of this order."""
    return f"r{order}-"


class Collection:
    """One bundle in the making."""

    def __init__(self, task: Task) -> None:
        self._task, self._began = task, time.monotonic()
        self._path = Path(task.folder) / task.id
        self._notes = list(task.notes)

    def run(self) -> None:
        """Writes the bundle. Raises OSError where not even the summary can be written."""
        task = self._task
        folder = Path(task.folder)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        bundles.drop_surplus(folder, task.most - 1, task.most_bytes)
        self._path.mkdir(mode=0o700)
        self._write_summary({}, complete=False)  # it stays, if time runs out
        card = self._begin_card()
        found = self._processes_and_requests()
        self._part("log.txt", lambda: "".join(f"{line}\n" for line in task.log))
        self._part("figures.json", lambda: _json(task.figures))
        self._part("card.txt", lambda: self._card(card))
        self._write_summary(found, complete=True)
        bundles.drop_surplus(folder, task.most, task.most_bytes)

    def _processes_and_requests(self) -> dict[str, Any]:
        """Writes the stacks and the requests; returns what the summary says of them."""
        task = self._task
        first = proc.descendants(task.keeper) if task.keeper else []
        if not first:
            self._notes.append("no process of the engine was left to look at")
        if task.stacks is None:
            self._notes.append("no Python stacks: the engine was started without the hook for them")
        question = Question(Path(task.stacks), first) if task.stacks else None
        looked, requests = time.monotonic(), self._await_answers(question, bool(first))
        seconds = time.monotonic() - looked
        later = {one.pid: again for one in first if (again := proc.read(one.pid))}
        texts = question.read() if question else {}
        self._part("stacks.txt", lambda: stacks.render(first, later, seconds, texts))
        self._part("requests.json", lambda: _json(requests))
        return {"requests": len(requests), **_stood(first, later, seconds, texts)}

    def _await_answers(self, question: Question | None, look: bool) -> list[Any]:
        """Waits for stacks and requests; returns the requests."""
        answered, begin, limit = False, time.monotonic(), ANSWERS * self._task.limit
        while True:
            answered = answered or question is None or question.answered()
            by_gateway = dict(self._requests())
            missing = set(self._task.gateways) - by_gateway.keys()
            elapsed = time.monotonic() - begin
            if (answered and not missing and (elapsed > LOOK or not look)) or elapsed > limit:
                break
            time.sleep(POLL)
        for pid in question.end() if question else ():
            self._notes.append(f"process {pid} did not write its stacks within {limit:g} s")
        for one in question.unasked if question else ():
            self._notes.append(f"process {one.pid} has no handler that writes its stacks: {one.command}")
        if missing:
            self._notes.append(f"{len(missing)} gateway processes did not tell their requests within {limit:g} s")
        return [request for found in by_gateway.values() for request in found]

    def _requests(self) -> Iterator[tuple[int, list[Any]]]:
        for pid, content in process_files.read(Path(self._task.run_dir), answers_kind(self._task.order)):
            if isinstance(content, dict) and content.get("evidence") == self._task.id:
                yield pid, content["requests"]

    def _begin_card(self) -> "subprocess.Popen[bytes] | None":
        program = shutil.which("nvidia-smi")
        if program is None:
            self._notes.append("no state of a card: there is no nvidia-smi here")
            return None
        try:
            return subprocess.Popen([program, "-q"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        except OSError as error:
            self._notes.append(f"no state of a card: nvidia-smi cannot be run: {error}")
            return None

    def _card(self, process: "subprocess.Popen[bytes] | None") -> str:
        if process is None:
            return "absent\n"
        try:
            until = self._began + CARD * self._task.limit
            output, _ = process.communicate(timeout=max(0.05, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            self._notes.append("no state of a card: nvidia-smi does not answer")
            return "nvidia-smi does not answer\n"
        return output.decode(errors="replace")

    def _part(self, name: str, text: Callable[[], str]) -> None:
        """Writes one file of the bundle; notes why, where that fails."""
        try:
            self._write(name, text()[:MAX_CHARACTERS])
        except OSError as error:
            self._notes.append(f"{name} could not be written: {error.strerror}")

    def _write(self, name: str, text: str) -> None:
        descriptor = os.open(self._path / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)

    def _write_summary(self, found: dict[str, Any], complete: bool) -> None:
        took = round(time.monotonic() - self._began, 3)
        what = {"complete": complete, "took_s": took, "notes": self._notes, "memory": _memory()}
        self._write(bundles.SUMMARY, _json({**self._task.summary, **found, **what}))


def _stood(
    first: list[Process], later: dict[int, Process], seconds: float, texts: dict[int, str]
) -> dict[str, Any]:  # fmt: skip
    """What the summary says of the processes, and where the most telling one's main thread stood."""
    rows = [
        {
            "pid": one.pid,
            "command": one.command,
            "state": proc.STATES.get(one.threads[0].state, one.threads[0].state),
            "cpu": round(stacks.cpu_share(one.threads[0], later.get(one.pid), seconds), 2),
            "threads": len(one.threads),
        }
        for one in first
    ]
    pid = stacks.most_telling(texts, {one.pid: one.command for one in first})
    main = {"pid": pid, "frames": stacks.main_thread(texts[pid])} if pid is not None else None
    return {"processes": rows, "main_thread": main}


def _memory() -> dict[str, Any]:
    """The machine's free memory in bytes, and how often the kernel has killed for lack of it in this container."""
    found: dict[str, Any] = {"kernel": platform.release()}
    for name, file, key, unit in (
        ("available_bytes", "/proc/meminfo", "MemAvailable:", 1024),
        ("oom_kills", "/sys/fs/cgroup/memory.events", "oom_kill", 1),
    ):
        try:
            words = [line.split() for line in Path(file).read_text().splitlines()]
            found[name] = next((int(line[1]) * unit for line in words if line[0] == key), None)
        except (OSError, ValueError, IndexError):
            found[name] = None
    return found


def _json(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"


if __name__ == "__main__":
    try:
        Collection(Task(**json.load(sys.stdin))).run()
    except OSError as problem:
        sys.exit(f"{problem.strerror}: {problem.filename}" if problem.filename else str(problem))
