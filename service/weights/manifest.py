"""The manifest of a directory of weights: what belongs there, with sizes and SHA-256, and whether that is still so."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, ValidationError

from service.config.strict_yaml import Frozen
from service.weights import stamp
from service.weights.digests import Advance, quietly, sha256

MANIFEST = "roundhouse-manifest.json"
THREADS = 4  # one file each; more would only make a disk seek


def is_inside(name: str) -> bool:
    """Whether `name` is a plain relative path with slashes, which leads nowhere but down."""
    path = PurePosixPath(name)
    plain = bool(path.parts) and str(path) == name and "\\" not in name and "\0" not in name
    return plain and not path.is_absolute() and ".." not in path.parts


def _inside(name: str) -> str:
    if not is_inside(name):
        raise ValueError(f"'{name}' is not a path inside the directory")
    return name


class File(Frozen):
    """One file of the directory; `size` is in bytes."""

    size: NonNegativeInt
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(Frozen):
    """What was pulled: `revision` is the commit that it came from, null where the source does not tell.

    `trust_remote_code` says that the repository's own code was taken along, `without_code` that the references to it
    were taken out of the configuration.
    """

    format: Literal[1] = 1
    model: str
    repository: str
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None
    source: str
    made_by: str
    trust_remote_code: bool = False
    without_code: bool = False
    files: dict[Annotated[str, AfterValidator(_inside)], File]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files.values())


class ManifestError(Exception):
    """The manifest is missing, or is none."""


@dataclass(frozen=True, order=True)
class Problem:
    """How one file differs from what the manifest says."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file} {self.what}"


def exists(directory: Path) -> bool:
    """Whether a directory has a manifest, and so is a finished pull."""
    return (directory / MANIFEST).is_file()


def read(directory: Path) -> Manifest:
    """The directory's manifest; raises ManifestError with what is wrong about it."""
    try:
        return Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    except OSError as error:
        raise ManifestError(f"cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise ManifestError(f"is no manifest: {at + ': ' if at else ''}{first['msg']}") from None


def write(directory: Path, manifest: Manifest) -> None:
    """Puts the manifest in place; a reader sees none or all of it."""
    scratch = directory / f".{MANIFEST}.{os.getpid()}"
    with scratch.open("w", encoding="utf-8") as file:
        file.write(manifest.model_dump_json(indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(directory / MANIFEST)


def verify(directory: Path, full: bool = False, advance: Advance = quietly) -> list[Problem]:
    """How the directory differs from its manifest, in the order of the files' names.

    Files whose size, times and inode are those of the last time are believed, unless `full`. `advance` hears of bytes
    verified, from several threads; what it raises comes out here.
    """
    try:
        manifest = read(directory)
    except ManifestError as error:
        return [Problem(MANIFEST, str(error))]
    problems = [Problem(name, "is not in the manifest") for name in files(directory) if name not in manifest.files]
    known: stamp.Stamps = {} if full else stamp.read(directory)
    good: stamp.Stamps = {}
    doubtful: dict[str, stamp.Mark] = {}
    for name, file in manifest.files.items():
        try:
            seen = stamp.mark(directory / name)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            problems.append(Problem(name, "is missing" if missing else f"cannot be read: {error.strerror}"))
            continue
        if seen[0] != file.size:
            problems.append(Problem(name, f"has {seen[0]} bytes instead of {file.size}"))
        elif known.get(name) == (seen, file.sha256):
            good[name] = seen, file.sha256
            advance(file.size)
        else:
            doubtful[name] = seen
    with ThreadPoolExecutor(THREADS) as pool:
        for name, found in zip(doubtful, pool.map(partial(_hashed, directory, advance), doubtful), strict=True):
            if isinstance(found, OSError):
                problems.append(Problem(name, f"cannot be read: {found.strerror}"))
            elif found != manifest.files[name].sha256:
                problems.append(Problem(name, f"has SHA-256 {found} instead of {manifest.files[name].sha256}"))
            else:
                good[name] = doubtful[name], found
    if good != known:
        stamp.write(directory, good)
    return sorted(problems)


def _hashed(directory: Path, advance: Advance, name: str) -> str | OSError:
    try:
        return sha256(directory / name, advance)
    except OSError as error:
        return error


def files(directory: Path) -> Iterator[str]:
    """Every file in a directory that an engine might read: all but hidden ones and the manifest itself."""
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = (Path(folder) / name).relative_to(directory).as_posix()
            if not name.startswith(".") and path != MANIFEST:
                yield path
