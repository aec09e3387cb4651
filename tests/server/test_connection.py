"""The server's end of a connection: byte for byte what uvicorn's own does, and what that does not."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.server import connection as connections
from service.server.asgi import (
    EXTRA,
    ClientGoneError,
    Message,
    Receive,
    Scope,
    Send,
    UntilGone,
    extra_of,
    read_body,
    respond,
)
from service.server.connection import Connection
from tests.support.servers import serving
from tests.support.waiting import until

DATE = re.compile(rb"date: [^\r]+\r\n")


class App:
    """Answers by path; `gone` and `began` name the paths whose client left, and those that were asked for."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.headers: list[list[tuple[bytes, bytes]]] = []
        self.gone: list[str] = []
        self.drained = 0
        self.failed: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        path = scope["path"]
        self.began.append(path)
        self.headers.append(list(scope["headers"]))
        if path == "/echo":
            body = await read_body(scope, receive, 10**6, 60)
            await respond(send, 200, body or b"-", [(b"x-query", scope["query_string"])])
        elif path in ("/stream", "/a b"):
            await send({"type": "http.response.start", "status": 201, "headers": [(b"x-a", b"b")]})
            for piece in (b"one", b"", b"two"):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})
        elif path == "/last":
            await respond(send, 200, b"bye", [(b"connection", b"close")])
        elif path == "/cut":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        elif path == "/split":
            try:
                await respond(send, 200, b"", [(b"x-a", b"b\r\nx-c: d")])
            except (ValueError, RuntimeError) as error:
                self.failed = error
        elif path == "/late":
            await asyncio.sleep(0.1)
            await respond(send, 200, b"late")
        elif path == "/wait":
            while (await receive())["type"] != "http.disconnect":
                pass
            self.gone.append(path)
        elif path == "/until":
            try:
                with UntilGone(never, extra_of(scope)):
                    await asyncio.Event().wait()
            except ClientGoneError:
                self.gone.append(path)
        elif path == "/push":
            await self.push(scope, send)

    async def push(self, scope: Scope, send: Send) -> None:
        push = scope["extensions"][EXTRA].push
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(int(scope["query_string"])):
            if not push(b"x" * 2**16):
                self.drained += 1
                await send({"type": "http.response.body", "body": b"", "more_body": True})
        await send({"type": "http.response.body"})


async def never() -> Message:
    raise AssertionError("the connection tells; nobody has to listen")


@asynccontextmanager
async def listening(app: Any, protocol: Any, **options: Any) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
        async with serving(app, listener, protocol=protocol, lifespan="off", **options) as server:
            yield server, listener.getsockname()[1]
        await until(lambda: not server.server_state.connections)


async def said(port: int, text: bytes) -> bytes:
    """All that comes until the connection is closed by the other side."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text)
    found = await reader.read()
    writer.close()
    return DATE.sub(b"", found)


def request(path: str, *lines: str, method: str = "GET", version: str = "1.1", body: bytes = b"") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "host: x", *lines, "", ""]).encode() + body


CLOSE = "connection: close"
DIALOGUES = {
    "whole": request("/echo?a=b", CLOSE),
    "a body": request("/echo", CLOSE, "content-length: 3", method="POST", body=b"abc"),
    "a body in chunks": request(
        "/echo", CLOSE, "transfer-encoding: chunked", method="POST", body=b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    ),
    "100-continue": request("/echo", CLOSE, "expect: 100-continue", "content-length: 1", method="POST", body=b"a"),
    "a stream": request("/stream", CLOSE),
    "two on a connection": request("/stream") + request("/echo", CLOSE),
    "three at once": request("/echo") + request("/stream") + request("/last"),
    "HTTP/1.0": request("/echo", version="1.0"),
    "HTTP/1.0 that would stay": request("/echo", "connection: keep-alive", version="1.0"),
    "a stream in HTTP/1.0": request("/stream", version="1.0"),
    "an escaped path": request("/a%20b", CLOSE),
    "an absolute address": request("http://x/echo?q", CLOSE),
    "the app closes": request("/last"),
    "an upgrade that nobody knows": request("/echo", "connection: upgrade, close", "upgrade: h3"),
    "no HTTP": b"hello\r\n\r\n",
}


@pytest.mark.parametrize("dialogue", DIALOGUES.values(), ids=DIALOGUES.keys())
async def test_a_client_sees_what_uvicorn_s_own_would_say(dialogue: bytes) -> None:
    answers = []
    for protocol in (HttpToolsProtocol, Connection):
        async with listening(App(), protocol) as (_, port):
            answers.append(await said(port, dialogue))
    assert answers[0] == answers[1]
    assert answers[0].startswith(b"HTTP/1.1 ")


async def test_the_answer_to_head_has_no_body() -> None:
    async with listening(App(), Connection) as (_, port):
        answer = await said(port, request("/echo", CLOSE, method="HEAD"))
    assert answer.endswith(b"content-length: 1\r\nconnection: close\r\n\r\n")


async def test_the_server_s_own_app_has_its_paths_and_no_other() -> None:
    ours, theirs = App(), App()
    async with listening(theirs, partial(Connection, ours=ours, theirs=("/last",))) as (_, port):
        await said(port, request("/echo") + request("/last"))
    assert (ours.began, theirs.began) == (["/echo"], ["/last"])


async def test_head_and_first_of_the_body_are_one_packet() -> None:
    async with listening(App(), Connection) as (server, port):
        writes: list[bytes] = []
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        await until(lambda: bool(server.server_state.connections))
        [connection] = server.server_state.connections
        monitored = connection.transport
        connection.transport = Writes(monitored, writes)  # type: ignore[assignment]
        writer.write(request("/echo") + request("/stream"))
        await until(lambda: b"".join(writes).endswith(b"0\r\n\r\n"))
        writer.close()
    assert [one.rpartition(b"\r\n\r\n")[2] for one in writes[:2]] == [b"-", b"3\r\none\r\n"]


class Writes:
    """A transport that keeps what is written to it."""

    def __init__(self, transport: Any, writes: list[bytes]) -> None:
        self._transport, self._writes = transport, writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._writes.append(data)
        self._transport.write(data)


async def test_what_is_pushed_waits_for_a_client_that_is_slow() -> None:
    app = App()
    async with listening(app, Connection) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
        writer.write(request("/push?100", CLOSE))
        await until(lambda: app.drained > 0)
        assert (await reader.read()).count(b"x" * 2**16) == 100
        assert app.drained <= 100
        writer.close()


async def test_what_is_pushed_to_nobody_is_dropped() -> None:
    app = App()
    async with listening(app, Connection) as (server, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("/push?1000"))
        await until(lambda: app.drained > 0)
        writer.transport.abort()
        await until(lambda: not server.server_state.tasks)


async def test_each_request_on_a_connection_learns_that_its_client_left() -> None:
    app = App()
    async with listening(app, Connection) as (server, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("/wait") + request("/echo"))
        await until(lambda: app.began == ["/wait"])
        writer.transport.abort()
        await until(lambda: app.gone == ["/wait"])
        await until(lambda: not server.server_state.tasks)
    assert app.began == ["/wait"]


@asynccontextmanager
async def running(app: App) -> AsyncIterator[tuple[uvicorn.Server, Any, asyncio.StreamWriter]]:
    """A request that runs until its client leaves: the server, its end of the connection, and the client's."""
    async with listening(app, Connection) as (server, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("/until"))
        await until(lambda: app.began == ["/until"])
        [connection] = server.server_state.connections
        yield server, connection, writer
        writer.transport.abort()


