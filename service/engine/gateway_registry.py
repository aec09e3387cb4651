"""Which gateway processes are there, and which of them finish their last requests: engines end after gateways."""

from pathlib import Path

from service.engine import process_files

KIND = "g"


def register(run_dir: Path, pid: int) -> None:
    """Says that the gateway process `pid` serves. Raises OSError where the run folder cannot be written."""
    process_files.write(run_dir, KIND, pid, {"draining": False})


def mark_draining(run_dir: Path, pid: int) -> None:
    """Says that it was asked to stop and finishes what it has accepted. Raises OSError as `register` does."""
    process_files.write(run_dir, KIND, pid, {"draining": True})


def unregister(run_dir: Path, pid: int) -> None:
    """Says that its last request has ended."""
    process_files.remove(run_dir, KIND, pid)


def registered(run_dir: Path) -> dict[int, bool]:
    """The living gateway processes that have not left, by pid: whether each is draining."""
    return {
        pid: content.get("draining") is True
        for pid, content in process_files.read(run_dir, KIND)
        if isinstance(content, dict)
    }
