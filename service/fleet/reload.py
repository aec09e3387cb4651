"""The fleet file read again when it changes: checked whole, then applied at once, or refused and the old one kept."""

import asyncio
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from service.config.strict_yaml import ConfigError
from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel

LOOK = 1.0  # seconds between two looks at the file
# What the gateway alone decides, and may therefore change while engines run.
RELOADABLE = ("family", "scale_down_after", "policy", "max_in_flight", "max_queued", "timeouts", "aliases")
Stamp = tuple[int, int, int]


class Reload:
    """Watches the fleet file. `load` reads it and raises ConfigError; `apply` makes a new fleet the one in use.

    `report` gets what came of each attempt: the problems, or none where the new fleet is in use.
    """

    def __init__(
        self, path: Path, fleet: Fleet, load: Callable[[], Fleet], apply: Callable[[Fleet], None],
        report: Callable[[list[str]], None],
    ) -> None:  # fmt: skip
        self._path, self._fleet, self._load, self._apply, self._report = path, fleet, load, apply, report
        self._read = self._seen = stamp(path)

    async def watch(self) -> None:
        """Looks for ever."""
        while True:
            await asyncio.sleep(LOOK)
            await self.look()

    async def look(self) -> None:
        """Reads the file if it has changed and has then been left alone since the last look."""
        now, before = stamp(self._path), self._seen
        self._seen = now
        if now != self._read and now == before:
            await self.again()

    async def again(self) -> None:
        """Reads the file now."""
        self._read = stamp(self._path)
        try:
            fleet = await asyncio.to_thread(self._load)
        except ConfigError as error:
            self._report(error.problems)
            return
        problems = [f"{self._path}: {problem}" for problem in needs_restart(self._fleet, fleet)]
        if not problems:
            self._apply(fleet)
            self._fleet = fleet
        self._report(problems)


def stamp(path: Path) -> Stamp | None:
    """What changes with a file's contents, symbolic links followed; None where there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def needs_restart(old: Fleet, new: Fleet) -> list[str]:
    """What of a new fleet cannot be had while the engines of the old one run. A model may always be taken out."""
    engines = {one.id: one for one in old.served if not one.addresses}
    problems = []
    for one in new.served:
        if one.addresses:
            if one.id in engines:
                problems.append(f"'{one.id}' ran here and is to run elsewhere: restart the service for that")
        elif one.id not in engines:
            problems.append(f"'{one.id}' needs an engine here that does not run yet: restart the service for that")
        elif differing := _differences(engines[one.id], one):
            problems.append(f"'{one.id}' has other engines with this {differing}: restart the service for that")
    if old.startup != new.startup:
        problems.append("'startup' takes effect when the service starts: restart it for that")
    return problems


def _differences(old: ServedModel, new: ServedModel) -> str:
    theirs = (field.name for field in fields(ServedModel) if field.name not in RELOADABLE)
    return ", ".join(f"'{name}'" for name in theirs if getattr(new, name) != getattr(old, name))
