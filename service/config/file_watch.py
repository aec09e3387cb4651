"""Notices that a configuration file has changed, by polling: that works on every file system, and for any editor."""

import asyncio
from pathlib import Path

POLL_INTERVAL = 1.0  # seconds between two checks of the file
FileVersion = tuple[int, int, int]


class FileWatch:
    """Watches the file at `path`; `reload`, which a subclass has, reads it and applies or refuses what it says."""

    def __init__(self, path: Path) -> None:
        self._path = path
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
        """Reads the file now."""
        raise NotImplementedError


def file_version(path: Path) -> FileVersion | None:
    """Modification time, inode and size, symbolic links followed: one of them changes with the contents.

    None where there is no such file.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
