"""The manifest of a directory of weights: its files with sizes and SHA-256, and their verification."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, ValidationError

from service.config.strict_yaml import Frozen
from service.weights import hash_cache
from service.weights.digests import ProgressCallback, no_progress, sha256
from service.weights.hash_cache import Hashes, Signature

MANIFEST = "roundhouse-manifest.json"
THREADS = 4  # one file each; more threads only add disk seeks


def is_inside(name: str) -> bool:
    """Whether `name` is a normalised relative path with forward slashes that stays inside its directory."""
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
    """What was pulled. `revision` is the commit, null where the source does not know it.

    `trust_remote_code`: the repository's Python files were pulled too. `without_code`: references to them were
    removed from the configuration.
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
        """Total size of the files in bytes."""
        return sum(file.size for file in self.files.values())


class ManifestError(Exception):
    """The manifest is missing or invalid."""


@dataclass(frozen=True, order=True)
class Problem:
    """How one file differs from the manifest."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file} {self.what}"


def exists(directory: Path) -> bool:
    """Whether a directory has a manifest, which makes it a complete pull."""
    return (directory / MANIFEST).is_file()


def read(directory: Path) -> Manifest:
    """The directory's manifest; raises ManifestError."""
    try:
        return Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    except OSError as error:
        raise ManifestError(f"cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise ManifestError(f"is not a valid manifest: {at + ': ' if at else ''}{first['msg']}") from None


def write(directory: Path, manifest: Manifest) -> None:
    """Writes the manifest atomically and durably."""
    temporary = directory / f".{MANIFEST}.{os.getpid()}"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(manifest.model_dump_json(indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / MANIFEST)


def verify(directory: Path, full: bool = False, advance: ProgressCallback = no_progress) -> list[Problem]:
    """How the directory differs from its manifest, ordered by file name; empty if it does not.

    Files that have not changed since they were last hashed are not hashed again, unless `full`. `advance` is called
    with the number of verified bytes, from several threads; an exception that it raises ends the verification.
    """
    try:
        manifest = read(directory)
    except ManifestError as error:
        return [Problem(MANIFEST, str(error))]
    problems = [Problem(name, "is not in the manifest") for name in files(directory) if name not in manifest.files]
    cached = {} if full else hash_cache.load(directory)
    verified: Hashes = {}
    unverified: dict[str, Signature] = {}
    for name, file in manifest.files.items():
        try:
            seen = hash_cache.signature(directory / name)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            problems.append(Problem(name, "is missing" if missing else f"cannot be read: {error.strerror}"))
            continue
        if seen[0] != file.size:
            problems.append(Problem(name, f"has {seen[0]} bytes instead of {file.size}"))
        elif cached.get(name) == (seen, file.sha256):
            verified[name] = seen, file.sha256
            advance(file.size)
        else:
            unverified[name] = seen
    for name, found in _hashes(directory, unverified, advance):
        if isinstance(found, OSError):
            problems.append(Problem(name, f"cannot be read: {found.strerror}"))
        elif found != manifest.files[name].sha256:
            problems.append(Problem(name, f"has SHA-256 {found} instead of {manifest.files[name].sha256}"))
        else:
            verified[name] = unverified[name], found
    if verified != cached:
        hash_cache.save(directory, verified)
    return sorted(problems)


def _hashes(directory: Path, names: Iterable[str], advance: ProgressCallback) -> Iterator[tuple[str, str | OSError]]:
    names = list(names)
    with ThreadPoolExecutor(THREADS) as pool:
        yield from zip(names, pool.map(partial(_hash, directory, advance), names), strict=True)


def _hash(directory: Path, advance: ProgressCallback, name: str) -> str | OSError:
    try:
        return sha256(directory / name, advance)
    except OSError as error:
        return error


def files(directory: Path) -> Iterator[str]:
    """The relative path of every file that an engine might read: all but hidden ones and the manifest itself."""
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = (Path(folder) / name).relative_to(directory).as_posix()
            if not name.startswith(".") and path != MANIFEST:
                yield path
