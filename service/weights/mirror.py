"""A directory as the source of weights: a mirror laid out as organisation/name, or one repository itself."""

import os
import shutil
from pathlib import Path

from service.weights import manifest
from service.weights.digests import Advance
from service.weights.sources import Listing, Remote
from service.weights.store import WeightsError

CHUNK = 2**22  # bytes


class Mirror:
    """A repository in a local directory; another store is a mirror too, whose manifests are believed and checked."""

    def __init__(self, folder: Path, repository: str) -> None:
        inside = folder / repository
        self._folder = inside if inside.is_dir() else folder
        self._repository = repository
        self.name = f"directory {self._folder}"

    def listing(self) -> Listing:
        """The files below the directory; with sizes and hashes of its manifest where it has one."""
        if not any((self._folder / name).is_file() for name in ("config.json", manifest.MANIFEST, "params.json")):
            raise WeightsError(
                f"{self._folder} holds neither {self._repository} nor, with a config.json of its own, the repository"
            )
        if not manifest.exists(self._folder):
            names = manifest.files(self._folder)
            return Listing(None, tuple(Remote(name, (self._folder / name).stat().st_size) for name in names))
        try:
            known = manifest.read(self._folder)
        except manifest.ManifestError as error:
            raise WeightsError(f"{self._folder / manifest.MANIFEST} {error}") from None
        if known.repository != self._repository:
            raise WeightsError(f"{self._folder} holds {known.repository}, not {self._repository}")
        files = (Remote(name, file.size, file.sha256) for name, file in known.files.items())
        return Listing(known.revision, tuple(files))

    def takes_room(self, folder: Path) -> bool:
        """Not within one file system, where a second name is enough."""
        return self._folder.stat().st_dev != folder.stat().st_dev

    def fetch(self, file: Remote, revision: str | None, to: Path, advance: Advance) -> None:
        """A second name for the same file where the file system allows that, else a copy."""
        original = (self._folder / file.name).resolve()
        try:
            try:
                os.link(original, to)
                advance(file.size)
            except OSError:
                _copy(original, to, advance)
        except OSError as error:
            raise WeightsError(f"{original} cannot be copied to {to.parent}: {error.strerror}") from None


def _copy(original: Path, to: Path, advance: Advance) -> None:
    scratch = to.with_name(f"{to.name}.incomplete")
    with original.open("rb") as source, scratch.open("wb") as target:
        while chunk := source.read(CHUNK):
            target.write(chunk)
            advance(len(chunk))
    shutil.copystat(original, scratch)
    scratch.replace(to)
