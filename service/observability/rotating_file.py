"""A file of lines that several processes append to, readable by its owner alone, and of bounded size."""

import fcntl
import logging
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from service.config.strict_yaml import ConfigError
from service.observability.log_writer import LogWriter

log = logging.getLogger("roundhouse")

PRIVATE = 0o600
BY_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class RotatingFile:
    """Appends to `path`. Once it has `max_bytes` it becomes `path.1`, that `path.2`, and so on: `max_files` in all.

    Whole lines are appended or none, whoever else appends; a program that moves the file away may do so at any time.
    """

    def __init__(self, path: Path, max_bytes: int, max_files: int) -> None:
        self._path, self._max_bytes, self._max_files = path, max_bytes, max_files

    def append(self, data: bytes) -> None:
        """Appends the data, which are whole lines. Raises OSError, and has then appended nothing."""
        descriptor = self._locked()
        try:
            before = os.fstat(descriptor).st_size
            if before and before + len(data) > self._max_bytes:
                self._rotate()
                os.close(descriptor)
                descriptor = self._locked()
                before = os.fstat(descriptor).st_size
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            except OSError:
                os.ftruncate(descriptor, before)  # half a line would spoil the next one
                raise
        finally:
            os.close(descriptor)

    def _locked(self) -> int:
        """A descriptor of the file, which no other process appends to until it is closed."""
        while True:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), self._path.stat()):
                    return descriptor
            os.close(descriptor)  # another process has moved it away

    def _rotate(self) -> None:
        for number in range(self._max_files - 1, 0, -1):
            earlier = self._numbered(number - 1) if number > 1 else self._path
            with suppress(FileNotFoundError):
                earlier.replace(self._numbered(number))
        if self._max_files == 1:
            self._path.unlink(missing_ok=True)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


class FileLogWriter(LogWriter):
    """A LogWriter whose lines go to a RotatingFile; that it cannot be written is said once, until it can be again."""

    def __init__(self, file: RotatingFile, name: str, on_drop: Callable[[int], object]) -> None:
        super().__init__(-1, on_drop)
        self._file, self._name, self._failing = file, name, False

    def _write_all(self, data: bytes) -> None:
        try:
            self._file.append(data)
        except OSError as error:
            if not self._failing:
                log.error("the %s log cannot be written, its lines are lost: %s", self._name, error.strerror)
            self._failing = True
            raise
        if self._failing:
            log.warning("the %s log is written again", self._name)
        self._failing = False


def check_private(path: Path, variable: str) -> None:
    """Makes the file if there is none; raises ConfigError where it cannot be written, or others may use it."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE))
        found = path.stat()
    except OSError as error:
        raise ConfigError([f"environment: {variable}: {path} cannot be written: {error.strerror}"]) from None
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError([f"environment: {variable}: {path} is no file"])
    if found.st_mode & BY_OTHERS:
        raise ConfigError([f"environment: {variable}: other users can read or change {path}: chmod 600 {path}"])
