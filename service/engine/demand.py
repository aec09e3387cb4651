"""Which replicas the gateways want: those that run on demand start while one is asked for, and sleep afterwards."""

from collections.abc import Iterable
from pathlib import Path

from service.engine import process_files

KIND = "d"


def write(run_dir: Path, pid: int, orders: Iterable[int]) -> None:
    """Says which replicas, by their order in the fleet, the gateway process `pid` wants running; replaces what it said.

    Raises OSError where the run folder cannot be written.
    """
    process_files.write(run_dir, KIND, pid, sorted(orders))


def wanted(run_dir: Path, order: int) -> bool:
    """Whether any living gateway wants the replica."""
    return any(order in orders for _, orders in process_files.read(run_dir, KIND) if isinstance(orders, list))
