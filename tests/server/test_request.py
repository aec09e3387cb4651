"""Responses that are sent through the server extension, without ASGI messages."""

import asyncio
import gc
from functools import partial

import pytest

from service.server.asgi import Headers, Receive, Scope, Send, extension_of, respond
from service.server.connection import Connection
from service.server.request import lines, shared_head
from tests.server.test_connection import CLOSE, listening, request, send_raw
from tests.support.waiting import until


class App:
    """Responds with `body` and an extra header, through the extension or, at `/asgi`, with ASGI messages."""

    def __init__(self, body: bytes = b"hello") -> None:
        self.body = body
        self.statuses: list[int] = []
        self.completed = 0

    def extra_headers(self, status: int) -> Headers:
        self.statuses.append(status)
        return [(b"x-own", b"1")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        extension = extension_of(scope)
        assert extension
        extension.extra_headers = self.extra_headers
        headers = [(b"x-a", b"b")]
        if scope["path"] == "/asgi":
            await respond(send, 404, self.body, headers)
        else:
            await extension.respond(404, headers, self.body)
        self.completed += 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_respond_equals_the_asgi_messages(method: str, version: str) -> None:
    app = App()
    async with listening(app, Connection) as (_, port):
        direct, asgi = [
            await send_raw(port, request(path, CLOSE, method=method, version=version)) for path in ("/", "/asgi")
        ]
    assert direct == asgi
    assert direct.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert b"\r\nx-own: 1\r\n" in direct
    assert direct.endswith(b"\r\n\r\nhello") == (method == "GET")
    assert app.statuses == [404, 404]


@pytest.mark.parametrize("header", [(b"x-a", b"b\r\nset-cookie: c"), (b"x-a", b"b\n"), (b"x\r", b"b")])
def test_a_header_with_a_line_break_is_never_sent(header: tuple[bytes, bytes]) -> None:
    for _ in range(2):  # nothing of the first time is kept
        for format in (lines, partial(shared_head, 200)):
            with pytest.raises(ValueError, match="line break"):
                format((header,))


@pytest.mark.parametrize("path", ["/", "/asgi"])
async def test_requests_create_no_reference_cycles(path: str) -> None:
    found = []
    async with listening(App(), Connection) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        gc.disable()
        gc.freeze()  # what there is already is not looked at, which takes a second
        try:
            for _ in range(4):  # what earlier tests left may become garbage in the first ones
                gc.collect()
                for _ in range(100):
                    writer.write(request(path))
                    assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 404")
                found.append(gc.collect())
        finally:
            gc.unfreeze()
            gc.enable()
            writer.close()
    assert min(found) < 100


async def test_responses_wait_for_a_client_that_does_not_read() -> None:
    app = App(b"x" * 2**20)
    async with listening(app, Connection) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
        writer.write(request("/") * 7 + request("/", CLOSE))
        await until(lambda: app.completed > 0)
        for _ in range(20):  # turns of the loop, in which the other responses would be completed
            await asyncio.sleep(0.01)
        assert app.completed < 8
        assert (await reader.read()).count(app.body) == 8
        writer.close()


async def test_nothing_is_sent_to_a_disconnected_client() -> None:
    app, started, proceed = App(), asyncio.Event(), asyncio.Event()

    async def delayed_app(scope: Scope, receive: Receive, send: Send) -> None:
        started.set()
        await proceed.wait()
        await app(scope, receive, send)

    async with listening(delayed_app, Connection) as (server, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("/"))
        await started.wait()
        writer.transport.abort()
        await until(lambda: not server.server_state.connections)
        proceed.set()
        await until(lambda: not server.server_state.tasks)
    assert (app.completed, app.statuses) == (1, [])
