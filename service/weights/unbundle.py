"""Unpacks a bundle: checks its parts, extracts files safely, and puts verified models into the store."""

import io
import re
import shutil
import tarfile
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any

from service.weights import manifest
from service.weights.bundle import CHUNK, PART, SUMS, WEIGHTS
from service.weights.digests import ProgressBar, no_progress_bar, sha256
from service.weights.store import STAGING, Store, WeightsError, check_disk_space

LINE = re.compile(rf"([0-9a-f]{{64}})  ([^/\0]+{re.escape(PART)}\d+)")


def unpack(
    bundle: Path, destination: Path, store: Store, progress_bar: ProgressBar = no_progress_bar
) -> tuple[list[str], int]:
    """Unpacks the bundle in the folder `bundle`: models into `store`, every other file into `destination`.

    Returns the models' repositories and the number of files. Raises WeightsError, before anything is written if a part
    is missing or damaged, or a name leads out of its folder. Models are replaced as a whole.
    """
    parts = _verified_parts(bundle, progress_bar)
    staging = store.folder / STAGING / "unbundle"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with tarfile.open(fileobj=io.BufferedReader(_Concatenated(parts), CHUNK), mode="r:") as archive:
            members = archive.getmembers()
            _check_members(members)
            targets = {
                staging: [member for member in members if _is_weights(member.name)],
                destination: [member for member in members if not _is_weights(member.name)],
            }
            for folder, group in targets.items():
                folder.mkdir(parents=True, exist_ok=True)
                check_disk_space(folder, sum(member.size for member in group))
            with progress_bar("unpacking", sum(member.size for member in members)) as advance:
                for folder, group in targets.items():
                    for member in group:
                        _extract(archive, member, folder)
                        advance(member.size)
        return _publish(staging / WEIGHTS, store, progress_bar), len(members)
    except tarfile.TarError as error:
        raise WeightsError(f"the archive in {bundle} cannot be unpacked: {error}") from None
    except OSError as error:
        raise WeightsError(f"{error.filename or destination}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Writes a regular file whose name was checked. `extract(filter="data")` would need Python 3.11.4."""
    path, content = folder / member.name, archive.extractfile(member)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # a link that lies there is replaced, not followed
    assert content
    with content, path.open("wb") as file:
        shutil.copyfileobj(content, file)
    path.chmod(0o755 if member.mode & 0o100 else 0o644)


def _verified_parts(bundle: Path, progress_bar: ProgressBar) -> list[Path]:
    """The bundle's parts in order, all present and with the right SHA-256."""
    sums = _read_sums(bundle / SUMS)
    if missing := [path.name for path in sums if not path.is_file()]:
        raise WeightsError("\n".join(f"{name} is missing" for name in missing))
    damaged = []
    for path, expected in sums.items():
        with progress_bar(f"checking {path.name}", path.stat().st_size) as advance:
            found = sha256(path, advance)
        if found != expected:
            damaged.append(f"{path.name} has SHA-256 {found} instead of {expected}")
    if damaged:
        raise WeightsError("\n".join(damaged))
    return sorted(sums)


def _read_sums(path: Path) -> dict[Path, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from None
    matches = [LINE.fullmatch(line) for line in lines]
    if not matches or None in matches:
        raise WeightsError(f"{path} does not list the parts of a bundle")
    return {path.with_name(match[2]): match[1] for match in matches if match}


def _check_members(members: list[tarfile.TarInfo]) -> None:
    for member in members:
        if not member.isreg():
            raise WeightsError(f"the bundle contains {member.name}, which is not a regular file")
        if not manifest.is_inside(member.name):
            raise WeightsError(f"the bundle contains {member.name}, which leads out of its folder")


def _is_weights(name: str) -> bool:
    """Whether a name is `weights/organisation/name/file`, and so belongs into the store."""
    return name.startswith(f"{WEIGHTS}/") and name.count("/") >= 3


def _publish(weights: Path, store: Store, progress_bar: ProgressBar) -> list[str]:
    """Moves every model into the store, once all have been verified; returns their repositories."""
    models = {path.relative_to(weights).as_posix(): path for path in sorted(weights.glob("*/*"))}
    for repository, path in models.items():
        store.directory(repository)  # refuses an invalid id
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        with progress_bar(f"verifying {repository}", size) as advance:
            if problems := manifest.verify(path, advance=advance):
                raise WeightsError(f"the bundle's weights of {repository} are invalid: {problems[0]}")
    for repository, path in models.items():
        with store.locked(repository):
            store.publish(path, repository)
    return list(models)


class _Concatenated(io.RawIOBase):
    """Reads files as if they were one, as `cat` would write them; seekable, so that tar skips contents in a listing."""

    def __init__(self, paths: list[Path]) -> None:
        super().__init__()
        self._paths, self._position = paths, 0
        self._ends = list(accumulate(path.stat().st_size for path in paths))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._ends[-1]}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        index = bisect_right(self._ends, self._position)  # skips empty files
        if index == len(self._paths):
            return 0
        with self._paths[index].open("rb") as file:
            file.seek(self._position - (self._ends[index - 1] if index else 0))
            count = file.readinto(buffer)
        self._position += count
        return count
