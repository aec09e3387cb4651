"""The pages for Prometheus: the gateway's own metrics, those of each engine, and where to find the latter."""

from collections.abc import Awaitable, Callable

from prometheus_client import CONTENT_TYPE_LATEST

from service.engine.probe import fetch
from service.errors import ApiError, ErrorCode
from service.server.asgi import Receive, Scope, Send, headers_by_name, respond, respond_json
from service.transport.pool import ConnectionPool, Deadlines, TransportError, get_request
from service.upstreams.upstreams import Upstreams

PATH = "/metrics"
ENGINES = f"{PATH}/engines/"
ENGINE = f"{ENGINES}{{replica}}"
DEADLINES = Deadlines(connect=1.0, first_byte=4.0, idle=4.0, total=8.0)  # seconds; Prometheus waits 10 s
CONTENT_TYPE = [(b"content-type", CONTENT_TYPE_LATEST.encode())]

EndpointFunction = Callable[[Scope, Receive, Send], Awaitable[None]]


class MetricPages:
    """`render` returns the page of the gateway's own metrics. `table` maps paths to methods; see `Endpoints`."""

    def __init__(self, render: Callable[[], bytes], upstreams: Upstreams, transport: ConnectionPool) -> None:
        self._render, self._upstreams, self._transport = render, upstreams, transport
        self.table: dict[str, dict[str, EndpointFunction]] = {
            PATH: {"GET": self._show},
            f"{PATH}/targets": {"GET": self._list_targets},
            ENGINE: {"GET": self._show_engine},
        }

    def name_of(self, path: str) -> str:
        """The name in the table of the path of an engine's page; empty if it is none."""
        return ENGINE if path.startswith(ENGINES) else ""

    async def _show(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 200, self._render(), CONTENT_TYPE)

    async def _list_targets(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The engines that run, as Prometheus' HTTP service discovery wants them: at the address that it asked."""
        host = headers_by_name(scope).get(b"host", b"").decode("latin-1")
        targets = [
            {
                "targets": [host],
                "labels": {
                    "__metrics_path__": ENGINES + replica.id,
                    "roundhouse_model": upstream.served.id,
                    "roundhouse_replica": replica.id,
                },
            }
            for upstream in self._upstreams
            for replica in upstream.replicas
            if replica.ready
        ]
        await respond_json(send, targets)

    async def _show_engine(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An engine's own page, unchanged."""
        name = scope["path"].removeprefix(ENGINES)
        replicas = (replica for upstream in self._upstreams for replica in upstream.replicas)
        replica = next((one for one in replicas if one.id == name), None)
        if replica is None:
            raise ApiError(ErrorCode.UNKNOWN_URL, f"There is no replica '{name[:128]}'. GET {PATH}/targets lists them.")
        try:
            status, page = await fetch(self._transport, replica.address, get_request(PATH), DEADLINES)
        except TransportError as error:
            raise ApiError(ErrorCode.UPSTREAM_ERROR, f"The engine of '{replica.id}' has no metrics: {error}.") from None
        if status != 200:
            raise ApiError(ErrorCode.UPSTREAM_ERROR, f"The engine of '{replica.id}' has no metrics: status {status}.")
        await respond(send, 200, page, CONTENT_TYPE)
