"""One replica as a BentoML service: BentoML provides a process and GPUs, the supervisor runs the engine."""

from typing import Any

import bentoml

from service.config.settings import Settings
from service.engine.worker import EngineWorker, service_name
from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel
from service.fleet.shares import assigned_cards


def engine_service(served: ServedModel, number: int, order: int, fleet: Fleet, settings: Settings) -> Any:
    """The BentoML service that runs replica `number` of `served`, which has startup order `order` in the fleet."""

    class Engine:
        def __init__(self) -> None:
            self.worker = EngineWorker(served, number, order, fleet, settings)

        @bentoml.on_startup
        def start(self) -> None:
            self.worker.start()

        @bentoml.on_shutdown
        async def stop(self) -> None:
            await self.worker.stop()

    # BentoML turns `gpu` into this worker's CUDA_VISIBLE_DEVICES.
    # Where engines share cards it would give them to others, so that none are asked of it.
    ours = assigned_cards(fleet.served, order) is not None
    resources: dict[str, Any] = {"gpu": served.gpus} if served.gpus and not ours else {}
    return bentoml.service(name=service_name(served.id, number, order), workers=1, resources=resources, **QUIET)(Engine)


# BentoML's own logging, metrics and tracing cost several times what the gateway spends on a request, which has its own.
QUIET: dict[str, Any] = {
    "logging": {"access": {"enabled": False}},
    "metrics": {"enabled": False},
    "tracing": {"excluded_urls": ["."]},
}
