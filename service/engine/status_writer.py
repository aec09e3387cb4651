"""What is told of one replica: a state file for the gateways, a log file, and a line for whoever started it."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from service.engine import state
from service.engine.state import Condition, EngineState

PrintProgress = Callable[[str], None]
PHASES = (
    ("non-default args", "reading the model's configuration"),
    ("Initializing a V1 LLM engine", "starting the engine core"),
    ("Starting to load model", "loading weights"),
    ("Loading weights took", "sizing the KV cache"),
    ("Dynamo bytecode transform", "compiling"),
    ("Capturing CUDA graphs", "capturing CUDA graphs"),
    ("Starting vLLM server", "waiting for its first token"),
)


class StatusWriter:
    """The report on one replica, which begins with `first`. Files that cannot be written stop nothing."""

    def __init__(self, run_dir: Path, first: EngineState, print_progress: PrintProgress) -> None:
        self._run_dir, self._say = run_dir, print_progress
        self._log = run_dir / f"{first.replica}.log"
        self._began = 0.0
        self._unwritten = False
        self.state = first

    def begin_start(self) -> None:
        """A life of the engine begins now."""
        self._began = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since the life of the engine began."""
        return time.monotonic() - self._began

    def show(self, condition: Condition, phase: str = "", reason: str | None = None) -> None:
        """Tells everybody of a new condition."""
        self.state = replace(self.state, condition=condition, phase=phase, reason=reason, since=time.time())
        words = ", ".join(part for part in (condition.replace("_", " "), phase, reason) if part)
        lives = self._began and condition not in ("scaled_to_zero", "waiting")
        self._tell(words + (f" after {self.age:.0f} s" if lives else ""))
        self.write()

    def crashed(self, reason: str, pause: float) -> None:
        """Tells why the engine ended, and that it starts again after `pause` seconds."""
        self.state = replace(self.state, restarts=self.state.restarts + 1, pid=None)
        self.show("failed", f"starts again in {pause:g} s", reason)

    def started(self, pid: int | None) -> None:
        """The engine's process; the gateways learn it with the next condition."""
        self.state = replace(self.state, pid=pid)

    def heartbeat(self) -> None:
        """Says that the start is still going on."""
        self._tell(f"{self.state.phase}, {self.age:.0f} s")

    def log(self, line: str) -> None:
        """Takes a line of the engine's log."""
        try:
            with self._log.open("a") as log:
                log.write(line + "\n")
        except OSError:
            pass  # serving goes on without it; that the folder cannot be written is told with the state
        if self.state.condition == "starting":
            for mark, phase in PHASES:
                if mark in line:
                    self.show("starting", phase)

    def write(self) -> None:
        """Writes the state file; `retry_write` does so later where the disk is full."""
        try:
            state.write(self._run_dir, self.state)
        except OSError as error:
            if not self._unwritten:
                self._tell(f"its state cannot be written, and the gateways do not see it: {error}")
            self._unwritten = True
        else:
            self._unwritten = False

    def retry_write(self) -> None:
        """Writes the state file if that failed before."""
        if self._unwritten:
            self.write()

    def _tell(self, words: str) -> None:
        self._say(f"{self.state.replica}  {words}")
