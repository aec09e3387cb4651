"""What a gateway process wants of the engines here: files in the run folder that the supervisors read."""

from contextlib import suppress
from pathlib import Path

from service.engine import adapter_lists, demand
from service.engine.adapter_lists import Folders
from service.fleet.fleet import Fleet


class EngineDemand:
    """Writes the files of gateway process `pid`, each when it changes."""

    def __init__(self, run_dir: Path, pid: int) -> None:
        self._run_dir, self._pid = run_dir, pid
        self._engines: list[int] = []
        self._fleet: Fleet | None = None
        self._adapters: dict[str, Folders] = {}

    def write(self, engines: list[int], fleet: Fleet) -> None:
        """Says which engines on demand should run, by their order, and which adapters those of `fleet` should have."""
        with suppress(OSError):  # a full disk: written again when this is called again
            if engines != self._engines:
                demand.write(self._run_dir, self._pid, engines)
                self._engines = engines
            if fleet is not self._fleet:
                adapters = adapter_lists.of_fleet(fleet)
                if adapters != self._adapters:
                    adapter_lists.write(self._run_dir, self._pid, adapters)
                self._fleet, self._adapters = fleet, adapters
