"""What `store`, `previous_response_id` and `background` mean for a request: its history, and how it is stored."""

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from service.errors import ApiError, ErrorCode
from service.protocol import validation_errors
from service.protocol.conversation import (
    continued,
    join_event,
    new_items,
    not_found,
    references,
    split_events,
    unfinished,
    with_ids,
)
from service.protocol.requests import ResponsesRequest
from service.stored.database import Database
from service.stored.response import RUNNING, Conversation, Item, NewResponse, encode, failed
from service.stored.store import Store

POLL = 0.5  # seconds between two looks at what runs in the background
CLEAN = 600.0  # seconds between two evictions of what is too old
LOST = ApiError(ErrorCode.STORE_UNAVAILABLE, "The response could not be stored when it had ended.")
DISABLED = "nothing is stored, because the service was started without ROUNDHOUSE_RESPONSES_DIR"

Key = tuple[str, str]  # a tenant's id, and that of a response
Json = dict[str, Any]


class Continuation:
    """A request of the Responses API that needs the store, before it has become a `Call`.

    `body` is that of a request without it: the whole conversation, to which this one added `items`. `prefix_key` is
    that of the conversation, None for a new one.
    """

    def __init__(
        self, request: ResponsesRequest, body: bytes, items: list[bytes], history: Conversation | None
    ) -> None:
        self.request, self.body, self.items = request, body, items
        self.previous = history.number if history else None
        self.prefix_key = history.prefix_key if history else None

    @property
    def stores(self) -> bool:
        """Whether its response is to be stored."""
        return self.request.store is not False


class Storing:
    """The storing of one response. `background` says that it runs without its client.

    `begun` says that the store has a running response which waits for its end.
    """

    def __init__(self, store: Store, key: Key, continuation: Continuation, prefix_key: int) -> None:
        self._store, self.key, self._continuation, self._prefix_key = store, key, continuation, prefix_key
        request = continuation.request
        self.background, self._required = bool(request.background), bool(request.store or request.background)
        self._fields: Json = {
            "id": key[1],
            "previous_response_id": request.previous_response_id,
            "background": self.background,
            "metadata": request.metadata or {},
            "store": True,
        }
        self._items = [Item(*row) for row in with_ids(continuation.items, new_id)]
        self._final: tuple[bytes, Json] | None = None
        self._body: Json = {}
        self.begun = self.cancelled = False

    def watch(self, events: bytes) -> bytes:
        """Complete events of a stream as the client gets them, without the last one, which `finish_stream` sends."""
        events, final = split_events(events, self._fields)
        self._final = final or self._final
        return events

    async def finish_stream(self) -> bytes:
        """Stores what was streamed; returns the stream's last event. Raises the 503 where it had to be stored."""
        if self._final is None:
            return b""
        name, payload = self._final
        payload["response"] = await self._save(payload["response"])
        return join_event(name, payload)

    async def finish(self, body: bytes) -> bytes:
        """Stores a whole response; returns it as the client gets it. Raises the 503 where it had to be stored."""
        return encode(await self._save(json.loads(body) | self._fields))

    async def begin(self, model: str, queued: bool) -> bytes:
        """Stores a response that is going to run in the background; returns it as it is now."""
        status = "queued" if queued else "in_progress"
        self._body = unfinished(self._continuation.body, model, int(time.time()), status) | self._fields
        try:
            await self._store.run(Database.begin, self._response(self._body))
        finally:
            self.begun = True  # after an error too: it may be stored late, and must not seem to run then
        return encode(self._body)

    async def start(self) -> None:
        """A response that was queued in the background runs now. A failure of the store is no reason to stop it."""
        if self.begun and self._body["status"] == "queued":
            self._body["status"] = "in_progress"
            with suppress(ApiError):
                await self._store.run(Database.update, self._response(self._body))

    async def fail(self, error: ApiError) -> None:
        """A response that runs in the background has failed."""
        if self.begun:
            with suppress(ApiError):
                await self._end(failed(self._body, error.code, error.message))

    async def _save(self, response: Json) -> Json:
        if self.begun:
            await self._end(response)
            return response
        try:
            await self._store.run(Database.save, self._response(response))
        except ApiError:
            if self._required:
                raise
            return response | {"store": False}  # the client did not ask for it, and can see that it was not done
        return response

    async def _end(self, response: Json) -> None:
        await self._store.run(Database.update, self._response(response))
        self.begun = False

    def _response(self, body: Json) -> NewResponse:
        tenant, id = self.key
        return NewResponse(tenant, id, self._continuation.previous, self._prefix_key, body, self._items)


