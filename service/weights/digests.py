"""SHA-256 and git blob ids of files, with progress reported as bytes are read."""

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

# Called with the number of bytes processed since the last call; an exception that it raises aborts the work.
ProgressCallback = Callable[[int], None]
# Shows one task, given its description and its size in bytes, while the context is open.
ProgressBar = Callable[[str, int], AbstractContextManager[ProgressCallback]]


def no_progress(count: int) -> None:
    """A ProgressCallback that ignores its calls."""


@contextmanager
def no_progress_bar(description: str, size: int) -> Iterator[ProgressCallback]:
    """A ProgressBar that shows nothing."""
    yield no_progress


def sha256(path: Path, advance: ProgressCallback = no_progress) -> str:
    """The file's SHA-256 in hexadecimal."""
    with _ProgressReader(path, advance) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob_id(path: Path) -> str:
    """The SHA-1 by which git, and so a hub, identifies a file that is not stored in LFS."""
    header = f"blob {path.stat().st_size}\0".encode()
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha1(header, usedforsecurity=False)).hexdigest()


class _ProgressReader(io.FileIO):
    def __init__(self, path: Path, advance: ProgressCallback) -> None:
        super().__init__(path)
        self._advance = advance

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        assert count is not None, "a regular file is never non-blocking"
        self._advance(count)
        return count
