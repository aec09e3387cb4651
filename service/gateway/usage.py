"""`GET /v1/usage`: what a tenant has used, by columns of the usage ledger; operators see all tenants."""

import asyncio
import logging
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl

from service.auth.keys import caller_of
from service.errors import ApiError, ErrorCode
from service.fleet.fleet import Fleet
from service.observability.usage import DEFAULT_GROUPS, DEFAULT_SINCE, as_row, groups_of, read_usage, since_of
from service.protocol.request_headers import parse_headers
from service.server.asgi import Receive, Scope, Send, respond_json

T = TypeVar("T")

log = logging.getLogger("roundhouse")

PARAMETERS = ("by", "since", "tenant")


class UsageEndpoint:
    """The endpoint; `folder` is that of the ledger, None where there is none. One question is answered at a time."""

    def __init__(self, fleet: Fleet, folder: Path | None) -> None:
        self._fleet, self._folder = fleet, folder
        self._thread = ThreadPoolExecutor(1, "usage")

    def apply(self, fleet: Fleet) -> None:
        """Knows this fleet's tenants from now on."""
        self._fleet = fleet

    async def show(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers with a row for each group; raises ApiError 400, 403, 404 or 503."""
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        for name in query:
            if name not in PARAMETERS:
                text = f"There is no parameter '{name[:64]}' here: use {', '.join(PARAMETERS)}."
                raise ApiError(ErrorCode.UNKNOWN_PARAMETER, text, name[:64])
        tenant = self._tenant(scope, query.get("tenant"))
        try:
            by = groups_of(query["by"].split(",")) if "by" in query else DEFAULT_GROUPS
        except ValueError as error:
            raise _invalid("by", error) from None
        try:
            since = since_of(query.get("since", DEFAULT_SINCE), time.time())
        except ValueError as error:
            raise _invalid("since", error) from None
        if self._folder is None:
            text = "Nothing is recorded, because the service was started without ROUNDHOUSE_USAGE_DIR."
            raise ApiError(ErrorCode.UNKNOWN_URL, text)
        read = partial(read_usage, self._folder, by, since, tenant)
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, read)
        except (sqlite3.Error, OSError) as error:
            log.warning("the usage ledger cannot be read: %s", error)
            raise ApiError(ErrorCode.STORE_UNAVAILABLE, "The usage cannot be read now.", retry_after=5.0) from None
        rows = [as_row(by, one) for one in found]
        await respond_json(send, {"object": "list", "since": int(since), "by": by, "data": rows})

    def _tenant(self, scope: Scope, asked: str | None) -> str | None:
        """Whose usage the caller may see: its own tenant's, or what it asks for as an operator; None means all."""
        key, named = scope["key"], parse_headers(scope["headers"]).tenant
        own = caller_of(key, named, self._fleet.tenants).tenant.id
        scope["record"].tenant = own
        if key.operator and named is None:
            return asked
        if asked not in (None, own):
            text = f"This API key sees the usage of its own tenant, '{own}', alone."
            raise ApiError(ErrorCode.INSUFFICIENT_SCOPE, text)
        return own


def _invalid(name: str, error: ValueError) -> ApiError:
    return ApiError(ErrorCode.INVALID_VALUE, f"'{name}' is not valid: {error}.", name)
