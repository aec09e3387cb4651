"""The endpoints below `/v1/responses/`: a stored response read, listed, cancelled and deleted."""

import re
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from urllib.parse import parse_qsl

from service.auth.keys import caller_of
from service.errors import ApiError, ErrorCode
from service.fleet.fleet import Fleet
from service.protocol.conversation import page
from service.protocol.request_headers import parse_headers
from service.relay.stored import StoredResponses
from service.server.asgi import Receive, Scope, Send, respond_json

PATH = re.compile(r"/v1/responses/([^/]+)(/input_items|/cancel)?")
NO_EVENTS = "The events of a response are not kept: get it without 'stream' and 'starting_after', when it has ended."


class StoredResponseEndpoints:
    """The endpoints, in a `table` by name and method. A caller sees what belongs to its own tenant."""

    def __init__(self, fleet: Fleet, stored: StoredResponses) -> None:
        self._fleet, self._stored = fleet, stored
        self.table: Mapping[str, dict[str, Callable[[Scope, Receive, Send], Awaitable[None]]]] = MappingProxyType(
            {
                "/v1/responses/{id}": {"GET": self._show, "DELETE": self._delete},
                "/v1/responses/{id}/input_items": {"GET": self._list_input_items},
                "/v1/responses/{id}/cancel": {"POST": self._cancel},
            }
        )

    def apply(self, fleet: Fleet) -> None:
        """Serves this fleet's tenants from now on."""
        self._fleet = fleet

    def name_of(self, path: str) -> str:
        """The name of a path in the table; empty if it is none of these."""
        found = PATH.fullmatch(path)
        return f"/v1/responses/{{id}}{found[2] or ''}" if found else ""

    async def _show(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = _query(scope)
        for name in ("stream", "starting_after"):
            if query.get(name, "false") != "false":
                raise ApiError(ErrorCode.UNSUPPORTED_PARAMETER, NO_EVENTS, name)
        await respond_json(send, await self._stored.get(*self._key(scope)))

    async def _list_input_items(self, scope: Scope, receive: Receive, send: Send) -> None:
        items = await self._stored.input_items(*self._key(scope))
        await respond_json(send, page(items, _query(scope)))

    async def _delete(self, scope: Scope, receive: Receive, send: Send) -> None:
        tenant, id = self._key(scope)
        await self._stored.delete(tenant, id)
        await respond_json(send, {"id": id, "object": "response", "deleted": True})

    async def _cancel(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond_json(send, await self._stored.cancel(*self._key(scope)))

    def _key(self, scope: Scope) -> tuple[str, str]:
        """The tenant and the id of the response that is meant."""
        tenant = caller_of(scope["key"], parse_headers(scope["headers"]).tenant, self._fleet.tenants).tenant.id
        scope["record"].tenant = tenant
        found = PATH.fullmatch(scope["path"])
        assert found
        return tenant, found[1]


def _query(scope: Scope) -> dict[str, str]:
    return dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
