"""What a pull asks of the place that it pulls from; a hub and a mirror directory can both answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from service.weights.digests import Advance, git_blob


@dataclass(frozen=True)
class Remote:
    """A file as its source describes it: bytes, and the SHA-256 or git blob id where the source gives one."""

    name: str
    size: int
    sha256: str | None = None
    blob: str | None = None

    def difference(self, path: Path, found: str) -> str | None:
        """How the file at `path`, whose SHA-256 is `found`, differs from what the source promised."""
        if path.stat().st_size != self.size:
            return f"has {path.stat().st_size} bytes, and the source says {self.size}"
        if self.sha256 is not None:
            return None if self.sha256 == found else f"has SHA-256 {found}, and the source says {self.sha256}"
        if self.blob is not None and (blob := git_blob(path)) != self.blob:
            return f"has the git id {blob}, and the source says {self.blob}"
        return None


@dataclass(frozen=True)
class Listing:
    """Every file of a repository at one revision, a commit; None where the source does not tell."""

    revision: str | None
    files: tuple[Remote, ...]


class Source(Protocol):
    """Where weights come from. What goes wrong is raised as WeightsError, with what to do."""

    name: str

    def listing(self) -> Listing:
        """What there is."""

    def takes_room(self, folder: Path) -> bool:
        """Whether files that are brought to this folder need room there."""

    def fetch(self, file: Remote, revision: str | None, to: Path, advance: Advance) -> None:
        """Brings one file to `to`, which exists only once all of it is there; goes on where an attempt was cut off."""
