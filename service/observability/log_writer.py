"""Writes log lines in a thread of its own, so that whoever reads them, or a disk, never blocks the event loop."""

import os
import select
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

MAX_QUEUED_LINES = 10_000  # of about half a kilobyte each; more than a reader's short pause piles up
BATCH_INTERVAL = 0.02  # seconds in which lines gather: each write costs a system call and a switch of threads
CLOSE_TIMEOUT = 5.0  # seconds that the end of the process waits for a reader that has stalled


def encoded_text(lines: Sequence[str]) -> bytes:
    """Lines of text, each with its end."""
    return "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")


class LogWriter:
    """Writes lines to a file descriptor, in order. May be used from any thread.

    While MAX_QUEUED_LINES wait, further ones are dropped; `on_drop` is called with the number of lines that were, also
    of those that could not be written. `encode` makes of lines what is written, in the thread, and must not raise.
    """

    def __init__(
        self, descriptor: int, on_drop: Callable[[int], object] = lambda _: None,
        encode: Callable[[Sequence[Any]], bytes] = encoded_text,
    ) -> None:  # fmt: skip
        self._descriptor, self._on_drop, self._encode = descriptor, on_drop, encode
        self._queued: deque[Any] = deque()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._starting = threading.Lock()
        self._worker: threading.Thread | None = None

    def write(self, line: Any) -> None:
        """Queues the line; never blocks and never raises."""
        if len(self._queued) >= MAX_QUEUED_LINES:
            self._on_drop(1)
            return
        self._queued.append(line)
        if not self._wake.is_set():
            self._wake.set()
            if self._worker is None or not self._worker.is_alive():
                self._start()

    def close(self) -> None:
        """Writes all that is queued, within CLOSE_TIMEOUT. A line written later starts the thread again."""
        self._closing.set()
        self._wake.set()
        if self._worker:
            self._worker.join(CLOSE_TIMEOUT)
        self._wake.clear()

    def _start(self) -> None:
        with self._starting:
            if self._worker is None or not self._worker.is_alive():
                self._closing.clear()
                # A daemon: a reader that never reads on must not keep the process alive.
                self._worker = threading.Thread(target=self._run, name="log writer", daemon=True)
                self._worker.start()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._closing.wait(BATCH_INTERVAL)
            self._wake.clear()  # before the queue is emptied, so that no line is forgotten
            self._write_queued()
        self._write_queued()

    def _write_queued(self) -> None:
        lines = [self._queued.popleft() for _ in range(len(self._queued))]
        if not lines:
            return
        try:
            self._write_all(self._encode(lines))
        except OSError:  # a full disk, or a reader that has gone: log lines are lost, but no request fails
            self._on_drop(len(lines))

    def _write_all(self, data: bytes) -> None:
        """Writes the data, however long that takes; raises OSError."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # whoever gave us the descriptor has made it non-blocking
                select.select([], [self._descriptor], [])
