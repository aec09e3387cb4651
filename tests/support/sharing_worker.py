"""A worker of a server whose listening socket others share, as a program that answers with its number.

`python -m tests.support.sharing_worker FD FOLDER WORKER WORKERS PATIENCE` prints a line when it accepts connections.
"""

import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn

from service.engine.worker import end_with_parent
from service.server.connection import Connection
from service.server.open_counts import OpenCounts
from service.server.shared_listener import SharedServer


def answering(worker: str) -> Any:
    """An app that answers each request with the worker's number."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(worker))]}
        )
        await send({"type": "http.response.body", "body": worker.encode()})

    return app


class Announced(SharedServer):
    """Says when it accepts connections."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print("accepts", flush=True)


def main(fd: str, folder: str, worker: str, workers: str, patience: str) -> None:
    """Serves until SIGTERM, or as long as its parent lives."""
    end_with_parent()
    config = uvicorn.Config(answering(worker), http=Connection, lifespan="off", log_config=None)
    counts = OpenCounts(Path(folder), int(worker), int(workers))
    Announced(config, counts, float(patience)).run([socket.socket(fileno=int(fd))])


if __name__ == "__main__":
    main(*sys.argv[1:])
