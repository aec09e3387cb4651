"""The page of metrics that several workers share: prometheus_client's files, read and added up at each scrape.

The library parses every key of every file anew, which takes hundreds of milliseconds for a large fleet. But files only
grow, and a series keeps its place in them: so each is parsed once, and a scrape reads no more than numbers.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from service.observability.series import go_text, start

SIZE = Struct("i")
BEGIN = 8  # bytes of a file before its first entry
COMBINED: Mapping[str, Callable[[float, float], float]] = {  # by the first parts of a file's name
    "counter": float.__add__, "histogram": float.__add__, "gauge_livesum": float.__add__,
    "gauge_livemax": max, "gauge_livemin": min,
}  # fmt: skip


class Place(NamedTuple):
    """Where one number of a series stands: its kind of files, and what the library calls it there, as JSON."""

    kind: str
    key: bytes


@dataclass
class File:
    """What is known of a file: how many bytes of it were parsed, and the index of each number with its place."""

    parsed: int = BEGIN
    numbers: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Family:
    """One metric: its heading, and for each series by its labels how its lines begin, with the index of the number.

    A bucket comes with its bound, other numbers with None; buckets are cumulative in the page and not in the files.
    """

    kind: str
    heading: str
    counts: dict[tuple[tuple[str, str], ...], str] = field(default_factory=dict)  # of histograms: how the line begins
    series: dict[tuple[tuple[str, str], ...], list[tuple[float | None, str, int]]] = field(default_factory=dict)


class SharedPage:
    """The page of the files in a folder. Not for several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, File] = {}
        self._places: dict[Place, int] = {}
        self._families: dict[str, Family] = {}

    def text(self, present: Mapping[str, Collection[str]]) -> str:
        """All series; a gauge with one of the labels in `present` is left out where it has none of those values."""
        numbers: dict[int, float] = {}
        paths = sorted(self.folder.glob("*.db"))
        self._files = {path.name: self._files.get(path.name, File()) for path in paths}
        for path in paths:
            self._add(path, numbers)
        return "".join(text for family in self._families.values() for text in _lines(family, numbers, present))

    def _add(self, path: Path, numbers: dict[int, float]) -> None:
        """Adds the numbers of one file; one that has just been removed, as its worker has ended, has none."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
        kind = path.name.rpartition("_")[0]
        file, used = self._files[path.name], SIZE.unpack_from(data)[0]
        if used < file.parsed:
            file = self._files[path.name] = File()
        while file.parsed < used:
            self._parse(file, kind, data)
        combine, doubles = COMBINED[kind], memoryview(data[: len(data) // 8 * 8]).cast("d")
        for index, at in file.numbers:
            value = doubles[at]
            numbers[index] = combine(numbers[index], value) if index in numbers else value

    def _parse(self, file: File, kind: str, data: bytes) -> None:
        """One entry: the size of its key, the key, padding up to a multiple of 8 bytes, the number, and a time."""
        size: int = SIZE.unpack_from(data, file.parsed)[0]
        begin = file.parsed + SIZE.size
        at = begin + size + 8 - (size + SIZE.size) % 8
        place = Place(kind, data[begin : begin + size])
        if place not in self._places:
            self._places[place] = len(self._places)
            self._declare(place)
        file.numbers.append((self._places[place], at // 8))
        file.parsed = at + 16

    def _declare(self, place: Place) -> None:
        metric, name, labels, help_text = json.loads(place.key)
        kind = place.kind.partition("_")[0]
        if metric not in self._families:
            shown = f"{metric}_total" if kind == "counter" else metric
            self._families[metric] = Family(kind, f"# HELP {shown} {help_text}\n# TYPE {shown} {kind}\n")
        bound = float(labels["le"]) if kind == "histogram" and "le" in labels else None
        own = tuple(sorted((label, value) for label, value in labels.items() if bound is None or label != "le"))
        series = self._families[metric].series.setdefault(own, [])
        series.append((bound, start(name, tuple(labels), tuple(labels.values())), self._places[place]))
        if bound is not None:
            begins = start(f"{metric}_count", [name for name, _ in own], [value for _, value in own])
            self._families[metric].counts[own] = begins
        series.sort(key=lambda one: float("-inf") if one[0] is None else one[0])


def _lines(family: Family, numbers: Mapping[int, float], present: Mapping[str, Collection[str]]) -> Iterator[str]:
    yield family.heading
    for labels, series in family.series.items():
        if family.kind == "gauge" and any(name in present and value not in present[name] for name, value in labels):
            continue
        count = 0.0
        for bound, begins, index in series:
            if (number := numbers.get(index)) is None:
                continue  # of a worker that has ended
            if bound is not None:
                number = count = count + number
            yield f"{begins}{go_text(number)}\n"
        if labels in family.counts:
            yield f"{family.counts[labels]}{go_text(count)}\n"
