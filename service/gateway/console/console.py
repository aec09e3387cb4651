"""The console's endpoints: its page, and what the page asks for beside the API. docs/console.md describes it."""

import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from service.admission.gate import Admission
from service.auth.keys import caller_of
from service.config.release import release
from service.config.settings import Settings
from service.errors import ApiError, ErrorCode
from service.fleet.fleet import Fleet
from service.gateway.console.client_settings import CLIENTS, contexts_of, service_for
from service.gateway.console.history import INTERVAL, History
from service.gateway.console.page import (
    CLIENT_SETTINGS,
    FILE,
    FILES,
    LOAD,
    PATH,
    SIGN_IN,
    STATE,
    Page,
    redirect_to_page,
)
from service.gateway.console.recent_errors import RecentErrors
from service.gateway.console.state import Meter, Row, starts, waiting_rows, why_waiting
from service.observability.record import Record
from service.protocol.request_headers import parse_headers
from service.server.asgi import Receive, Scope, Send, respond, respond_json
from service.upstreams.upstream import Upstream
from service.upstreams.upstreams import Upstreams

EndpointFunction = Callable[[Scope, Receive, Send], Awaitable[None]]
MOST_WAITING = 20  # requests of one model that are shown
# What the page puts the service's address and the caller's key in the place of, so that no answer has a key.
ADDRESS, KEY = "https://roundhouse.invalid", "YOUR-ROUNDHOUSE-KEY"


