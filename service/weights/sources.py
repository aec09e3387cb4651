"""The interface between a pull and where it pulls from: a hub or a directory."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from service.weights.digests import git_blob_id

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class RemoteFile:
    """A file as its source describes it: size in bytes, and its SHA-256 or git blob id where the source gives one."""

    name: str
    size: int
    sha256: str | None = None
    blob_id: str | None = None

    def mismatch(self, path: Path, sha256: str) -> str | None:
        """How the file at `path`, which has this SHA-256, differs from what the source announced; None if equal."""
        if path.stat().st_size != self.size:
            return f"has {path.stat().st_size} bytes, and the source announced {self.size}"
        if self.sha256 is not None:
            return None if self.sha256 == sha256 else f"has SHA-256 {sha256}, and the source announced {self.sha256}"
        if self.blob_id is not None and (blob_id := git_blob_id(path)) != self.blob_id:
            return f"has the git blob id {blob_id}, and the source announced {self.blob_id}"
        return None


@dataclass(frozen=True)
class Listing:
    """All files of a repository at one commit; `revision` is None where the source does not know the commit."""

    revision: str | None
    files: tuple[RemoteFile, ...]


class Source(Protocol):
    """Where weights come from. Failures are raised as WeightsError, whose message says what to do."""

    name: str

    def listing(self) -> Listing:
        """The files of the repository."""

    def needs_disk_space(self, folder: Path) -> bool:
        """Whether fetching files into this folder takes disk space there."""

    def fetch(self, file: RemoteFile, revision: str | None, folder: Path) -> None:
        """Writes one file to `folder`, under its name; the file appears there only when it is complete."""
