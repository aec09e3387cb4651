"""Notices that a configuration file has changed, by polling: that works on every file system, and for any editor."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from service.config.strict_yaml import ConfigError

T = TypeVar("T")

POLL_INTERVAL = 1.0  # seconds between two checks of the file
FileVersion = tuple[int, int, int]


class FileWatch(Generic[T]):
    """Watches the file at `path`. `load` reads it or raises ConfigError; `apply` puts what it says in use.

    `report` is called after each attempt with its problems; an empty list means that the new contents are in use.
    """

    def __init__(
        self, path: Path, load: Callable[[], T], apply: Callable[[T], None], report: Callable[[list[str]], None]
    ) -> None:
        self._path, self._load, self._apply, self._report = path, load, apply, report
        self._loaded_version = self._last_version = file_version(path)

    async def watch(self) -> None:
        """Polls the file until cancelled."""
        while True:
            await asyncio.sleep(POLL_INTERVAL)
            await self.poll()

    async def poll(self) -> None:
        """Reloads the file if it has changed, but not since the last poll: it may still be being written."""
        version, previous = file_version(self._path), self._last_version
        self._last_version = version
        if version != self._loaded_version and version == previous:
            self._loaded_version = version
            await self.reload()

    async def reload(self) -> None:
        """Reads the file now, and applies or refuses it as a whole."""
        try:
            found = await asyncio.to_thread(self._load)
        except ConfigError as error:
            problems = error.problems
        else:
            problems = self.refused(found)
            if not problems:
                self._apply(found)
        self._report(problems)

    def refused(self, found: T) -> list[str]:
        """Why what was read cannot be applied while the service runs; nothing if it can be."""
        return []


def file_version(path: Path) -> FileVersion | None:
    """Modification time, inode and size, symbolic links followed: one of them changes with the contents.

    None where there is no such file.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
