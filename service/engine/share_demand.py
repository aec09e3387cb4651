"""What the gateways want of engines that share memory: each gateway process keeps it in a file of the run folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from service.engine import process_files

KIND = "w"


class Want(NamedTuple):
    """The requests of a gateway for one engine: how many wait, how many run, since when some wait, and the last time
    there was one; both in seconds of this machine's monotonic clock, 0 for never."""

    queued: int
    running: int
    since: float
    used_at: float


@dataclass(frozen=True)
class Wanted:
    """The same of all gateways; `since` is None where nothing waits."""

    queued: int = 0
    running: int = 0
    since: float | None = None
    used_at: float = 0.0


def write(run_dir: Path, pid: int, wants: Mapping[int, Want]) -> None:
    """Replaces what gateway process `pid` wants, by the order of the replica. Raises OSError as process_files does."""
    process_files.write(run_dir, KIND, pid, {str(order): list(want) for order, want in wants.items()})


def read(run_dir: Path, now: float) -> dict[int, Wanted]:
    """What all live gateway processes want together; times after `now` are of an earlier boot, and count as now."""
    found: dict[int, Wanted] = {}
    for _, content in process_files.read(run_dir, KIND):
        try:
            rows = {int(order): Want(*map(float, want)) for order, want in content.items()}  # type: ignore[arg-type]
        except (AttributeError, TypeError, ValueError):
            continue
        for order, want in rows.items():
            before = found.get(order, Wanted())
            times = [at for at in (before.since, min(want.since, now) or None) if at is not None]
            found[order] = Wanted(
                before.queued + int(want.queued), before.running + int(want.running), min(times, default=None),
                max(before.used_at, min(want.used_at, now)),
            )  # fmt: skip
    return found
