"""Which process runs a response in the background: each holds the lock of a file, and the kernel drops it with it."""

import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path

PREFIX, SUFFIX = "runs-", ".lock"


class Owners:
    """The processes that share a folder, by name. A process that was killed holds its lock no more."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own: tuple[str, int] | None = None

    def own_name(self) -> str:
        """The name of this process, whose lock it holds from now on. Raises OSError."""
        if self._own is None:
            name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(8)}{SUFFIX}"
            lock = os.open(self._folder / name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._own = name, lock
        return self._own[0]

    def lives(self, name: str) -> bool:
        """Whether the process of that name still runs."""
        try:
            lock = os.open(self._folder / name, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def remove_dead(self) -> None:
        """Removes the files of processes that have ended."""
        for path in self._folder.glob(f"{PREFIX}*{SUFFIX}"):
            if not self.lives(path.name):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Gives up the lock of this process."""
        if self._own is not None:
            name, lock = self._own
            self._own = None
            with suppress(OSError):
                (self._folder / name).unlink(missing_ok=True)
            os.close(lock)
