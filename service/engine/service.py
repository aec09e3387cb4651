"""One replica as a BentoML service: BentoML provides a process and GPUs, the supervisor runs the engine."""

import ctypes
import re
import signal
from typing import Any

import bentoml

from service.config.settings import Settings
from service.engine.keeper import PR_SET_PDEATHSIG
from service.engine.state import replica_id
from service.engine.supervisor import Supervisor
from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel
from service.observability.log_writer import LogWriter

STANDARD_ERROR = 2


class Progress(LogWriter):
    """Lines for the operator on standard error, which may have as slow a reader as any log."""

    def __init__(self) -> None:
        super().__init__(STANDARD_ERROR)

    def print(self, text: str) -> None:
        """Writes one line."""
        self.write(f"roundhouse  {text}")


PLAIN, OTHER = re.compile(r"[a-z0-9._-]+"), re.compile(r"[^a-z0-9.-]")


def engine_service(
    served: ServedModel, number: int, order: int, fleet: Fleet, settings: Settings, progress: Progress
) -> Any:
    """The BentoML service that runs replica `number` of `served`, which has startup order `order` in the fleet."""

    class Engine:
        def __init__(self) -> None:
            self.supervisor = Supervisor(served, number, order, fleet, settings, progress.print)

        @bentoml.on_startup
        def start(self) -> None:
            """Starts in the background: BentoML must not wait for weights to load."""
            end_with_parent()
            self.supervisor.start()

        @bentoml.on_shutdown
        async def stop(self) -> None:
            """Drains and stops the engine; none of its processes outlives this one."""
            await self.supervisor.stop()
            progress.close()

    # BentoML turns `gpu` into this worker's CUDA_VISIBLE_DEVICES.
    resources: dict[str, Any] = {"gpu": served.gpus} if served.gpus else {}
    return bentoml.service(name=service_name(served.id, number, order), workers=1, resources=resources, **QUIET)(Engine)


def service_name(model: str, number: int, order: int) -> str:
    """The BentoML service's name, which becomes a part of command lines and variables: ASCII without brackets."""
    if PLAIN.fullmatch(model):
        return f"engine-{replica_id(model, number)}"
    return f"engine-{order}-{replica_id(OTHER.sub('-', model.lower()), number)}"


def end_with_parent() -> None:
    """Has the kernel send this worker SIGTERM when its parent process dies, however it dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


# BentoML's own logging, metrics and tracing cost several times what the gateway spends on a request, which has its own.
QUIET: dict[str, Any] = {
    "logging": {"access": {"enabled": False}},
    "metrics": {"enabled": False},
    "tracing": {"excluded_urls": ["."]},
}
