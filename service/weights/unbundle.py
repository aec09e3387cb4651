"""Unpacks a bundle: python unbundle.py NAME.json DESTINATION

This file travels beside the bundle to machines that have nothing but Python 3.9, so it needs the standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import shutil
import sys
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

CHUNK = 2**20
WEIGHTS = "weights"  # the folder of a bundle that goes into the store of pulled weights
WHEELS = "wheels"
SHA256 = re.compile(r"[0-9a-f]{64}")


class BundleError(Exception):
    """The bundle is not whole, or not what it says; the message names the part or file."""


def read_index(path: Path) -> dict[str, Any]:
    """The index NAME.json with its parts and files; raises BundleError where it is none."""
    try:
        index = json.loads(path.read_bytes())
        if index["format"] != 1:
            raise BundleError(f"{path} has format {index['format']}, and this program reads format 1")
        for part in index["parts"]:
            _check_entry(part["name"], part)
            if "/" in part["name"]:
                raise ValueError(part["name"])
        for name, file in index["files"].items():
            _check_entry(name, file)
        for model in index["models"]:
            if not any(name.startswith(f"{WEIGHTS}/{model}/") for name in index["files"]):
                raise ValueError(f"it names no files of the model '{model}'")
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BundleError(f"{path} is no index of a bundle: {error}") from None
    return dict(index)


def _check_entry(name: str, entry: dict[str, Any]) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or "\\" in name or "\0" in name:
        raise ValueError(f"'{name}' leads out of its folder")
    if type(entry["size"]) is not int or entry["size"] < 0 or not SHA256.fullmatch(entry["sha256"]):
        raise ValueError(f"the size or SHA-256 of '{name}'")


def wrong_parts(index: dict[str, Any], folder: Path) -> list[str]:
    """What is wrong with the parts that lie in `folder`, one line each: missing, cut short, or changed."""
    wrong, whole = [], []
    for part in index["parts"]:
        path = folder / part["name"]
        if not path.is_file():
            wrong.append(f"{part['name']} is missing")
        elif path.stat().st_size != part["size"]:
            wrong.append(f"{part['name']} has {path.stat().st_size} bytes instead of {part['size']}")
        else:
            whole.append(part)
    # Reading it all takes long: nobody should wait for that who has still to fetch a part.
    for part in whole if not wrong else []:
        digest = hashlib.sha256()
        with (folder / part["name"]).open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        if digest.hexdigest() != part["sha256"]:
            wrong.append(f"{part['name']} has SHA-256 {digest.hexdigest()} instead of {part['sha256']}")
    return wrong


class Joined(io.RawIOBase):
    """Files read one after the other, as if they were one."""

    def __init__(self, paths: list[Path]) -> None:
        super().__init__()
        self._paths = iter(paths)
        self._file: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._file is None:
                path = next(self._paths, None)
                if path is None:
                    return 0
                self._file = path.open("rb")
            count = int(self._file.readinto(buffer))
            if count:
                return count
            self._file.close()
            self._file = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


def unpack(index_path: Path, destination: Path, store: Path | None = None) -> dict[str, Any]:
    """Unpacks the bundle into `destination`, and its weights into `store`, the folder `weights` there if None.

    Returns the index. Raises BundleError before anything is written if a part is missing or wrong; a model is in its
    place whole or not at all.
    """
    index = read_index(index_path)
    if wrong := wrong_parts(index, index_path.parent):
        raise BundleError("\n".join(wrong))
    places = {"": destination, WEIGHTS: store or destination / WEIGHTS}
    try:
        _check_room(index, places)
        # On the same file system as the place it is for, so that moving there is one step.
        scratches = {key: place / f".unbundle-{index_path.stem}" for key, place in places.items()}
        for scratch in scratches.values():
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
        try:
            _extract(index, index_path.parent, scratches)
            _settle(index, scratches, places)
        finally:
            for scratch in scratches.values():
                shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise BundleError(f"{error.filename or destination}: {error.strerror}") from None
    return index


def _split(name: str) -> tuple[str, str]:
    """Which of the places a file is for, and its path there."""
    first, _, rest = name.partition("/")
    return (WEIGHTS, rest) if first == WEIGHTS and rest else ("", name)


def _check_room(index: dict[str, Any], places: dict[str, Path]) -> None:
    for key, place in places.items():
        place.mkdir(parents=True, exist_ok=True)
        needed = sum(file["size"] for name, file in index["files"].items() if _split(name)[0] == key)
        free = shutil.disk_usage(place).free
        if needed > free:
            raise BundleError(f"{place} has room for {free / 1e9:.1f} GB, and {needed / 1e9:.1f} GB are needed")


def _extract(index: dict[str, Any], folder: Path, scratches: dict[str, Path]) -> None:
    """Writes every file of the archive that the index knows, and nothing else: no links, no devices, no other paths."""
    left = dict(index["files"])
    parts = Joined([folder / part["name"] for part in index["parts"]])
    try:
        with tarfile.open(fileobj=io.BufferedReader(parts, CHUNK), mode="r|") as archive:
            for member in archive:
                expected = left.pop(member.name, None)
                content = archive.extractfile(member) if member.isreg() else None
                if expected is None or content is None:
                    raise BundleError(f"the bundle holds {member.name}, which its index does not name as a file")
                key, path = _split(member.name)
                target = scratches[key] / path
                target.parent.mkdir(parents=True, exist_ok=True)
                digest = hashlib.sha256()
                with target.open("wb") as file:
                    while chunk := content.read(CHUNK):
                        digest.update(chunk)
                        file.write(chunk)
                if digest.hexdigest() != expected["sha256"]:
                    raise BundleError(f"{member.name} has SHA-256 {digest.hexdigest()} instead of {expected['sha256']}")
                if member.mode & 0o100:
                    target.chmod(0o755)
    except tarfile.TarError as error:
        raise BundleError(f"the bundle cannot be unpacked: {error}") from None
    if left:
        raise BundleError(f"the bundle lacks {', '.join(sorted(left)[:3])}, which its index names")


def _settle(index: dict[str, Any], scratches: dict[str, Path], places: dict[str, Path]) -> None:
    """Moves what was unpacked to its place: each model as a whole, every other file by itself."""
    models = [PurePosixPath(model) for model in index["models"]]
    for model in models:
        new, place, old = scratches[WEIGHTS] / model, places[WEIGHTS] / model, scratches[WEIGHTS] / ".old"
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists():
            place.rename(old)
        new.rename(place)
        shutil.rmtree(old, ignore_errors=True)
    for name in index["files"]:
        key, path = _split(name)
        if not any(model in PurePosixPath(path).parents for model in models if key == WEIGHTS):
            (places[key] / path).parent.mkdir(parents=True, exist_ok=True)
            (scratches[key] / path).replace(places[key] / path)


def what_next(index: dict[str, Any], destination: Path, store: Path) -> list[str]:
    """What to do with what was unpacked, as lines for a person."""
    lines = [f"{len(index['files'])} files are unpacked and as they were packed."]
    if index["models"]:
        lines.append(f"Weights of {', '.join(index['models'])} are in {store}.")
        lines.append(f"  Roundhouse serves them from there with ROUNDHOUSE_WEIGHTS={store}")
    if index.get("requirements"):
        wheels = destination / WHEELS
        lines.append("Install the wheels, which needs no network:")
        requirements = destination / index["requirements"]
        lines.append(f"  python3 -m pip install --no-index --no-deps --find-links {wheels} -r {requirements}")
    elif any(name.startswith(f"{WHEELS}/") for name in index["files"]):
        lines.append(f"Wheels are in {destination / WHEELS}: python3 -m pip install --no-index --find-links … PACKAGE")
    return lines


def main() -> None:
    """The command line of this file where Roundhouse is not installed yet."""
    parser = argparse.ArgumentParser(description="Checks and unpacks a bundle.")
    parser.add_argument("index", metavar="NAME.json", type=Path)
    parser.add_argument("destination", metavar="DESTINATION", type=Path)
    parser.add_argument("--weights", type=Path, help="folder for the models, if not DESTINATION/weights")
    asked = parser.parse_args()
    store = (asked.weights or asked.destination / WEIGHTS).absolute()
    try:
        index = unpack(asked.index, asked.destination.absolute(), store)
    except BundleError as error:
        sys.exit(f"{error}\nNothing was put in place.")
    print("\n".join(what_next(index, asked.destination.absolute(), store)))


if __name__ == "__main__":
    main()
