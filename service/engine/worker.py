"""One replica in a process of its own that something else has started: its supervisor, from start to stop."""

import asyncio
import ctypes
import re
import signal

from service.config.settings import Settings
from service.engine.keeper import PR_SET_PDEATHSIG
from service.engine.state import replica_id
from service.engine.supervisor import Supervisor
from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel
from service.observability.log import open_log
from service.observability.log_writer import LogWriter

STANDARD_ERROR = 2
PLAIN, OTHER = re.compile(r"[a-z0-9._-]+"), re.compile(r"[^a-z0-9.-]")


class Progress(LogWriter):
    """Lines for the operator on standard error, which may have as slow a reader as any log."""

    def __init__(self) -> None:
        super().__init__(STANDARD_ERROR)

    def print(self, text: str) -> None:
        """Writes one line."""
        self.write(f"roundhouse  {text}")


class EngineWorker:
    """Replica `number` of `served`, which has startup order `order` in the fleet."""

    def __init__(self, served: ServedModel, number: int, order: int, fleet: Fleet, settings: Settings) -> None:
        self._log, self._progress = open_log(settings), Progress()
        self._supervisor = Supervisor(served, number, order, fleet, settings, self._progress.print, self._log)

    def start(self) -> None:
        """Starts in the background: nobody must wait for weights to load."""
        end_with_parent()
        self._supervisor.start()

    async def stop(self) -> None:
        """Drains and stops the engine; none of its processes outlives this one."""
        await self._supervisor.stop()
        self._log.close()
        self._progress.close()

    async def run(self) -> None:
        """Runs it until SIGTERM or SIGINT."""
        loop, ending = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ending.set)
        self.start()
        await ending.wait()
        await self.stop()


def service_name(model: str, number: int, order: int) -> str:
    """The BentoML service's name, which becomes a part of command lines and variables: ASCII without brackets."""
    if PLAIN.fullmatch(model):
        return f"engine-{replica_id(model, number)}"
    return f"engine-{order}-{replica_id(OTHER.sub('-', model.lower()), number)}"


def end_with_parent() -> None:
    """Has the kernel send this worker SIGTERM when its parent process dies, however it dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
