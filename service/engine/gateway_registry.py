"""Which gateway processes are running, and which are draining: on shutdown engines stop after the gateways."""

import asyncio
import time
from pathlib import Path

from service.engine import process_files

KIND = "g"


def register(run_dir: Path, pid: int) -> None:
    """Registers gateway process `pid` as serving. Raises OSError where the run folder cannot be written."""
    process_files.write(run_dir, KIND, pid, {"draining": False})


def mark_draining(run_dir: Path, pid: int) -> None:
    """Marks it as finishing the requests that it has accepted. Raises OSError as `register` does."""
    process_files.write(run_dir, KIND, pid, {"draining": True})


def unregister(run_dir: Path, pid: int) -> None:
    """Removes it, once its last request has ended."""
    process_files.remove(run_dir, KIND, pid)


def registered(run_dir: Path) -> dict[int, bool]:
    """The registered gateway processes that are alive, by pid: whether each is draining."""
    return {
        pid: content.get("draining") is True
        for pid, content in process_files.read(run_dir, KIND)
        if isinstance(content, dict)
    }


async def wait_until_drained(run_dir: Path, deadline: float, propagation: float) -> None:
    """Waits until no gateway is draining, or until `deadline` in monotonic seconds.

    Before that it gives the gateways `propagation` seconds to see an engine's state, or to announce that they drain.
    """
    if registered(run_dir):
        await asyncio.sleep(propagation)
    while time.monotonic() < deadline:
        if not any(registered(run_dir).values()):
            return
        await asyncio.sleep(0.1)
