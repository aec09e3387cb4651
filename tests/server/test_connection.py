"""The server side of a connection: byte for byte like uvicorn's own protocol, and the limits that we add."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.server import connection as connections
from service.server.asgi import (
    EXTENSION,
    CancelOnDisconnect,
    ClientDisconnectedError,
    Message,
    Receive,
    Scope,
    Send,
    extension_of,
    headers_by_name,
    read_body,
    respond,
)
from service.server.connection import Connection
from service.server.timeouts import ClientTimeouts
from tests.support.servers import serving
from tests.support.waiting import PATIENCE, until

DATE = re.compile(rb"date: [^\r]+\r\n")


class App:
    """Responds by path; lists the paths that were requested (`started`), and whose client left (`disconnected`)."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.headers: list[list[tuple[bytes, bytes]]] = []
        self.disconnected: list[str] = []
        self.paused = 0
        self.error: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        path = scope["path"]
        self.started.append(path)
        self.headers.append(list(scope["headers"]))
        if path == "/echo":
            assert headers_by_name(scope) == dict(scope["headers"])
            body = await read_body(scope, receive, 10**6, 60, 60)
            await respond(send, 200, body or b"-", [(b"x-query", scope["query_string"])])
        elif path in ("/stream", "/a b"):
            await send({"type": "http.response.start", "status": 201, "headers": [(b"x-a", b"b")]})
            for chunk in (b"one", b"", b"two"):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body"})
        elif path == "/close":
            await respond(send, 200, b"bye", [(b"connection", b"close")])
        elif path == "/incomplete":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        elif path == "/line-break":
            try:
                await respond(send, 200, b"", [(b"x-a", b"b\r\nx-c: d")])
            except (ValueError, RuntimeError) as error:
                self.error = error
        elif path == "/delayed":
            await asyncio.sleep(0.1)
            await respond(send, 200, b"late")
        elif path == "/receive":
            while (await receive())["type"] != "http.disconnect":
                pass
            self.disconnected.append(path)
        elif path == "/cancel":
            try:
                with CancelOnDisconnect(unused_receive, extension_of(scope)):
                    await asyncio.Event().wait()
            except ClientDisconnectedError:
                self.disconnected.append(path)
        elif path == "/write-now":
            await self.write_chunks(scope, send)
        elif path == "/chunk-writer":
            await self.write_framed(scope, send)

    async def write_chunks(self, scope: Scope, send: Send) -> None:
        write_chunks = scope["extensions"][EXTENSION].write_now
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(int(scope["query_string"])):
            if not write_chunks(b"x" * 2**16):
                self.paused += 1
                await send({"type": "http.response.body", "body": b"", "more_body": True})
        await send({"type": "http.response.body"})

    async def write_framed(self, scope: Scope, send: Send) -> None:
        full = asyncio.Event()
        offer = scope["extensions"][EXTENSION].chunk_writer
        await send({"type": "http.response.start", "status": 200, "headers": []})
        assert offer(full.set) is None  # the head has not been sent
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        write = offer(full.set)
        for _ in range(int(scope["query_string"]) if write else 0):
            write(b"10000\r\n" + b"x" * 2**16 + b"\r\n")
            if full.is_set():
                self.paused += 1
                assert offer(full.set) is None
                await send({"type": "http.response.body", "body": b"", "more_body": True})
                full.clear()
        if scope["query_string"] == b"0":
            await full.wait()
            self.disconnected.append("/chunk-writer")
        await send({"type": "http.response.body"})


async def unused_receive() -> Message:
    raise AssertionError("the extension reports the disconnect: nothing has to receive it")


@asynccontextmanager
async def listening(app: Any, protocol: Any, **options: Any) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
        async with serving(app, listener, protocol=protocol, lifespan="off", **options) as server:
            yield server, listener.getsockname()[1]
        await until(lambda: not server.server_state.connections)


