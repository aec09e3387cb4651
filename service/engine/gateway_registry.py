"""Which gateway processes are running, and which are draining: on shutdown engines stop after the gateways."""

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
