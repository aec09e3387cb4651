"""One engine as a process of its own, as in a container: it drains on SIGTERM, and ends when its engine fails.

Whoever started it starts it again: a container that restarts its engine itself would take longer than probes allow.
"""

import asyncio
import signal
from dataclasses import replace

from service.config.settings import Settings
from service.engine.listening import Tcp
from service.engine.status_writer import PrintProgress
from service.engine.supervisor import Supervisor
from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel


async def run(
    served: ServedModel, fleet: Fleet, settings: Settings, tcp: Tcp, print_progress: PrintProgress, log: PrintProgress
) -> str | None:
    """Runs the engine of `served` on `tcp` until SIGTERM, SIGINT or its failure; returns why it failed.

    `print_progress` is given lines about it, `log` those that the engine itself writes.
    """
    always_on = replace(served, min_replicas=1, max_replicas=1, addresses=())
    alone = replace(fleet, served=(always_on,))
    supervisor = Supervisor(always_on, 0, 0, alone, settings, print_progress, tcp=tcp, echo=log)
    running = supervisor.start_once()
    loop, ending = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    told = asyncio.create_task(ending.wait())
    await asyncio.wait([running, told], return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    failure = running.result() if running.done() else None
    await supervisor.stop()
    return failure