async def send_raw(port: int, data: bytes) -> bytes:
    """Sends the bytes; returns all that the server sends until it closes the connection, without its date."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    received = await reader.read()
    writer.close()
    return DATE.sub(b"", received)


def request(path: str, *lines: str, method: str = "GET", version: str = "1.1", body: bytes = b"") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "host: x", *lines, "", ""]).encode() + body


CLOSE = "connection: close"
EXCHANGES = {
    "no body": request("/echo?a=b", CLOSE),
    "body": request("/echo", CLOSE, "content-length: 3", method="POST", body=b"abc"),
    "chunked body": request(
        "/echo", CLOSE, "transfer-encoding: chunked", method="POST", body=b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    ),
    "100-continue": request("/echo", CLOSE, "expect: 100-continue", "content-length: 1", method="POST", body=b"a"),
    "stream": request("/stream", CLOSE),
    "two pipelined": request("/stream") + request("/echo", CLOSE),
    "three pipelined": request("/echo") + request("/stream") + request("/close"),
    "HTTP/1.0": request("/echo", version="1.0"),
    "HTTP/1.0 keep-alive": request("/echo", "connection: keep-alive", version="1.0"),
    "escaped path": request("/a%20b", CLOSE),
    "absolute URL": request("http://x/echo?q", CLOSE),
    "the app sets connection: close": request("/close"),
    "unknown upgrade": request("/echo", "connection: upgrade, close", "upgrade: h3"),
}


@pytest.mark.parametrize("raw_request", EXCHANGES.values(), ids=EXCHANGES.keys())
async def test_responses_equal_uvicorns(raw_request: bytes) -> None:
    responses = []
    for protocol in (HttpToolsProtocol, Connection):
        async with listening(App(), protocol) as (_, port):
            responses.append(await send_raw(port, raw_request))
    assert responses[0] == responses[1]
    assert responses[0].startswith(b"HTTP/1.1 ")


BODIES = (b"one", b"", b"three", b"x" * 100_000, b"five")


def whole(data: bytes) -> list[bytes]:
    return [data]


def head_and_body(data: bytes) -> list[bytes]:
    head, end, body = data.partition(b"\r\n\r\n")
    return [head + end, body]


def small_pieces(data: bytes) -> list[bytes]:
    return [data[start : start + 7] for start in range(0, 140, 7)] + [data[140:]]


@pytest.mark.parametrize("cut", [whole, head_and_body, small_pieces])
async def test_a_head_that_came_before_is_not_parsed_again(
    cut: Callable[[bytes], list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = 0
    parse = Connection.on_headers_complete

    def counted(self: Connection) -> None:
        nonlocal parsed
        parsed += 1
        parse(self)

    monkeypatch.setattr(Connection, "on_headers_complete", counted)
    app = App()
    async with listening(app, Connection) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for body in BODIES:
            for piece in cut(request("/echo", f"content-length: {len(body)}", "x-a: b", method="POST", body=body)):
                writer.write(piece)
                await asyncio.sleep(0.001)
            head = await reader.readuntil(b"\r\n\r\n")
            size = re.search(rb"content-length: (\d+)", head)
            assert size and await reader.readexactly(int(size[1])) == (body or b"-")
        writer.close()
    assert [dict(headers)[b"content-length"] for headers in app.headers] == [b"%d" % len(body) for body in BODIES]
    assert parsed == 1 or cut is small_pieces  # a head in pieces is parsed


async def test_requests_behind_the_body_of_a_known_head_are_read() -> None:
    one = request("/echo", "content-length: 3", method="POST", body=b"abc")
    for split in range(1, 2 * len(one), 5):
        app, data = App(), one * 2 + request("/close")
        async with listening(app, Connection) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(one)
            await reader.readuntil(b"abc")
            writer.write(data[:split])
            await asyncio.sleep(0.001)
            writer.write(data[split:])
            received = await reader.read()
            writer.close()
        assert app.started == ["/echo", "/echo", "/echo", "/close"]
        assert (received.count(b"abc"), received.count(b"bye")) == (2, 1)


async def test_a_stream_of_http_1_0_ends_with_the_connection() -> None:
    async with listening(App(), Connection) as (_, port):
        response = await send_raw(port, request("/stream", "connection: keep-alive", version="1.0"))
    assert response == b"HTTP/1.1 201 Created\r\nx-a: b\r\nconnection: close\r\n\r\nonetwo"


async def test_response_to_head_has_no_body() -> None:
    async with listening(App(), Connection) as (_, port):
        response = await send_raw(port, request("/echo", CLOSE, method="HEAD"))
    assert response.endswith(b"content-length: 1\r\nconnection: close\r\n\r\n")


async def test_server_paths_go_to_the_servers_own_app() -> None:
    gateway_app, server_app = App(), App()
    protocol = partial(Connection, gateway_app=gateway_app, server_paths=("/close",))
    async with listening(server_app, protocol) as (_, port):
        await send_raw(port, request("/echo") + request("/close"))
    assert (gateway_app.started, server_app.started) == (["/echo"], ["/close"])


async def test_head_and_first_chunk_are_one_write() -> None:
    async with listening(App(), Connection) as (server, port):
        writes: list[bytes] = []
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        await until(lambda: bool(server.server_state.connections))
        [connection] = server.server_state.connections
        transport = connection.transport
        connection.transport = RecordingTransport(transport, writes)  # type: ignore[assignment]
        writer.write(request("/echo") + request("/stream"))
        await until(lambda: b"".join(writes).endswith(b"0\r\n\r\n"))
        writer.close()
    assert [write.rpartition(b"\r\n\r\n")[2] for write in writes[:2]] == [b"-", b"3\r\none\r\n"]


class RecordingTransport:
    """A transport that records what is written to it."""

    def __init__(self, transport: Any, writes: list[bytes]) -> None:
        self._transport, self._writes = transport, writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._writes.append(data)
        self._transport.write(data)


async def test_write_now_reports_backpressure() -> None:
    app = App()
    async with listening(app, Connection) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
        writer.write(request("/write-now?100", CLOSE))
        await until(lambda: app.paused > 0)
        assert (await reader.read()).count(b"x" * 2**16) == 100
        assert app.paused <= 100
        writer.close()


async def test_what_writes_whole_chunks_says_when_it_is_full() -> None:
    app = App()
    async with listening(app, Connection) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
        writer.write(request("/chunk-writer?100", CLOSE))
        await until(lambda: app.paused > 0)
        body = (await reader.read()).partition(b"\r\n\r\n")[2]
        assert body == b"5\r\nfirst\r\n" + (b"10000\r\n" + b"x" * 2**16 + b"\r\n") * 100 + b"0\r\n\r\n"
        assert 0 < app.paused <= 100
        writer.close()


async def test_what_writes_whole_chunks_says_when_the_client_has_left() -> None:
    app = App()
    async with listening(app, Connection) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("/chunk-writer?0"))
        await reader.readuntil(b"first")
        writer.transport.abort()
        await until(lambda: app.disconnected == ["/chunk-writer"])


async def test_a_client_of_http_1_0_gets_no_whole_chunks() -> None:
    async with listening(App(), Connection) as (_, port):
        response = await send_raw(port, request("/chunk-writer?3", version="1.0"))
    assert response == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nfirst"


async def test_write_now_to_a_disconnected_client_is_dropped() -> None:
    app = App()
    async with listening(app, Connection) as (server, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("/write-now?1000"))
        await until(lambda: app.paused > 0)
        writer.transport.abort()
        await until(lambda: not server.server_state.tasks)


async def test_running_request_gets_the_disconnect_when_others_are_pipelined() -> None:
    app = App()
    async with listening(app, Connection) as (server, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("/receive") + request("/echo"))
        await until(lambda: app.started == ["/receive"])
        writer.transport.abort()
        await until(lambda: app.disconnected == ["/receive"])
        await until(lambda: not server.server_state.tasks)
    assert app.started == ["/receive"]


@asynccontextmanager
async def running(app: App) -> AsyncIterator[tuple[uvicorn.Server, Any, asyncio.StreamWriter]]:
    """A request that runs until its client disconnects: the server, its connection, and the client's writer."""
    async with listening(app, Connection) as (server, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("/cancel"))
        await until(lambda: app.started == ["/cancel"])
        [connection] = server.server_state.connections
        yield server, connection, writer
        writer.transport.abort()


