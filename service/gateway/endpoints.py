"""The table of API paths, and the ASGI app that answers them. What is not in the table does not exist."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST

from service.config.settings import Settings
from service.errors import ApiError, ErrorCode
from service.fleet.fleet import Fleet
from service.observability.metrics import Metrics
from service.protocol.generation import GENERATION, Endpoint
from service.protocol.parse_body import parse_body
from service.relay.relay import Relay
from service.server.asgi import Receive, Scope, Send, extension_of, read_body, respond, respond_json
from service.upstreams.upstream import Upstream
from service.upstreams.upstreams import Upstreams

EndpointFunction = Callable[[Scope, Receive, Send], Awaitable[None]]
MODELS = "/v1/models"


class Endpoints:
    """The app behind the middleware: one method of this class, or the relay, for each row of its table."""

    def __init__(
        self, fleet: Fleet, upstreams: Upstreams, relay: Relay, show: Callable[[], None], metrics: Metrics,
        settings: Settings,
    ) -> None:  # fmt: skip
        self._fleet, self._upstreams, self._relay = fleet, upstreams, relay
        self._show, self._metrics, self._settings = show, metrics, settings
        self.table: dict[str, dict[str, EndpointFunction]] = {
            **{endpoint.path: {"POST": self._generation(endpoint)} for endpoint in GENERATION},
            MODELS: {"GET": self._list_models},
            "/v1/route": {"POST": self._route},
            "/metrics": {"GET": self._show_metrics},
        }

    def apply(self, fleet: Fleet) -> None:
        """Takes a fleet into use."""
        self._fleet = fleet

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        path, method = scope["path"], scope["method"]
        answers = self.table.get(path)
        if answers is None and path.startswith(MODELS + "/"):
            answers = {"GET": self._show_model}
        if answers is None:
            text = f"There is no endpoint {method} {path}. docs/architecture.md lists the endpoints."
            raise ApiError(ErrorCode.UNKNOWN_URL, text)
        if method not in answers:
            allowed = ", ".join(answers)
            text = f"{path} does not take {method}; use {allowed}."
            raise ApiError(ErrorCode.METHOD_NOT_ALLOWED, text, allow=allowed)
        return answers[method](scope, receive, send)

    def name_of(self, path: str) -> str:
        """The path as a metric's label: one of the table, or `other`."""
        if path in self.table:
            return path
        return MODELS + "/{id}" if path.startswith(MODELS + "/") else "other"

    def _generation(self, endpoint: Endpoint) -> EndpointFunction:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            body = await self._body(scope, receive)
            record, headers = scope["record"], scope["headers"]
            await self._relay.answer(endpoint, body, headers, record, receive, send, extension_of(scope))

        return answer

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        return await read_body(scope, receive, self._settings.max_body_bytes, self._settings.body_timeout)

    async def _list_models(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond_json(send, {"object": "list", "data": [row for one in self._upstreams for row in _rows(one)]})

    async def _show_model(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path"].removeprefix(MODELS + "/")
        wanted = self._fleet.aliases.get(name, name)
        for upstream in self._upstreams:
            for row in _rows(upstream):
                if row["id"] == wanted:
                    await respond_json(send, row)
                    return
        text = f"No model '{name[:128]}' is served here. GET {MODELS} lists those that are."
        raise ApiError(ErrorCode.MODEL_NOT_FOUND, text, "model")

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Says where a request would go: the request's own body, with its `endpoint` beside it."""
        body = await self._body(scope, receive)
        try:
            fields = json.loads(body)
            path = fields.pop("endpoint", "/v1/chat/completions")
        except (ValueError, AttributeError, TypeError, RecursionError):
            text = "The body must be a JSON object: a request, and its 'endpoint' path."
            raise ApiError(ErrorCode.INVALID_JSON, text) from None
        endpoint = next((one for one in GENERATION if one.path == path), None)
        if endpoint is None:
            known = ", ".join(one.path for one in GENERATION)
            raise ApiError(ErrorCode.INVALID_VALUE, f"'endpoint' must be one of {known}.", "endpoint")
        request = parse_body(endpoint.body, json.dumps({**SKETCHES[path], **fields}).encode(), self._fleet.extra_fields)
        target = self._relay.resolve(request, endpoint)
        condition, reason = self._upstreams[target.served.id].condition()
        answer = {
            "requested": request.model,
            "endpoint": path,
            "model": target.name,
            "variant": target.served.variant,
            "family": target.served.family,
            "route_reason": target.reason,
            "state": condition,
            "reason": reason,
        }
        await respond_json(send, answer)

    async def _show_metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._show()
        await respond(send, 200, self._metrics.text(), [(b"content-type", CONTENT_TYPE_LATEST.encode())])


# What a question about routing may leave out of the request it asks about.
SKETCHES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": ""}]},
    "/v1/completions": {"prompt": ""},
    "/v1/responses": {"input": ""},
    "/v1/messages": {"messages": [{"role": "user", "content": ""}], "max_tokens": 1},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": ""}]},
    "/v1/embeddings": {"input": "?"},
}


def _rows(upstream: Upstream) -> list[dict[str, Any]]:
    """The model of an upstream, and each adapter on it, as `GET /v1/models` shows them."""
    served = upstream.served
    condition, reason = upstream.condition()
    row = {
        "id": served.id,
        "object": "model",
        "created": 0,
        "owned_by": served.family,
        "family": served.family,
        "variant": served.variant,
        "specialty": served.model.specialty,
        "context_length": served.context,
        "capabilities": sorted(served.capabilities),
        "aliases": list(served.aliases),
        "state": condition,
        "reason": reason,
        "replicas": [_replica(one.id, one.state) for one in upstream.replicas],
    }
    adapters = [{**row, "id": adapter.id, "aliases": [], "parent": served.id} for adapter in served.adapters]
    return [row, *adapters]


def _replica(name: str, state: Any) -> dict[str, Any]:
    if state is None:
        return {"id": name, "state": "waiting", "reason": None, "restarts": 0}
    return {
        "id": name,
        "state": state.condition,
        "reason": state.reason or state.phase or None,
        "restarts": state.restarts,
    }