@pytest.mark.parametrize("ahead", [0, 1, 5], ids="{} more".format)
async def test_what_runs_until_its_client_leaves_is_told(ahead: int) -> None:
    app = App()
    async with running(app) as (server, connection, writer):
        writer.write(request("/until") * ahead)
        await until(lambda: len(connection.pipeline) == ahead)
        writer.transport.abort()
        await until(lambda: app.gone == ["/until"])
        await until(lambda: not server.server_state.tasks)


async def test_so_much_is_taken_ahead_and_no_more() -> None:
    async with running(App()) as (_, connection, writer):
        for number in range(1, 11):
            writer.write(request("/until"))
            await until(lambda number=number: len(connection.pipeline) == min(number, 9))  # type: ignore[misc]
        assert connection.flow.read_paused
        connection.transport.abort()


async def test_an_answer_without_an_end_ends_with_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with listening(App(), Connection) as (_, port):
        assert (await said(port, request("/cut"))).endswith(b"\r\n\r\n4\r\nhalf\r\n")
    assert not caplog.records


async def test_no_header_becomes_two() -> None:
    app = App()
    async with listening(app, Connection) as (_, port):
        assert await said(port, request("/split")) == b""
    assert isinstance(app.failed, ValueError)


# Time and size of what is no request yet


@pytest.mark.parametrize("said_so_far", [b"", b"GET /ec", b"GET /echo HTTP/1.1\r\nhost: x\r\nx-"], ids=len)
@pytest.mark.parametrize("before", [b"", request("/echo")], ids=["at first", "after a request"])
async def test_who_does_not_say_what_they_want_is_not_waited_for(before: bytes, said_so_far: bytes) -> None:
    async with listening(App(), Connection, timeout_keep_alive=0.05) as (_, port):
        answer = await said(port, before + said_so_far)
    assert answer.count(b"HTTP/1.1 200") == (before != b"")


async def test_a_request_may_run_for_longer_than_a_connection_may_be_idle() -> None:
    async with listening(App(), Connection, timeout_keep_alive=0.02) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("/late") + request("/ec"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        await until(lambda: not server.server_state.connections)
        writer.close()


TRAILED = request("/echo", CLOSE, "transfer-encoding: chunked", method="POST", body=b"3\r\nabc\r\n0\r\n")


async def test_trailers_are_no_headers() -> None:
    app = App()
    async with listening(app, Connection) as (_, port):
        assert (await said(port, TRAILED + b"x-roundhouse-tenant: other\r\n\r\n")).endswith(b"\r\n\r\nabc")
    assert {name for name, _ in app.headers[0]} == {b"host", b"connection", b"transfer-encoding"}


@pytest.mark.parametrize("trailer", [b"x-more: " + b"y" * 2**12, b"x-more: y\r\n" * 2**9], ids=["one", "many"])
async def test_trailers_without_an_end_end_the_connection(trailer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LARGEST_HEAD", 2**12)
    async with listening(App(), Connection) as (_, port):
        assert await said(port, TRAILED + trailer) == b""


async def test_a_head_without_an_end_breaks_into_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LARGEST_HEAD", 2**12)
    async with listening(App(), Connection) as (_, port):
        assert b"431" not in await said(port, request("/late") + b"GET /echo HTTP/1.1\r\nx-more: " + b"y" * 2**12)


async def test_a_head_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LARGEST_HEAD", 2**12)
    async with listening(App(), Connection) as (_, port):
        answer = await said(port, b"GET /echo HTTP/1.1\r\nx-more: " + b"y" * 2**12)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "headers_too_large"