@pytest.mark.parametrize("pipelined", [0, 1, 5], ids="{} pipelined".format)
async def test_disconnect_cancels_the_running_request(pipelined: int) -> None:
    app = App()
    async with running(app) as (server, connection, writer):
        writer.write(request("/cancel") * pipelined)
        await until(lambda: len(connection.pipeline) == pipelined)
        writer.transport.abort()
        await until(lambda: app.disconnected == ["/cancel"])
        await until(lambda: not server.server_state.tasks)


async def test_reading_pauses_beyond_the_pipelining_limit() -> None:
    async with running(App()) as (_, connection, writer):
        for number in range(1, 11):
            writer.write(request("/cancel"))
            await until(lambda number=number: len(connection.pipeline) == min(number, 9))  # type: ignore[misc]
        assert connection.flow.read_paused
        connection.transport.abort()


async def test_incomplete_response_closes_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with listening(App(), Connection) as (_, port):
        assert (await send_raw(port, request("/incomplete"))).endswith(b"\r\n\r\n4\r\nhalf\r\n")
    assert not caplog.records


async def test_header_with_a_line_break_is_not_sent() -> None:
    app = App()
    async with listening(app, Connection) as (_, port):
        assert await send_raw(port, request("/line-break")) == b""
    assert isinstance(app.error, ValueError)


