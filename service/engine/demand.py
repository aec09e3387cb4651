"""Which on-demand replicas the gateways need: each gateway process keeps a list of them in the run folder."""

from collections.abc import Iterable
from pathlib import Path

from service.engine import process_files

KIND = "d"


def write(run_dir: Path, pid: int, orders: Iterable[int]) -> None:
    """Replaces the list of gateway process `pid`: the replicas that it needs, by their order in the fleet.

    Raises OSError where the run folder cannot be written.
    """
    process_files.write(run_dir, KIND, pid, sorted(orders))


def wanted(run_dir: Path, order: int) -> bool:
    """Whether any live gateway process needs the replica."""
    return any(order in orders for _, orders in process_files.read(run_dir, KIND) if isinstance(orders, list))