class StoredResponses:
    """The relay's side of the store, None where nothing is stored; `max_bytes` bounds a conversation."""

    def __init__(self, store: Store | None, max_bytes: int) -> None:
        self._store, self._max_bytes = store, max_bytes
        self._running: dict[Key, tuple[Storing, Callable[[], object]]] = {}
        self._lost: dict[Key, Storing] = {}

    def concerns(self, request: ResponsesRequest) -> bool:
        """Whether the request needs the store; raises the 400 for one that needs it where nothing is stored."""
        if self._store is not None:
            stores = request.store is not False
            return stores or request.previous_response_id is not None or bool(references(request))
        hint = None
        if request.previous_response_id is not None:
            hint = "previous_response_id", "send the whole conversation"
        elif request.background:
            hint = "background", "send the request without it, as long as it takes"
        if hint:
            raise validation_errors.unsupported_field(ResponsesRequest, hint[0], f"{DISABLED}; {hint[1]}")
        return False

    async def load(self, tenant: str, request: ResponsesRequest, body: bytes) -> Continuation:
        """The request with all that it continues and refers to. Raises ApiError: 404, 400, 413, or 503."""
        assert self._store
        history: Conversation | None = None
        if (id := request.previous_response_id) is not None:
            history = await self._store.run(Database.conversation, tenant, id, self._max_bytes, with_output=True)
            _check_history(history, id, self._max_bytes)
        ids = references(request)
        items = new_items(request, body, await self._store.run(Database.items, tenant, ids) if ids else {})
        if history or ids or request.background:
            body = continued(body, [item.body for item in history.items] if history else (), items)
        if len(body) > self._max_bytes:
            raise _too_large(self._max_bytes)
        return Continuation(request, body, items, history)

    def storing(self, tenant: str, continuation: Continuation, prefix_key: int) -> Storing | None:
        """What stores the response of a request, under a new id; None if it is not to be stored."""
        assert self._store
        if not continuation.stores:
            return None
        return Storing(self._store, (tenant, f"resp_{new_id()}"), continuation, prefix_key)

    def register(self, storing: Storing, cancel: Callable[[], object]) -> None:
        """Takes care of a response in the background; `cancel` ends it when that is asked for."""
        self._running[storing.key] = storing, cancel

    def release(self, storing: Storing) -> None:
        """The run has ended. If the store does not know how, it is told as soon as it can be."""
        if self._running.pop(storing.key, None) and storing.begun and not storing.cancelled:
            self._lost[storing.key] = storing

    async def get(self, tenant: str, id: str) -> Json:
        """A stored response; raises the 404 or the 503."""
        found = await self._opened().run(Database.get, tenant, id)
        if found is None:
            raise not_found(id)
        return found

    async def input_items(self, tenant: str, id: str) -> list[tuple[str, bytes]]:
        """All items that a stored response answers, in order, with their ids; raises the 404 or the 503."""
        found = await self._opened().run(Database.conversation, tenant, id, self._max_bytes, with_output=False)
        if found is None:
            raise not_found(id)
        return list(found.items)

    async def delete(self, tenant: str, id: str) -> None:
        """Deletes a response, and ends it if it runs; raises the 404 or the 503."""
        if not await self._opened().run(Database.delete, tenant, id):
            raise not_found(id)
        self._cancel((tenant, id))

    async def cancel(self, tenant: str, id: str) -> Json:
        """Cancels a response in the background, and returns it; one that has ended stays as it is.

        Raises the 404 or the 503, and the 400 for a response that did not run in the background.
        """
        found = await self.get(tenant, id)
        if not found.get("background"):
            text = f"'{id}' did not run in the background: only a response with background: true can be cancelled."
            raise ApiError(ErrorCode.INVALID_REQUEST, text, "response_id")
        if found["status"] in RUNNING:
            cancelled = NewResponse(tenant, id, None, 0, found | {"status": "cancelled"}, ())
            if not await self._opened().run(Database.update, cancelled):
                return await self.get(tenant, id)  # it has just ended
            self._cancel((tenant, id))
            return cancelled.body
        return found

    async def watch(self) -> None:
        """For ever: ends runs that were cancelled in another process, and evicts what is too old."""
        clean_at = 0.0
        while self._store is not None:
            with suppress(ApiError):  # counted, and tried again
                if clean_at <= time.monotonic():
                    await self._store.run(Database.clean)
                    clean_at = time.monotonic() + CLEAN
                for storing in list(self._lost.values()):
                    await storing.fail(LOST)
                    if not storing.begun:
                        del self._lost[storing.key]
                if running := [key for key, (storing, _) in self._running.items() if storing.begun]:
                    for key in await self._store.run(Database.ended, running):
                        self._cancel(key)
            await asyncio.sleep(POLL)

    async def close(self) -> None:
        """Closes the store."""
        if self._store is not None:
            await self._store.close()

    def _opened(self) -> Store:
        if self._store is None:
            raise ApiError(ErrorCode.RESPONSE_NOT_FOUND, f"This response does not exist: {DISABLED}.")
        return self._store

    def _cancel(self, key: Key) -> None:
        if found := self._running.get(key):
            storing, cancel = found
            if not storing.cancelled and storing.begun:
                storing.cancelled = True
                cancel()


def new_id() -> str:
    """An id that nobody can guess, and that no other process makes."""
    return secrets.token_hex(16)


def _check_history(history: Conversation | None, id: str, max_bytes: int) -> None:
    name = "previous_response_id"
    if history is None:
        raise not_found(id, name)
    if not history.complete:
        text = f"'{id}' continues a response that is stored no more. Send the whole conversation."
        raise ApiError(ErrorCode.RESPONSE_NOT_FOUND, text, name)
    if history.status not in ("completed", "incomplete"):
        running = history.status in RUNNING
        remedy = "wait until it has ended" if running else "continue the one before it"
        raise validation_errors.invalid_value(name, f"the response is {history.status.replace('_', ' ')}: {remedy}")
    if history.size > max_bytes:
        raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(ErrorCode.REQUEST_TOO_LARGE, f"The whole conversation is larger than {max_bytes} bytes.")
