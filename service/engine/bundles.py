"""The folder of evidence: one folder per hung or crashed engine, bounded by number and bytes."""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

Cause = Literal["hang", "crash", "failed_start"]
SUMMARY = "summary.json"
FOLDER = "evidence"  # in the run folder, unless the settings name another
NAME = re.compile(r"\d{8}T\d{9}-.+-(hang|crash|failed_start)")


@dataclass(frozen=True)
class Bundle:
    """What was kept of one engine. `summary` is what its `summary.json` says, empty where it cannot be read."""

    id: str
    path: Path
    bytes: int
    summary: dict[str, Any]

    @property
    def series(self) -> str:
        """What it has in common with other failures of the same kind: `-<replica>-<cause>`."""
        return self.id[len("20261128T034512123") :]


def new_id(replica: str, cause: Cause, now: float) -> str:
    """An id that sorts by time, from Unix time in seconds: `20261128T034512123-pebble-chat-0-hang`."""
    moment = datetime.fromtimestamp(now, UTC)
    return f"{moment:%Y%m%dT%H%M%S}{moment.microsecond // 1000:03}-{replica}-{cause}"


def read(folder: Path) -> list[Bundle]:
    """The bundles in a folder, the oldest first. What is no bundle is left alone, and none where there is no folder."""
    try:
        paths = sorted(path for path in folder.iterdir() if NAME.fullmatch(path.name) and path.is_dir())
    except OSError:
        return []
    return [Bundle(path.name, path, sum(_sizes(path)), _summary(path)) for path in paths]


def surplus(bundles: Sequence[Bundle], most: int, most_bytes: int) -> list[Bundle]:
    """Those to drop, the first one first, until at most `most` of together at most `most_bytes` are left. Pure.

    An engine that fails to start again and again does so for one reason: of each replica's failed starts all but the
    newest go before anything else does, for what went before them may be the cause.
    """
    newest = {bundle.series: bundle for bundle in bundles}
    repeated = [one for one in bundles if one.id.endswith("-failed_start") and newest[one.series] is not one]
    dropped: list[Bundle] = []
    count, size = len(bundles), sum(bundle.bytes for bundle in bundles)
    for bundle in [*repeated, *(one for one in bundles if one not in repeated)]:
        if count <= most and size <= most_bytes:
            break
        dropped.append(bundle)
        count, size = count - 1, size - bundle.bytes
    return dropped


def drop_surplus(folder: Path, most: int, most_bytes: int) -> None:
    """Removes bundles until the folder is within its bounds."""
    for bundle in surplus(read(folder), most, most_bytes):
        shutil.rmtree(bundle.path, ignore_errors=True)


def _sizes(path: Path) -> Iterator[int]:
    for file in path.iterdir():
        try:
            yield file.lstat().st_size
        except OSError:
            continue  # it is just being dropped


def _summary(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads((path / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return summary if isinstance(summary, dict) else {}
