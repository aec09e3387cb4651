"""The log file of one engine: kept open, and of bounded size."""

from pathlib import Path
from typing import TextIO

MAX_BYTES = 16 * 2**20  # of the file, and of the one before it, which is kept as `<name>.1`


class LogFile:
    """Appends lines to a file, and begins a new one when MAX_BYTES are reached. Nothing raises: a lost line is lost."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None

    def write(self, line: str) -> None:
        """Appends a line; where the file cannot be written it is opened again for the next one."""
        try:
            file = self._file = self._file or self._path.open("a", encoding="utf-8", errors="backslashreplace")
            file.write(f"{line}\n")
            file.flush()
            if file.tell() >= MAX_BYTES:
                self.close()
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        except OSError:
            self.close()

    def close(self) -> None:
        """Closes the file; a further `write` opens it again."""
        file, self._file = self._file, None
        try:
            if file:
                file.close()
        except OSError:
            pass  # what a full disk did not take is lost
