"""The gateway under a plain ASGI server; under BentoML the service's hooks run its background tasks."""

from service.gateway.app import Gateway
from service.server.asgi import App, Receive, Scope, Send


def with_lifespan(gateway: Gateway) -> App:
    """The app for a plain ASGI server, with its background tasks."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await gateway.app(scope, receive, send)
            return
        await receive()
        async with gateway.background_tasks():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    return app