# Limits on the time and size of an incomplete request


async def connected(server: uvicorn.Server) -> Any:
    """The server's side of the one connection, once there is one."""
    await until(lambda: bool(server.server_state.connections))
    [connection] = server.server_state.connections
    return connection


def limited(**timeouts: float) -> Any:
    """The protocol with these timeouts; all others are too long for a test."""
    unlimited = {"head": 3600.0, "keep_alive": 3600.0, "write": 3600.0, "linger": 3600.0}
    return partial(Connection, timeouts=ClientTimeouts(**unlimited | timeouts))


every_first = pytest.mark.parametrize("first", [b"", request("/echo")], ids=["new connection", "after a request"])


@pytest.mark.parametrize("incomplete", [b"GET /ec", b"GET /echo HTTP/1.1\r\nhost: x\r\nx-"], ids=len)
@every_first
async def test_incomplete_head_times_out(first: bytes, incomplete: bytes) -> None:
    async with listening(App(), limited(head=0.05)) as (_, port):
        response = await send_raw(port, first + incomplete)
    assert response.count(b"HTTP/1.1 200") == (first != b"")


@every_first
async def test_idle_connection_times_out(first: bytes) -> None:
    async with listening(App(), limited(keep_alive=0.05)) as (_, port):
        response = await send_raw(port, first)
        while first and not response:  # a connection is as idle until its request has come
            response = await send_raw(port, first)
    assert response.count(b"HTTP/1.1 200") == (first != b"")