class Console:
    """`rows` returns the rows of `GET /v1/models` for a caller. `table` maps paths to methods; see `Endpoints`."""

    def __init__(
        self, fleet: Fleet, upstreams: Upstreams, admission: Admission, settings: Settings,
        rows: Callable[[Scope], list[Row]],
    ) -> None:  # fmt: skip
        self._fleet, self._upstreams, self._admission, self._rows = fleet, upstreams, admission, rows
        self._history, self._meter, self._errors, self._due = History(), Meter(), RecentErrors(), 0.0
        self._process = {"id": secrets.token_hex(4), "processes": settings.gateway_processes}
        self._version = release()
        self._page = page = Page(fleet.sign_on)
        self.table: dict[str, dict[str, EndpointFunction]] = {
            PATH: {"GET": page.show},
            f"{PATH}/": {"GET": redirect_to_page},
            FILE: {"GET": page.show_file},
            SIGN_IN: {"GET": page.show_sign_in},
            STATE: {"GET": self._show_state},
            LOAD: {"GET": self._show_load},
            CLIENT_SETTINGS: {"GET": self._show_clients},
        }

    def name_of(self, path: str) -> str:
        """The name in the table of the path of one of the page's files; empty if it is none."""
        return FILE if path.startswith(f"{PATH}/") and path.removeprefix(f"{PATH}/") in FILES else ""

    def apply(self, fleet: Fleet) -> None:
        """Knows this fleet's tenants from now on, and where its users sign in."""
        self._fleet, self._page.sign_on = fleet, fleet.sign_on

    def observe(self, scope: Scope, record: Record) -> None:
        """Takes note of a request that has ended."""
        self._history.observe(record)
        if record.code:
            key = scope.get("key")
            self._errors.observe(record, key.tenant if key else "")

    def sample(self, now: float) -> None:
        """Takes a sample of everything, if one is due at `now`, in monotonic seconds."""
        if now < self._due:
            return
        self._due = now + INTERVAL
        admission, ids = self._admission, [upstream.served.id for upstream in self._upstreams]
        loads = {name: (admission.load(name), admission.queued(name)) for name in ids}
        replicas = [replica for upstream in self._upstreams for replica in upstream.replicas]
        self._history.sample(loads, self._meter.sample(replicas))

    async def _show_state(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What is served, what waits, and what failed, as far as the caller may know."""
        _query(scope, ())
        key, now = scope["key"], time.monotonic()
        tenant, own = self._seen_by(scope), self._own(scope)
        rows, upstreams = self._rows(scope), list(self._seen_upstreams(scope))
        ids = {upstream.served.id for upstream in upstreams}
        errors = (one for one in self._errors.of(tenant) if key.models is None or not one.model or one.model in ids)
        state = {
            "version": self._version,
            "process": self._process,
            "caller": {"key": key.id, "tenant": own, "all": tenant is None, "endpoints": sorted(key.endpoints)},
            "models": rows,
            "starts": starts(upstreams),
            "waiting": [row for upstream in upstreams for row in self._waiting(upstream, tenant, now)],
            "errors": [one._asdict() for one in errors],
        }
        await respond(send, 200, msgspec.json.encode(state))

    async def _show_load(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The samples after those that the caller has, which it names as `since=PROCESS:COUNT`."""
        since = _query(scope, ("since",)).get("since", ":0")
        process, _, count = since.partition(":")
        if not count.isdecimal() or len(count) > 15:
            raise ApiError(ErrorCode.INVALID_VALUE, "'since' must be that of the last answer.", "since")
        upstreams = list(self._seen_upstreams(scope))
        ids = [upstream.served.id for upstream in upstreams]
        replicas = [replica.id for upstream in upstreams for replica in upstream.replicas]
        known = int(count) if process == self._process["id"] else 0
        load = {
            "process": self._process,
            "interval": INTERVAL,
            "since": f"{self._process['id']}:{self._history.count}",
            **self._history.since(known, ids, replicas),
        }
        await respond(send, 200, msgspec.json.encode(load))  # of 40 models it is half a megabyte

    async def _show_clients(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The settings of client programs, as `roundhouse connect` prints them, with ADDRESS and KEY."""
        first = _query(scope, ("model",)).get("model")
        contexts = contexts_of(self._rows(scope))
        if first is not None and first not in contexts:
            raise ApiError(ErrorCode.MODEL_NOT_FOUND, f"No model '{first[:128]}' is served here.", "model")
        service = service_for(ADDRESS, KEY, contexts, first)
        shown = [
            {"name": one.name, "file": one.file, "run": one.run, "advice": one.advice, "text": one.settings(service)}
            for one in CLIENTS.values()
            if contexts
        ]
        await respond_json(send, {"address": ADDRESS, "key": KEY, "clients": shown})

    def _seen_upstreams(self, scope: Scope) -> Iterator[Upstream]:
        """Those that the caller's key may use, by their own name or by that of an adapter."""
        models = scope["key"].models
        ids = None if models is None else self._fleet.ids_of(models)
        for upstream in self._upstreams:
            served = upstream.served
            if ids is None or served.id in ids or any(adapter.id in ids for adapter in served.adapters):
                yield upstream

    def _own(self, scope: Scope) -> str:
        named = parse_headers(scope["headers"]).tenant
        return caller_of(scope["key"], named, self._fleet.tenants).tenant.id

    def _seen_by(self, scope: Scope) -> str | None:
        """The tenant whose requests the caller may see: its own, or all (None) as an operator."""
        own = scope["record"].tenant = self._own(scope)
        return None if scope["key"].operator and parse_headers(scope["headers"]).tenant is None else own

    def _waiting(self, upstream: Upstream, tenant: str | None, now: float) -> Iterator[dict[str, Any]]:
        waiting = self._admission.waiting(upstream.served.id, tenant, MOST_WAITING)
        return waiting_rows(upstream.served.id, why_waiting(upstream, now), waiting) if waiting else iter(())


def _query(scope: Scope, names: tuple[str, ...]) -> dict[str, str]:
    """The parameters of the query; raises ApiError 400 for one that is not among `names`."""
    query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
    for name in query:
        if name not in names:
            takes = f"use {', '.join(names)}" if names else "it takes none"
            text = f"There is no parameter '{name[:64]}' here: {takes}."
            raise ApiError(ErrorCode.UNKNOWN_PARAMETER, text, name[:64])
    return query
