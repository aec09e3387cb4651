"""One answer on a client's connection, sent without ASGI's messages."""

import asyncio
import gc

import pytest

from service.server.asgi import Headers, Receive, Scope, Send, extra_of, respond
from service.server.connection import Connection
from tests.server.test_connection import CLOSE, listening, request, said
from tests.support.waiting import until


class App:
    """Answers with a `body` and what its heading adds, in one call or, at `/asgi`, in messages."""

    def __init__(self, body: bytes = b"hello") -> None:
        self.body = body
        self.statuses: list[int] = []
        self.answered = 0

    def heading(self, status: int) -> Headers:
        self.statuses.append(status)
        return [(b"x-own", b"1")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        extra = extra_of(scope)
        assert extra
        extra.heading = self.heading
        headers = [(b"x-a", b"b")]
        if scope["path"] == "/asgi":
            await respond(send, 404, self.body, headers)
        else:
            await extra.answer(404, headers, self.body)
        self.answered += 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_one_call_says_what_the_messages_would(method: str, version: str) -> None:
    app = App()
    async with listening(app, Connection) as (_, port):
        one, other = [await said(port, request(path, CLOSE, method=method, version=version)) for path in ("/", "/asgi")]
    assert one == other
    assert one.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert b"\r\nx-own: 1\r\n" in one
    assert one.endswith(b"\r\n\r\nhello") == (method == "GET")
    assert app.statuses == [404, 404]


@pytest.mark.parametrize("path", ["/", "/asgi"])
async def test_a_request_leaves_nothing_to_the_garbage_collector(path: str) -> None:
    async with listening(App(), Connection) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        gc.collect()
        gc.disable()
        try:
            for _ in range(100):
                writer.write(request(path))
                assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 404")
            assert gc.collect() < 100
        finally:
            gc.enable()
        writer.close()


async def test_answers_wait_for_a_client_that_takes_none() -> None:
    app = App(b"x" * 2**20)
    async with listening(app, Connection) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
        writer.write(request("/") * 7 + request("/", CLOSE))
        await until(lambda: app.answered > 0)
        for _ in range(20):  # turns of the loop, in which the rest would be answered
            await asyncio.sleep(0.01)
        assert app.answered < 8
        assert (await reader.read()).count(app.body) == 8
        writer.close()


async def test_nobody_is_answered_who_left() -> None:
    app, began, goes_on = App(), asyncio.Event(), asyncio.Event()

    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        began.set()
        await goes_on.wait()
        await app(scope, receive, send)

    async with listening(late, Connection) as (server, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("/"))
        await began.wait()
        writer.transport.abort()
        await until(lambda: not server.server_state.connections)
        goes_on.set()
        await until(lambda: not server.server_state.tasks)
    assert (app.answered, app.statuses) == (1, [])
