"""The first process of the service, as a program: circus alone, with what BentoML has told it to run.

`python supervisor.py FD`: on the file descriptor is JSON, as `service.gateway.handover` writes it. BentoML's command
becomes this program once it knows what to run, which takes a third of the memory of all that the command has imported.
It imports nothing of ours, so that it runs wherever it lies.
"""

import contextlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from circus import arbiter as circus
from circus import sighandler
from circus.sockets import CircusSocket
from circus.watcher import Watcher


def main(descriptor: int) -> None:
    """Runs the processes until it is told to stop, by a signal; exits with 1 where none is left to run."""
    with os.fdopen(descriptor, "rb") as file:
        plan: Mapping[str, Any] = json.load(file)
    form = "%(asctime)s [%(levelname)s] [supervisor] %(message)s"
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stdout, format=form, datefmt="%Y-%m-%dT%H:%M:%S%z", force=True
    )
    forward_repeated_signals()
    circus._setproctitle = lambda title: None  # it overwrites what the kernel tells of the environment
    arbiter = circus.Arbiter(
        [Watcher(**one) for one in plan["watchers"]],
        sockets=[CircusSocket(**one) for one in plan["sockets"]],
        **plan["arbiter"],
    )
    try:
        if failed := arbiter.start().exception():
            sys.exit(f"Roundhouse has ended: {failed}")
    finally:
        for endpoint in ("endpoint", "pubsub_endpoint"):
            Path(plan["arbiter"][endpoint].removeprefix("ipc://")).unlink(missing_ok=True)
        for folder in plan["remove"]:
            shutil.rmtree(folder, ignore_errors=True)


def forward_repeated_signals() -> None:
    """Makes this process forward every stop signal after the first to its workers; circus would ignore them.

    Patches circus; raises ImportError for a version without the patched method.
    """
    if not hasattr(sighandler.SysHandler, "quit"):
        raise ImportError("This version of circus has no SysHandler.quit: adapt service/gateway/supervisor.py to it.")
    original_quit = sighandler.SysHandler.quit

    def quit_and_signal_workers(handler: Any) -> None:
        for worker in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.terminate()
        original_quit(handler)

    def quit_on_first_signal(handler: Any) -> None:
        handler.quit = partial(quit_and_signal_workers, handler)
        original_quit(handler)

    sighandler.SysHandler.quit = quit_on_first_signal


if __name__ == "__main__":
    main(int(sys.argv[1]))
