"""How long engines took to load and to wake on this machine: a small file that outlives the service."""

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Literal

Way = Literal["load", "wake"]
UNKNOWN: Mapping[str, float] = MappingProxyType({"load": 60.0, "wake": 5.0})  # seconds, until measured
NEWEST = 0.5  # part that the last measurement has in what is remembered


class StartTimes:
    """The seconds that the model with these `weights` takes to load or to wake, kept in `path`."""

    def __init__(self, path: Path, weights: str) -> None:
        self._path, self._weights, self._machine = path, weights, socket.gethostname()
        self._known: dict[str, float] = {**UNKNOWN, **self._read().get(self._machine, {}).get(weights, {})}

    def seconds(self, way: Way) -> float:
        """What it is expected to take."""
        return self._known[way]

    def measured(self, way: Way, seconds: float) -> None:
        """Remembers what it took. A file that cannot be written is forgotten with the process."""
        content = self._read()
        row = content.setdefault(self._machine, {}).setdefault(self._weights, {})
        before = row.get(way, seconds)
        row[way] = self._known[way] = round(before + NEWEST * (seconds - before), 3)
        temporary = self._path.with_suffix(f".{os.getpid()}.new")
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(content, indent=1))
            temporary.replace(self._path)

    def _read(self) -> dict[str, dict[str, dict[str, float]]]:
        """The file's content; empty where it is not there, or is not what we write."""
        try:
            content = json.loads(self._path.read_text())
            return {machine: {weights: {way: float(seconds) for way, seconds in ways.items() if way in UNKNOWN}
                              for weights, ways in rows.items()} for machine, rows in content.items()}  # fmt: skip
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}
