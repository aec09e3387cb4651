"""The table of API paths, and the ASGI app that serves them; every other path is a 404."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from service.admission.gate import Admission
from service.auth.keys import caller_of
from service.config.settings import Settings
from service.errors import ApiError, ErrorCode
from service.fleet.fleet import Fleet
from service.gateway.console.console import Console
from service.gateway.console.page import PATH as CONSOLE
from service.gateway.console.page import asks_for_page, redirect
from service.gateway.metric_pages import MetricPages
from service.gateway.middleware import is_anthropic
from service.gateway.model_list import Row, anthropic_list, anthropic_model, model_rows, rows_of
from service.gateway.openapi import describe
from service.gateway.request_body import BodyLimits, buffered_json_body, read_json_body
from service.gateway.stored_responses import StoredResponseEndpoints
from service.gateway.usage import UsageEndpoint
from service.gateway.versions import Versions
from service.protocol.generation import MODERATIONS, PATHS, Endpoint
from service.protocol.request_headers import parse_headers
from service.protocol.scoring import SIDES
from service.protocol.unique_names import check_names
from service.relay.relay import Relay
from service.relay.stored import StoredResponses
from service.server.asgi import (
    CancelOnDisconnect,
    Receive,
    Scope,
    Send,
    derived,
    extension_of,
    respond,
    respond_json,
)
from service.upstreams.upstreams import Upstreams

EndpointFunction = Callable[[Scope, Receive, Send], Awaitable[None]]
MODELS = "/v1/models"


class Endpoints:
    """The app behind the middleware. Its table maps path and method to a method of this class or to the relay.

    `is_ready` says whether the gateway should get traffic.
    """

    def __init__(
        self, fleet: Fleet, upstreams: Upstreams, relay: Relay, versions: Versions,
        metric_pages: MetricPages, is_ready: Callable[[], bool], settings: Settings,
        stored: StoredResponses, admission: Admission,
    ) -> None:  # fmt: skip
        self._fleet, self._upstreams, self._relay, self._versions = fleet, upstreams, relay, versions
        self._metric_pages, self._is_ready, self._body_limits = metric_pages, is_ready, BodyLimits.of(settings)
        self._stored = StoredResponseEndpoints(fleet, stored)
        self._description: bytes | None = None  # as of `describe`, made when somebody first asks for it
        self._usage = UsageEndpoint(fleet, settings.usage_dir)
        self.console = Console(fleet, upstreams, admission, settings, self._rows) if settings.console else None
        self.table: dict[str, dict[str, EndpointFunction]] = {
            **{path: {"POST": self._generation(endpoint)} for path, endpoint in PATHS.items()},
            "/": {"GET": self._greet},
            MODELS: {"GET": self._list_models},
            f"{MODELS}/{{id}}": {"GET": self._show_model},
            "/v1/route": {"POST": self._route},
            MODERATIONS.path: {"POST": self._moderate},
            "/v1/usage": {"GET": self._usage.show},
            "/health": {"GET": self._show_health},
            "/ping": {"GET": self._show_health},
            "/version": {"GET": self._show_version},
            "/openapi.json": {"GET": self._describe},
            **self._stored.table,
            **metric_pages.table,
            **(self.console.table if self.console else {}),
        }

    def apply(self, fleet: Fleet) -> None:
        """Serves this fleet from now on."""
        self._fleet, self._description = fleet, None
        self._stored.apply(fleet)
        self._usage.apply(fleet)
        if self.console:
            self.console.apply(fleet)

    def sample(self, now: float) -> None:
        """Lets the console take a sample of the fleet's load; `now` is in monotonic seconds."""
        if self.console:
            self.console.sample(now)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        path, method = scope["path"], scope["method"]
        functions = self.table.get(path) or self.table.get(self.name_of(path))
        if functions is None:
            why = ": audio is not taken here, send a transcript as text" if path.startswith("/v1/audio/") else ""
            text = f"There is no endpoint {method} {path}{why}. docs/architecture.md lists the endpoints."
            raise ApiError(ErrorCode.UNKNOWN_URL, text)
        # The server leaves the body out of a response to HEAD.
        function = functions.get("GET" if method == "HEAD" else method)
        if function is None:
            allowed = ", ".join(("GET", "HEAD") if "GET" in functions else functions)
            text = f"{path} does not take {method}; use {allowed}."
            raise ApiError(ErrorCode.METHOD_NOT_ALLOWED, text, allow=allowed)
        return function(scope, receive, send)

    def name_of(self, path: str) -> str:
        """The path as a metric label: that of the table, or `other`, so that clients cannot create time series."""
        if path in self.table:
            return path
        if path.startswith(MODELS + "/"):
            return MODELS + "/{id}"
        named = self.console.name_of(path) if self.console else ""
        return named or self._stored.name_of(path) or self._metric_pages.name_of(path) or "other"

    def _generation(self, endpoint: Endpoint) -> EndpointFunction:
        answer = self._relay.answer

        def endpoint_function(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            extension = extension_of(scope)
            body = buffered_json_body(scope, extension, self._body_limits)
            if body is None:
                return self._read_and_answer(endpoint, scope, receive, send)
            options = derived(scope, parse_headers)
            return answer(endpoint, body, options, scope["record"], receive, send, extension, scope["key"])

        return endpoint_function

    async def _read_and_answer(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_json_body(scope, receive, self._body_limits)
        options, record, key = derived(scope, parse_headers), scope["record"], scope["key"]
        await self._relay.answer(endpoint, body, options, record, receive, send, extension_of(scope), key)

    async def _list_models(self, scope: Scope, receive: Receive, send: Send) -> None:
        rows = self._rows(scope)
        page = anthropic_list(rows) if is_anthropic(scope) else {"object": "list", "data": rows}
        await respond_json(send, page)

    def _rows(self, scope: Scope) -> list[Row]:
        """The models that the caller's key may use."""
        if (models := scope["key"].models) is None:
            return model_rows(self._fleet, self._upstreams)
        return rows_of(self._fleet.ids_of(models), model_rows(self._fleet.restricted(models), self._upstreams))

    async def _show_model(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path"].removeprefix(MODELS + "/")
        row = next((row for row in self._rows(scope) if row["id"] == name), None)
        if row is None:
            text = f"No model '{name[:128]}' is served here. GET {MODELS} lists those that are."
            raise ApiError(ErrorCode.MODEL_NOT_FOUND, text, "model")
        await respond_json(send, anthropic_model(row) if is_anthropic(scope) else row)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Resolves a request without running it. The body is the request's own, with its `endpoint` path added."""
        body = await read_json_body(scope, receive, self._body_limits)
        try:
            fields = json.loads(body)
            check_names(body)
            path = fields.pop("endpoint", "/v1/chat/completions")
        except (ValueError, AttributeError, TypeError, RecursionError):
            text = "The body must be a JSON object: a request, and its 'endpoint' path."
            raise ApiError(ErrorCode.INVALID_JSON, text) from None
        endpoint = PATHS.get(path) if isinstance(path, str) else None
        if endpoint is None:
            raise ApiError(ErrorCode.INVALID_VALUE, f"'endpoint' must be one of {', '.join(PATHS)}.", "endpoint")
        replaced = ROUTE_ALTERNATIVES.get(endpoint.path, frozenset()) & fields.keys()
        body = json.dumps({**({} if replaced else ROUTE_DEFAULTS[endpoint.path]), **fields}).encode()
        preparation = self._relay.preparation
        parsed = preparation.parse(endpoint, body)
        request, ignored = parsed.request, parsed.ignored
        options, requirements = parse_headers(scope["headers"]), endpoint.requirements(request)
        caller = caller_of(scope["key"], options.tenant, self._fleet.tenants)
        key = preparation.key(request, caller.tenant.id, options)
        target = preparation.resolve(request, requirements, caller, key)
        others = preparation.fallbacks(target, request, body, requirements, options, caller)
        upstream = self._upstreams[target.served.id]
        condition, reason = upstream.adapter_condition(target.name) if target.adapter else upstream.condition()
        route = {
            "requested": request.model,
            "endpoint": path,
            "model": target.name,
            "variant": target.variant,
            "family": target.served.family,
            "route_reason": target.reason,
            "fallbacks": [other.name for other in others],
            "ignored_fields": ignored,
            "state": condition,
            "reason": reason,
        }
        await respond_json(send, route)

    async def _moderate(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_json_body(scope, receive, self._body_limits)
        with CancelOnDisconnect(receive, extension_of(scope)):
            answer = await self._relay.moderations.answer(body, scope["headers"], scope["record"], scope["key"])
        await respond_json(send, answer)

    async def _show_health(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What load generators and balancers made for vLLM ask; the same as the probe `/readyz`."""
        if not self._is_ready():
            raise ApiError(ErrorCode.MODEL_UNAVAILABLE, "No model is ready. Try again later.", retry_after=1.0)
        await respond(send, 200, b"")

    async def _greet(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What clients ask to see whether anything answers at this address; a browser goes on to the console."""
        if self.console and asks_for_page(scope):
            await redirect(send, CONSOLE.removeprefix("/"), ((b"vary", b"Accept"),))
            return
        await respond_json(send, {"service": "roundhouse", "models": MODELS})

    async def _show_version(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond_json(send, await self._versions.read())

    async def _describe(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._description is None:
            self._description = json.dumps(describe(self._fleet.request_bounds), ensure_ascii=False).encode()
        await respond(send, 200, self._description)


# Required fields that a body for /v1/route may omit, by endpoint.
ROUTE_DEFAULTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": ""}]},
    "/v1/completions": {"prompt": ""},
    "/v1/responses": {"input": ""},
    "/v1/messages": {"messages": [{"role": "user", "content": ""}], "max_tokens": 1},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": ""}]},
    "/v1/embeddings": {"input": "?"},
    "/rerank": {"query": "?", "documents": ["?"]},
    "/score": {"text_1": "?", "text_2": "?"},
    "/tokenize": {"prompt": ""},
    "/detokenize": {"tokens": []},
}
# The fields that an endpoint takes in place of those.
ROUTE_ALTERNATIVES: dict[str, frozenset[str]] = {
    "/score": frozenset(name for sides in SIDES[1:] for name in sides),
    "/tokenize": frozenset({"messages"}),
}