async def test_a_slow_head_is_no_idle_connection() -> None:
    async with listening(App(), limited(keep_alive=PATIENCE)) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("/echo")[:-4])
        connection = await connected(server)
        await until(lambda: connection._head_size is not None, "the beginning of the head")
        connection.loop = clock = Ahead(connection.loop)
        clock.ahead = PATIENCE + 1.0
        connection.timeout_keep_alive_handler()
        assert not connection.transport.is_closing()
        writer.write(b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n")
        writer.transport.abort()


async def test_keep_alive_timeout_spares_a_running_request() -> None:
    async with listening(App(), limited(head=0.02)) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("/delayed") + request("/ec"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        await until(lambda: not server.server_state.connections)
        writer.close()


TRAILED = request("/echo", CLOSE, "transfer-encoding: chunked", method="POST", body=b"3\r\nabc\r\n0\r\n")


async def test_trailers_are_not_added_to_the_headers() -> None:
    app = App()
    async with listening(app, Connection) as (_, port):
        assert (await send_raw(port, TRAILED + b"x-roundhouse-tenant: other\r\n\r\n")).endswith(b"\r\n\r\nabc")
    assert {name for name, _ in app.headers[0]} == {b"host", b"connection", b"transfer-encoding"}


@pytest.mark.parametrize("trailer", [b"x-more: " + b"y" * 2**12, b"x-more: y\r\n" * 2**9], ids=["one", "many"])
async def test_trailers_beyond_the_limit_close_the_connection(trailer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_HEAD_BYTES", 2**12)
    async with listening(App(), Connection) as (_, port):
        assert await send_raw(port, TRAILED + trailer) == b""


async def test_head_beyond_the_limit_gets_431_after_the_response_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_HEAD_BYTES", 2**12)
    async with listening(App(), Connection) as (_, port):
        endless_head = b"GET /echo HTTP/1.1\r\nx-more: " + b"y" * 2**12
        response = await send_raw(port, request("/delayed") + endless_head)
    first, late, second = response.partition(b"\r\n\r\nlate")
    assert first.startswith(b"HTTP/1.1 200 ") and late
    assert second.startswith(b"HTTP/1.1 431 ")


async def test_head_beyond_the_limit_gets_431(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_HEAD_BYTES", 2**12)
    async with listening(App(), Connection) as (_, port):
        response = await send_raw(port, b"GET /echo HTTP/1.1\r\nx-more: " + b"y" * 2**12)
    assert response.startswith(b"HTTP/1.1 431 ")
    assert json.loads(response.partition(b"\r\n\r\n")[2])["error"]["code"] == "headers_too_large"


# Clients that do not read


class Large:
    """Responds with as many bytes as the query says, at once."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 200, b"x" * int(scope["query_string"]))


class Ahead:
    """An event loop whose clock is `ahead` by so many seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self.ahead = loop, 0.0

    def time(self) -> float:
        return self._loop.time() + self.ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


async def unread(port: int, sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that sends this and reads nothing until it is told to; its kernel takes little for it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**12)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=client, limit=1)
    writer.write(sent)
    return reader, writer


UNREAD = {
    "a response": request("/?4000000"),
    "the last response": request("/?4000000", CLOSE),
    "pipelined responses": request("/?1000") * 4000,
    "a response to HTTP/1.0": request("/?4000000", version="1.0"),
    "behind an invalid request": request("/?4000000") + b"hello\r\n\r\n",
    "before the whole request": request("/?4000000", "content-length: 9"),
}


@pytest.mark.parametrize("sent", UNREAD.values(), ids=UNREAD.keys())
async def test_a_client_that_reads_nothing_loses_its_connection(sent: bytes) -> None:
    async with listening(Large(), limited(write=0.2)) as (server, port):
        _, writer = await unread(port, sent)
        await until(lambda: bool(server.server_state.connections))
        await until(lambda: not server.server_state.connections, "the end of the connection")
        await until(lambda: not server.server_state.tasks)
        writer.transport.abort()


async def test_a_buffer_that_empties_between_two_looks_is_progress() -> None:
    async with listening(Large(), limited()) as (server, port):
        _, writer = await unread(port, b"")
        connection = await connected(server)
        assert not connection._writing.has_stalled(1.0, 50, may_grow=False)
        connection.resume_writing()
        assert not connection._writing.has_stalled(3601.0, 50, may_grow=False)
        writer.transport.abort()


async def test_so_does_one_that_leaves_a_small_rest_unread() -> None:
    async with listening(Large(), limited(write=0.2)) as (server, port):
        _, writer = await unread(port, request("/?4000000"))
        connection = await connected(server)
        await until(lambda: connection.flow.write_paused)
        fits = 4_000_000 - connection.transport.get_write_buffer_size()  # in the kernel's buffers
        await until(lambda: not server.server_state.connections, "the end of the connection")
        writer.transport.abort()

        _, writer = await unread(port, request(f"/?{fits + 30_000}"))
        connection = await connected(server)
        await until(lambda: connection.transport.get_write_buffer_size() > 0)
        assert not connection.flow.write_paused
        await until(lambda: not server.server_state.connections, "the end of the connection")
        writer.transport.abort()


async def test_a_client_that_reads_slowly_keeps_its_connection() -> None:
    async with listening(Large(), limited(write=100.0)) as (server, port):
        reader, writer = await unread(port, request("/?4000000"))
        connection = await connected(server)
        await until(lambda: connection.flow.write_paused)
        connection.loop = clock = Ahead(connection.loop)
        for _ in range(5):
            unsent = connection.transport.get_write_buffer_size()
            while connection.transport.get_write_buffer_size() == unsent:
                await reader.read(2**12)
            clock.ahead += 90.0
            connection.timeout_keep_alive_handler()
            assert not connection.transport.is_closing()
        clock.ahead += 100.0  # in which nothing is read
        connection.timeout_keep_alive_handler()
        await until(lambda: not server.server_state.connections, "the end of the connection")
        writer.transport.abort()


# Requests that have not arrived whole when they are answered


@pytest.mark.parametrize("lines", [("content-length: 9000000",), ("transfer-encoding: chunked",)], ids=" ".join)
async def test_a_client_that_still_sends_can_read_the_response_and_is_not_reset(lines: tuple[str, ...]) -> None:
    app = App()
    async with listening(app, limited()) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("/stream", *lines, method="POST"))
        await until(lambda: app.started == ["/stream"])
        for _ in range(50):
            writer.write(b"x" * 2**16)
            await writer.drain()
        response = await reader.read()
        assert b"\r\nconnection: close\r\n" in response and response.endswith(b"0\r\n\r\n")
        writer.close()
    assert app.started == ["/stream"]


async def test_so_does_the_response_of_the_servers_own_app() -> None:
    protocol = partial(limited(), gateway_app=App(), server_paths=("/echo", "/stream"))
    async with listening(App(), protocol) as (_, port):
        expecting = request("/stream", "expect: 100-continue", "content-length: 9", method="POST")
        async with asyncio.timeout(PATIENCE):
            assert (await send_raw(port, expecting)).endswith(b"0\r\n\r\n")
        assert (await send_raw(port, request("/stream") + request("/echo", CLOSE))).count(b"HTTP/1.1 2") == 2


async def test_input_after_such_a_response_is_discarded_for_a_while_only() -> None:
    async with listening(App(), limited(linger=0.05)) as (server, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("/stream", "content-length: 9"))
        await until(lambda: bool(server.server_state.connections))
        await until(lambda: not server.server_state.connections, "the end of the connection")
        writer.transport.abort()


async def test_a_stream_of_http_1_0_that_breaks_off_is_reset() -> None:
    async with listening(App(), Connection) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("/incomplete", version="1.0"))
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.transport.abort()


async def test_write_now_to_http_1_0_sends_no_chunks() -> None:
    async with listening(App(), Connection) as (_, port):
        response = await send_raw(port, request("/write-now?2", version="1.0"))
    assert response == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + b"x" * 2**17


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("offer", ["h2c", "websocket", "TLS/1.0"])
@pytest.mark.parametrize("pieces", [1, 7, 1000])
async def test_an_offered_upgrade_is_ignored(method: str, offer: str, pieces: int) -> None:
    app, inner = App(), request("/close")
    upgrade = ("connection: Upgrade, HTTP2-Settings", f"upgrade: {offer}", "http2-settings: AAMAAABk")
    sized = request("/echo", *upgrade, f"content-length: {len(inner)}", method=method, body=inner)
    parts = request("/echo", *upgrade, "transfer-encoding: chunked", method=method)
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner)
    data = sized + parts + chunks + request("/echo", *upgrade, method=method) + request("/echo", CLOSE)
    async with listening(app, Connection) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        size = -(-len(data) // pieces)
        for begin in range(0, len(data), size):
            writer.write(data[begin : begin + size])
            await asyncio.sleep(0)
        responses = (await reader.read()).split(b"HTTP/1.1 200 OK\r\n")
        writer.close()
    assert [response.rpartition(b"\r\n\r\n")[0] != b"" for response in responses] == [False, *[True] * 4]
    assert [response.count(inner) for response in responses] == [0, 1, 1, 0, 0]
    assert app.started == ["/echo"] * 4


async def test_any_number_of_offers_may_come_at_once() -> None:
    offers = request("/echo", "connection: upgrade", "upgrade: h2c") * 3000
    async with listening(App(), Connection) as (_, port):
        assert (await send_raw(port, offers + request("/echo", CLOSE))).count(b"HTTP/1.1 200 OK\r\n") == 3001
