"""The requests of a connection share a task, and nothing else: not what cancels one of them, nor what it holds."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import uvicorn

from service.server.asgi import App as ASGIApp
from service.server.asgi import Receive, Scope, Send, respond
from service.server.connection import Connection
from tests.server.test_connection import listening, request
from tests.support.waiting import until


class Headers(list[tuple[bytes, bytes]]):
    """A list that can be referred to weakly."""


class App:
    """Answers by path; lists the tasks of its requests, and how often each had been cancelled at its beginning."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self.cancelled: list[int] = []
        self.go_on = asyncio.Event()
        self.held: list[weakref.ref[Headers]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task, path = asyncio.current_task(), scope["path"]
        assert task
        self.tasks.append(task)
        self.cancelled.append(task.cancelling())
        held = scope["held"] = Headers()
        self.held.append(weakref.ref(held))
        if path in ("/cancelled", "/too-late"):
            task.cancel()
        if path == "/cancelled":
            with suppress(asyncio.CancelledError):  # and it is never taken back
                await asyncio.sleep(0)
        if path == "/too-late":  # before Python 3.13 it is cancelled where it waits next
            task.uncancel()
        if path == "/slow":
            await asyncio.sleep(0.1)
        await respond(send, 200, path.encode())
        if path == "/goes-on":
            await self.go_on.wait()
        if path == "/fails":
            raise ValueError(path)


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def get(self, *paths: str) -> None:
        """Sends the requests at once, and reads their responses."""
        self._writer.write(b"".join(map(request, paths)))
        for path in paths:
            assert (await self._reader.readuntil(b"\r\n\r\n" + path.encode())).startswith(b"HTTP/1.1 200")


@asynccontextmanager
async def connected(app: ASGIApp) -> AsyncIterator[tuple[Client, uvicorn.Server]]:
    async with listening(app, partial(Connection, server_paths=("/probe",))) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        yield Client(reader, writer), server
        writer.close()


async def test_requests_of_a_connection_share_a_task() -> None:
    app = App()
    async with connected(app) as (client, _):
        for path in ("/", "/slow", "/", "/"):
            await client.get(path)
    assert len(set(app.tasks)) == 1
    async with connected(app) as (client, _):
        await client.get("/")
    assert len(set(app.tasks)) == 2


async def test_a_request_that_was_cancelled_is_the_last_of_its_task() -> None:
    app = App()
    async with connected(app) as (client, _):
        for path in ("/", "/cancelled", "/slow", "/too-late", "/slow", "/slow"):
            await client.get(path)
    assert app.cancelled == [0] * 6
    assert app.tasks[0] is app.tasks[1] is not app.tasks[2]


async def test_a_request_that_fails_after_its_response_is_the_last_of_its_task() -> None:
    app = App()
    async with connected(app) as (client, _):
        for path in ("/", "/fails", "/"):
            await client.get(path)
    first, failed, after = app.tasks
    assert first is failed is not after
    assert isinstance(failed.exception(), ValueError)


async def test_the_next_request_does_not_wait_for_one_that_goes_on_after_its_response() -> None:
    app = App()
    async with connected(app) as (client, server):
        for path in ("/", "/goes-on", "/slow", "/"):
            await client.get(path)
        assert server.server_state.tasks == {app.tasks[0]}
        app.go_on.set()
        await until(app.tasks[0].done)
    assert [app.tasks.index(task) for task in app.tasks] == [0, 0, 2, 2]


async def test_pipelined_requests_are_run_in_order() -> None:
    app = App()
    async with connected(app) as (client, _):
        for paths in (("/", "/slow", "/"), ("/",), ("/slow", "/", "/")):
            await client.get(*paths)
    assert len(app.tasks) == 7


async def test_a_request_behind_one_of_the_servers_own_is_run() -> None:
    app = App()
    async with connected(app) as (client, _):
        await client.get("/")
        await client.get("/probe", "/slow", "/probe", "/")
        await client.get("/")
    assert len(app.tasks) == 6


async def test_an_idle_connection_has_no_running_task_and_holds_nothing_of_its_request() -> None:
    app = App()
    async with connected(app) as (client, server):
        for path in ("/", "/", "/slow"):
            await client.get(path)
            await until(lambda: not server.server_state.tasks)
            assert app.held[-1]() is None
        assert not app.tasks[-1].done()
    await until(app.tasks[-1].done)


async def test_an_idle_task_can_be_cancelled() -> None:
    app = App()
    async with connected(app) as (client, _):
        await client.get("/")
        app.tasks[0].cancel()
        app.tasks[0].cancel()
        await client.get("/")
        await until(app.tasks[0].done)
        await client.get("/")
    assert [app.tasks.index(task) for task in app.tasks] == [0, 1, 1]


async def test_a_task_that_fails_is_gone_with_its_connection() -> None:
    """At once, not whenever garbage is collected: then what it fails of is logged in the middle of anything."""
    failed: list[weakref.ref[asyncio.Task[None]]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        failed.extend(weakref.ref(task) for task in (asyncio.current_task(),) if task)
        await respond(send, 200, scope["path"].encode())
        raise ValueError

    gc.disable()
    try:
        async with connected(app) as (client, _):
            await client.get("/")
        await until(lambda: failed[0]() is None)
    finally:
        gc.enable()
