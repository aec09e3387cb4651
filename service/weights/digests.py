"""Digests of files, computed while somebody is told how far they are."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Told how many bytes have been dealt with since the last call; raising in it ends the work.
Advance = Callable[[int], None]


def quietly(count: int) -> None:
    """An Advance for those who do not care."""


def sha256(path: Path, advance: Advance = quietly) -> str:
    """The file's SHA-256 in hexadecimal."""
    with _Counted(path, advance) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob(path: Path) -> str:
    """The id under which git, and so a hub, knows a file that is not kept in LFS."""
    head = f"blob {path.stat().st_size}\0".encode()
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha1(head, usedforsecurity=False)).hexdigest()


class _Counted(io.FileIO):
    def __init__(self, path: Path, advance: Advance) -> None:
        super().__init__(path)
        self._advance = advance

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        assert count is not None, "a plain file never makes its reader wait"
        self._advance(count)
        return count
