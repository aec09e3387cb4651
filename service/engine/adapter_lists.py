"""Which adapters the gateways want on the engines here: each gateway process keeps a list in the run folder."""

from collections.abc import Mapping
from pathlib import Path

from service.engine import process_files
from service.fleet.fleet import Fleet

KIND = "a"
Folders = dict[str, str]  # by the id of an adapter


def of_fleet(fleet: Fleet) -> dict[str, Folders]:
    """The folders of the adapters of each model whose engines run here, by the model's id."""
    return {served.id: {one.id: one.path for one in served.adapters} for served in fleet.served if not served.addresses}


def write(run_dir: Path, pid: int, folders: Mapping[str, Folders]) -> None:
    """Replaces the list of gateway process `pid`. Raises OSError where the run folder cannot be written."""
    process_files.write(run_dir, KIND, pid, folders)


def wanted(run_dir: Path, model: str) -> Folders | None:
    """The adapters that any live gateway process wants on the model's engines; None while there is no such process.

    One that gateways want from different folders, as for a moment while they reload, is that of the last of them.
    """
    lists = [content for _, content in sorted(process_files.read(run_dir, KIND), key=lambda one: one[0])]
    found: Folders | None = None
    for content in lists:
        if isinstance(content, dict):
            folders = content.get(model)
            found = (found or {}) | (folders if isinstance(folders, dict) else {})
    return found
