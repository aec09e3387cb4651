"""Where pulled weights live: one folder, laid out as organisation/name; what is not finished lies hidden beside it."""

import fcntl
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from service.weights import manifest

# A part never begins with a dot: nothing leads out of the store or into its hidden folders.
REPOSITORY = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
PARTIAL = ".partial"


class WeightsError(Exception):
    """Weights cannot be pulled, packed or found; the message says what to do."""


@dataclass(frozen=True)
class Store:
    """A folder of pulled weights."""

    folder: Path

    def place(self, repository: str) -> Path:
        """Where the finished weights of a repository are or will be."""
        if not REPOSITORY.fullmatch(repository):
            raise WeightsError(f"'{repository}' is not a repository's id (organisation/name)")
        return self.folder / repository

    def pulled(self, repository: str) -> Path | None:
        """Where the weights of a repository lie if they were pulled whole."""
        if not REPOSITORY.fullmatch(repository) or not manifest.exists(self.folder / repository):
            return None
        return self.folder / repository

    def finished(self) -> Iterator[Path]:
        """Every finished pull, in the order of their names."""
        for found in sorted(self.folder.glob(f"*/*/{manifest.MANIFEST}")):
            if REPOSITORY.fullmatch(found.parent.relative_to(self.folder).as_posix()):
                yield found.parent

    def scratch(self, repository: str, revision: str | None) -> Path:
        """Where a pull of this revision collects its files until all are there; the same at every attempt."""
        return self.folder / PARTIAL / f"{repository.replace('/', '--')}@{revision or 'unknown'}"

    @contextmanager
    def locked(self, repository: str) -> Iterator[None]:
        """Holds the repository for one pull. The lock ends with its process, however that ends."""
        hidden = self.folder / PARTIAL
        try:
            hidden.mkdir(parents=True, exist_ok=True)
            file = (hidden / f"{repository.replace('/', '--')}.lock").open("w")
        except OSError as error:
            raise WeightsError(f"cannot write in {self.folder}: {error.strerror}") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise WeightsError(f"another pull of {repository} is running; wait until it is through") from None
            yield

    def finish(self, scratch: Path, repository: str) -> Path:
        """Moves a finished scratch folder to its place, whole, in the stead of what was there."""
        place = self.place(repository)
        place.parent.mkdir(parents=True, exist_ok=True)
        old = scratch.with_name(f"{scratch.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        with suppress(FileNotFoundError):
            place.rename(old)  # an engine that has the old files open keeps them
        scratch.rename(place)
        shutil.rmtree(old, ignore_errors=True)
        return place
