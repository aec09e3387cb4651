"""An app on a real socket, served in the test's own loop as BentoML serves it."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from service.server.connection import Connection


@asynccontextmanager
async def serving(
    app: Any, listener: socket.socket, *, protocol: Any = Connection, lifespan: Any = "on", **options: Any
) -> AsyncIterator[uvicorn.Server]:
    """The server; at the end, whatever happened, it listens no more and its idle connections are closed."""
    config = uvicorn.Config(app, http=protocol, lifespan=lifespan, log_config=None, server_header=False, **options)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listener])
    try:
        yield server
    finally:
        for one in server.servers:
            one.close()
        for connection in list(server.server_state.connections):
            connection.shutdown()
        await server.lifespan.shutdown()
