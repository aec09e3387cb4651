"""How many connections each worker of a gateway has open, in memory that all of them share."""

import contextlib
import mmap
import os
import socket
from pathlib import Path

WORD = 8  # bytes of a number
ABSENT = 0  # in the place of a count, which is one more than the connections


class OpenCounts:
    """One row for each worker: its count, and a number that grows as long as its event loop runs.

    A worker writes its own row alone, and writing a number is one step, so nothing is locked. `worker` counts from 1;
    one that takes another's place has a number up to twice their number. `bell` is readable when another rings it.
    """

    def __init__(self, folder: Path, worker: int, workers: int) -> None:
        size = 2 * workers * 2 * WORD
        file = os.open(folder / "connections", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, size)
            self._cells = memoryview(mmap.mmap(file, size)).cast("q")
        finally:
            os.close(file)
        self._row, self._count = 2 * (worker - 1), 0
        self.leave()
        self._bells = {2 * number: str(folder / f"c{number + 1}.sock") for number in range(2 * workers)}
        Path(self._bells[self._row]).unlink(missing_ok=True)
        self.bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.bell.setblocking(False)
        self.bell.bind(self._bells[self._row])

    def join(self) -> None:
        """Tells the others that this worker accepts connections."""
        self._cells[self._row] = self._count + 1
        self.beat()

    def leave(self) -> None:
        """Tells the others that this worker accepts none."""
        self._cells[self._row] = ABSENT

    def show(self, count: int) -> None:
        """Tells the others how many connections this worker has, if it accepts any."""
        self._count = count
        if self._cells[self._row] != ABSENT:
            self.join()

    def beat(self) -> None:
        """Shows the others that this worker runs."""
        self._cells[self._row + 1] += 1

    def fewer(self) -> dict[int, int]:
        """The workers with fewer connections than this one, by row: the number that shows that it runs."""
        cells, mine = self._cells, self._cells[self._row]
        return {row: cells[row + 1] for row in range(0, len(cells), 2) if ABSENT < cells[row] < mine}

    def ring(self, row: int) -> None:
        """Wakes the worker of this row."""
        with contextlib.suppress(OSError):  # it has been rung often enough, or is gone
            self.bell.sendto(b"", self._bells[row])
