"""Wheels without the files that a target does not need."""

import csv
import io
import zipfile
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path


def without(wheels: Path, folder: Path, patterns: Iterable[str], compressed: bool = True) -> Path:
    """Copies of all wheels of a folder into the other, without the files whose path in the wheel matches a pattern.

    `compressed` is False for wheels that are compressed together later, which makes them smaller. Returns `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    left_out = tuple(patterns)
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    for path in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(folder / path.name, "w", method) as copy:
            for entry, data in _kept(source, left_out):
                copy.writestr(entry, data, method)
    return folder


def _kept(source: zipfile.ZipFile, patterns: tuple[str, ...]) -> Iterator[tuple[zipfile.ZipInfo, bytes]]:
    for entry in source.infolist():
        if any(fnmatch(entry.filename, pattern) for pattern in patterns):
            continue
        data = source.read(entry)
        yield entry, _record(data, patterns) if entry.filename.endswith(".dist-info/RECORD") else data


def _record(data: bytes, patterns: tuple[str, ...]) -> bytes:
    """The wheel's list of its own files, without those that are left out."""
    rows = csv.reader(io.StringIO(data.decode()))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        row for row in rows if row and not any(fnmatch(row[0], pattern) for pattern in patterns)
    )
    return text.getvalue().encode()
