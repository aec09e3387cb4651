"""A directory as the source of weights: a mirror laid out as organisation/name, or one repository."""

import os
import shutil
from pathlib import Path

from service.weights import adapter, manifest
from service.weights.digests import ProgressBar, ProgressCallback, no_progress_bar
from service.weights.sources import Listing, RemoteFile
from service.weights.store import WeightsError

CHUNK = 2**22  # bytes
COPYING = ".copying"  # hidden, so that an interrupted copy is cleaned up with the rest of an interrupted download


class Mirror:
    """A repository in a local directory, which may be another store: then its manifest gives hashes and the commit."""

    def __init__(self, folder: Path, repository: str, progress_bar: ProgressBar = no_progress_bar) -> None:
        inside = folder / repository
        self._folder = inside if inside.is_dir() else folder
        self._repository, self._progress_bar = repository, progress_bar
        self.name = f"directory {self._folder}"

    def listing(self) -> Listing:
        """The files below the directory, or those of its manifest if it has one."""
        own = ("config.json", manifest.MANIFEST, "params.json", adapter.CONFIG)
        if not any((self._folder / name).is_file() for name in own):
            raise WeightsError(
                f"{self._folder} contains neither {self._repository} nor a repository's own files (config.json)"
            )
        if not manifest.exists(self._folder):
            names = manifest.files(self._folder)
            return Listing(None, tuple(RemoteFile(name, (self._folder / name).stat().st_size) for name in names))
        try:
            known = manifest.read(self._folder)
        except manifest.ManifestError as error:
            raise WeightsError(f"{self._folder / manifest.MANIFEST} {error}") from None
        if known.repository != self._repository:
            raise WeightsError(f"{self._folder} contains {known.repository}, not {self._repository}")
        files = (RemoteFile(name, file.size, file.sha256) for name, file in known.files.items())
        return Listing(known.revision, tuple(files))

    def needs_disk_space(self, folder: Path) -> bool:
        """Not within one file system, where files are hard-linked."""
        return self._folder.stat().st_dev != folder.stat().st_dev

    def fetch(self, file: RemoteFile, revision: str | None, folder: Path) -> None:
        """Hard-links the file where the file system allows that, else copies it."""
        original, target = (self._folder / file.name).resolve(), folder / file.name
        try:
            try:
                os.link(original, target)
            except OSError:
                with self._progress_bar(f"copying {file.name}", file.size) as advance:
                    _copy(original, folder / COPYING, advance)
                (folder / COPYING).replace(target)
        except OSError as error:
            raise WeightsError(f"{original} cannot be copied to {target.parent}: {error.strerror}") from None


def _copy(original: Path, to: Path, advance: ProgressCallback) -> None:
    with original.open("rb") as source, to.open("wb") as target:
        while chunk := source.read(CHUNK):
            target.write(chunk)
            advance(len(chunk))
    shutil.copystat(original, to)
