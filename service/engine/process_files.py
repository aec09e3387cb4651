"""What a process tells the others: a small JSON file in the run folder that counts only while its writer lives."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write(run_dir: Path, kind: str, pid: int, content: Any) -> None:
    """Replaces the note `<kind><pid>.json`; a reader sees the old one or the new one, whole."""
    path = _path(run_dir, kind, pid)
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps({"start_time": start_time(pid), "content": content}))
    scratch.replace(path)


def remove(run_dir: Path, kind: str, pid: int) -> None:
    """Takes the note back."""
    _path(run_dir, kind, pid).unlink(missing_ok=True)


def read(run_dir: Path, kind: str) -> Iterator[tuple[int, Any]]:
    """Every note of this kind whose writer lives, as (pid, content). What the dead left behind is removed."""
    for path in run_dir.glob(f"{kind}*.json"):
        if not (named := re.fullmatch(rf"{kind}(\d+)\.json", path.name)):
            continue
        pid = int(named[1])
        started = start_time(pid)
        if started is None:
            path.unlink(missing_ok=True)
            continue
        try:
            note = json.loads(path.read_text())
            # A pid may have passed to another process, above all in a container that was started again.
            if note["start_time"] == started:
                yield pid, note["content"]
        except (OSError, ValueError, TypeError, KeyError):
            continue


def start_time(pid: int) -> int | None:
    """When the process began, in the kernel's ticks since the machine did; None if it does not live."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    condition, *fields = stat.rsplit(")", 1)[1].split()
    return None if condition in "ZX" else int(fields[18])


def _path(run_dir: Path, kind: str, pid: int) -> Path:
    return run_dir / f"{kind}{pid}.json"
