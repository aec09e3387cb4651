"""The folder of pulled weights, laid out as organisation/name, with a hidden staging area for unfinished pulls."""

import fcntl
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from service.weights import manifest

# No part begins with a dot: an id can lead neither out of the store nor into its hidden folders.
REPOSITORY = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
STAGING = ".partial"
DISK_RESERVE = 2**26  # bytes to leave free


class WeightsError(Exception):
    """Weights cannot be pulled, packed or found; the message says what to do."""


def check_disk_space(folder: Path, needed: int) -> None:
    """Raises WeightsError if writing `needed` bytes to the existing `folder` would fill its file system."""
    free = shutil.disk_usage(folder).free
    if needed > 0 and needed + DISK_RESERVE > free:
        raise WeightsError(
            f"not enough disk space in {folder}: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free. Free some, or "
            "use a folder on another disk (ROUNDHOUSE_WEIGHTS sets the one for weights)"
        )


@dataclass(frozen=True)
class Store:
    """A folder of pulled weights."""

    folder: Path

    def directory(self, repository: str) -> Path:
        """The directory for a repository's weights, which need not exist; raises WeightsError for an invalid id."""
        if not REPOSITORY.fullmatch(repository):
            raise WeightsError(f"'{repository}' is not a repository id (organisation/name)")
        return self.folder / repository

    def pulled(self, repository: str) -> Path | None:
        """The directory of a repository's weights if they were pulled completely."""
        if not REPOSITORY.fullmatch(repository) or not manifest.exists(self.folder / repository):
            return None
        return self.folder / repository

    def all_pulled(self) -> Iterator[Path]:
        """The directory of every complete pull, ordered by name."""
        for found in sorted(self.folder.glob(f"*/*/{manifest.MANIFEST}")):
            if REPOSITORY.fullmatch(found.parent.relative_to(self.folder).as_posix()):
                yield found.parent

    def staging(self, repository: str, revision: str | None) -> Path:
        """Where a pull of this revision collects its files; the same for every attempt, so that it can resume."""
        return self.folder / STAGING / f"{repository.replace('/', '--')}@{revision or 'unknown'}"

    @contextmanager
    def locked(self, repository: str) -> Iterator[None]:
        """Holds the exclusive lock on a repository, which the kernel releases when the process ends."""
        hidden = self.folder / STAGING
        try:
            hidden.mkdir(parents=True, exist_ok=True)
            file = (hidden / f"{repository.replace('/', '--')}.lock").open("w")
        except OSError as error:
            raise WeightsError(f"cannot write in {self.folder}: {error.strerror}") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise WeightsError(f"another pull of {repository} is running; wait until it has finished") from None
            yield

    def publish(self, staging: Path, repository: str) -> Path:
        """Renames a complete directory of this file system to the repository's, replacing an older one."""
        directory = self.directory(repository)
        directory.parent.mkdir(parents=True, exist_ok=True)
        old = staging.with_name(f"{staging.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        with suppress(FileNotFoundError):
            directory.rename(old)  # an engine that has the old files open keeps them
        staging.rename(directory)
        shutil.rmtree(old, ignore_errors=True)
        return directory
