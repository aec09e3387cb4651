"""State that one process shares with others: a small JSON file in the run folder, valid while its writer is alive."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write(run_dir: Path, kind: str, pid: int, content: Any) -> None:
    """Replaces `<kind><pid>.json` atomically. Raises OSError where the run folder cannot be written."""
    path = _path(run_dir, kind, pid)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"start_time": start_time(pid), "content": content}))
    temporary.replace(path)


def remove(run_dir: Path, kind: str, pid: int) -> None:
    """Removes the file, if it exists."""
    _path(run_dir, kind, pid).unlink(missing_ok=True)


def read(run_dir: Path, kind: str) -> Iterator[tuple[int, Any]]:
    """Every file of this kind whose writer is alive, as (pid, content). Files of dead processes are removed."""
    for path in run_dir.glob(f"{kind}*.json"):
        if not (match := re.fullmatch(rf"{kind}(\d+)\.json", path.name)):
            continue
        pid = int(match[1])
        started = start_time(pid)
        try:
            if started is None:
                path.unlink(missing_ok=True)
                continue
            document = json.loads(path.read_text())
            # Pids are reused, most of all in a restarted container, so the pid alone does not identify the writer.
            if document["start_time"] != started:
                continue
            content = document["content"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            continue
        yield pid, content


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot (proc(5), field 22); None if it is not running."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        process_state, *fields = stat.rsplit(")", 1)[1].split()
        return None if process_state in "ZX" else int(fields[18])
    except (OSError, ValueError, IndexError):  # the latter two where it has just ended
        return None


def _path(run_dir: Path, kind: str, pid: int) -> Path:
    return run_dir / f"{kind}{pid}.json"
