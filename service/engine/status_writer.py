"""Publishes the status of one replica: a state file for the gateways, a log file, progress lines on the terminal."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from service.engine import state
from service.engine.log_file import LogFile
from service.engine.state import Condition, EngineState, Evidence

PrintProgress = Callable[[str], None]
# Text in vLLM's log → the phase of the start that begins with it.
PHASES = (
    ("non-default args", "reading the model's configuration"),
    ("Initializing a V1 LLM engine", "starting the engine core"),
    ("Starting to load model", "loading weights"),
    ("Loading weights took", "sizing the KV cache"),
    ("Dynamo bytecode transform", "compiling"),
    ("Capturing CUDA graphs", "capturing CUDA graphs"),
    ("Starting vLLM server", "waiting for its first token"),
)
START_ORDER = ("verifying the weights", "importing vLLM", *(phase for _, phase in PHASES))
START_PHASES = frozenset(START_ORDER)
EXPECTATION = 1.0  # seconds by which an expected time must have moved to be published again


class StatusWriter:
    """Holds the `state` of one replica and publishes its changes. An unwritable run folder never raises here.

    `echo` is given each line of the engine's log.
    """

    def __init__(
        self, run_dir: Path, initial: EngineState, print_progress: PrintProgress, echo: PrintProgress | None = None
    ) -> None:
        self._run_dir, self._print_progress, self._echo = run_dir, print_progress, echo
        self._log = LogFile(run_dir / f"{initial.replica}.log")
        self._started_at = self._changed_at = 0.0
        self._write_failed = False
        self.state = initial

    def begin_start(self) -> None:
        """Notes that a start of the engine begins now."""
        self._started_at = time.monotonic()
        self.state = replace(self.state, adapters={})

    @property
    def age(self) -> float:
        """Seconds since the last start of the engine began."""
        return time.monotonic() - self._started_at

    def show(self, condition: Condition, phase: str = "", reason: str | None = None, drains: bool = False) -> None:
        """Publishes a new condition. When it may be ready is kept for as long as it stays in this one."""
        phases = self._start_phases(condition)
        self.state = replace(
            self.state, condition=condition, phase=phase, reason=reason, since=time.time(), start_phases=phases,
            ready_at=self.state.ready_at if condition == self.state.condition else None, drains=drains,
        )  # fmt: skip
        text = ", ".join(part for part in (condition.replace("_", " "), phase, reason) if part)
        was_started = self._started_at and condition not in ("scaled_to_zero", "waiting")
        self.say(text + (f" after {self.age:.0f} s" if was_started else ""))
        self.write()

    def _start_phases(self, condition: Condition) -> dict[str, float]:
        """The seconds of each phase of the last start, the one that ends now included. A new start has none yet."""
        before, began = self.state, self._changed_at
        self._changed_at = time.monotonic()
        if before.condition != "starting":
            return {} if condition == "starting" else before.start_phases
        took = before.start_phases.get(before.phase, 0.0) + self._changed_at - began
        return before.start_phases | {before.phase: round(took, 3)}

    def expect(self, seconds: float | None) -> None:
        """Publishes, without a progress line, in how many seconds it may be ready; None where that is not known."""
        at, before = None if seconds is None else time.monotonic() + seconds, self.state.ready_at
        if (at is None) != (before is None) or (at and before and abs(at - before) > EXPECTATION):
            self.state = replace(self.state, ready_at=at)
            self.write()

    def crashed(self, reason: str, phase: str = "starts again") -> None:
        """Publishes why the engine ended; `phase` says when it is restarted."""
        self.state = replace(self.state, restarts=self.state.restarts + 1, pid=None)
        self.show("failed", phase, reason)

    def collecting(self, evidence: Evidence, reason: str) -> None:
        """Publishes, without a progress line, that the engine has failed: gateways tell which requests it had."""
        self.state = replace(self.state, evidence=evidence, condition="failed", phase="keeping evidence", reason=reason)
        self.write()

    def collected(self, kept: bool, text: str | None) -> None:
        """Notes what became of the evidence, which is published with the next condition; prints `text`."""
        if self.state.evidence:
            self.state = replace(self.state, evidence=replace(self.state.evidence, kept=kept))
        if text:
            self.say(text)

    def show_adapters(self, adapters: dict[str, str | None]) -> None:
        """Publishes which adapters are loaded, and prints why others are not."""
        known, self.state = self.state.adapters, replace(self.state, adapters=adapters)
        for id, reason in adapters.items():
            if id not in known or known[id] != reason:
                self.say(f"adapter {id} {f'not loaded: {reason}' if reason else 'loaded'}")
        for id in known.keys() - adapters.keys():
            self.say(f"adapter {id} unloaded")
        self.write()

    def started(self, pid: int | None) -> None:
        """Publishes, without a progress line, the pid of the engine's process, which may be ready by then."""
        self.state = replace(self.state, pid=pid)
        self.write()

    def heartbeat(self) -> None:
        """Prints that the current phase is still going on."""
        self.say(f"{self.state.phase}, {self.age:.0f} s")

    def log(self, line: str) -> None:
        """Appends a line of the engine's log to the log file, and publishes the phase that it stands for."""
        if self._echo:
            self._echo(line)
        self._log.write(line)  # serving goes on without it; `write` reports that the folder cannot be written
        if self.state.condition == "starting":
            for text, phase in PHASES:
                if text in line:
                    self.show("starting", phase)

    def write(self) -> None:
        """Writes the state file; if that fails, prints why, once, and leaves it to `retry_write`."""
        try:
            state.write(self._run_dir, self.state)
        except OSError as error:
            if not self._write_failed:
                self.say(f"its state file cannot be written, so the gateways do not see this state: {error}")
            self._write_failed = True
        else:
            self._write_failed = False

    def retry_write(self) -> None:
        """Writes the state file if that failed before."""
        if self._write_failed:
            self.write()

    def close(self) -> None:
        """Closes the log file."""
        self._log.close()

    def say(self, text: str) -> None:
        """Prints a progress line."""
        self._print_progress(f"{self.state.replica}  {text}")
