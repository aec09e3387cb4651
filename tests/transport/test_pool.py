"""Exchanges with one replica and their connection pool, against a peer that follows the script of each test."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.transport import connect
from service.transport import exchange as exchanges
from service.transport import pool as pools
from service.transport.pool import (
    ConnectionPool,
    DeadlineError,
    Deadlines,
    Exchange,
    RefusedError,
    TransportError,
    get_request,
    post_request,
)
from tests.support.waiting import PATIENCE, until

DEADLINES = Deadlines(connect=60, first_byte=60, idle=60, total=60)
REQUEST = get_request("/health")
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """A server at `address` that runs the same script for every request on a connection."""

    def __init__(self, address: str, script: Handle) -> None:
        self.address, self._script = address, script
        self.writers: list[asyncio.StreamWriter] = []
        self.requests = 0
        self.disconnected = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.requests += 1
                await self._script(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, RuntimeError):  # the last is uvloop's, once it is closed
            self.disconnected.set()
        finally:
            writer.close()


@asynccontextmanager
async def listening(folder: Path, script: Handle) -> AsyncIterator[Peer]:
    peer = Peer(str(folder / "peer.sock"), script)
    server = await asyncio.start_unix_server(peer.serve, peer.address)
    try:
        yield peer
    finally:
        server.close()
        for writer in peer.writers:
            writer.transport.abort()
        await asyncio.sleep(0)


def respond(*chunks: bytes, end: bool = False) -> Handle:
    """A script that writes the chunks one by one, and then closes the connection if `end` is set."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(0)
        if end:
            writer.close()
            raise ConnectionError

    return script


async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()  # until the client disconnects
    raise ConnectionError


def respond_then_stall(*chunks: bytes) -> Handle:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await respond(*chunks)(reader, writer)
        await stall(reader, writer)

    return script


async def read_body(exchange: Exchange) -> bytes:
    return await exchange.read_all(2**30)


async def pooled_connection(peer: Peer) -> tuple[ConnectionPool, Exchange]:
    """A pool and its one connection, which was released after a complete response."""
    pool = ConnectionPool()
    exchange = await pool.send(peer.address, REQUEST, DEADLINES)
    assert (await exchange.head(), await read_body(exchange)) == (200, b"hello")
    pool.release(peer.address, exchange)
    return pool, exchange


def test_requests_are_serialised() -> None:
    assert get_request("/health") == b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    assert post_request("/v1/x", b"{}", "7") == (
        b"POST /v1/x HTTP/1.1\r\nhost: localhost\r\nx-request-id: 7\r\n"
        b"content-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    )


RESPONSES: list[tuple[bytes, int, bytes, bool]] = [
    (PLAIN, 200, b"hello", True),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b"", True),
    (b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy", 503, b"busy", True),
    (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    (CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", 200, b"hello", True),
    (CHUNKED + b"5;name=value\r\nhello\r\n0\r\ntrailer: yes\r\n\r\n", 200, b"hello", True),
    (CHUNKED + b"0\r\n\r\n", 200, b"", True),
    (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", False),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", False),
]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize(("response", "status", "body", "reusable"), RESPONSES)
async def test_response_is_parsed_from_chunks_of_any_size(
    response: bytes, status: int, body: bytes, reusable: bool, size: int, tmp_path: Path
) -> None:
    chunks = [response[start : start + size] for start in range(0, len(response), size)]
    async with listening(tmp_path, respond(*chunks)) as peer:
        exchange = await ConnectionPool().send(peer.address, REQUEST, DEADLINES)
        assert await exchange.head() == status
        assert await read_body(exchange) == body
        assert await exchange.read() == b""
        assert exchange.is_reusable() == reusable
        exchange.close()


async def test_connection_is_reused_for_sequential_requests(tmp_path: Path) -> None:
    async with listening(tmp_path, respond(PLAIN)) as peer:
        pool = ConnectionPool()
        for number in range(3):
            exchange = await pool.send(peer.address, REQUEST, DEADLINES)
            assert exchange.reused == (number > 0)
            assert (await exchange.head(), await read_body(exchange)) == (200, b"hello")
            pool.release(peer.address, exchange)
        assert (len(peer.writers), peer.requests) == (1, 3)
        pool.close()
        await until(peer.disconnected.is_set)


async def test_concurrent_requests_use_separate_connections(tmp_path: Path) -> None:
    async with listening(tmp_path, respond(PLAIN)) as peer:
        pool = ConnectionPool()
        exchanges = [await pool.send(peer.address, REQUEST, DEADLINES) for _ in range(3)]
        assert [await read_body(exchange) for exchange in exchanges] == [b"hello"] * 3
        for exchange in exchanges:
            pool.release(peer.address, exchange)
        again = [await pool.send(peer.address, REQUEST, DEADLINES) for _ in range(3)]
        assert all(exchange.reused for exchange in again)
        assert len(peer.writers) == 3
        for exchange in again:
            exchange.close()


async def test_address_may_be_host_and_port() -> None:
    peer = Peer("", respond(PLAIN))
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    exchange = await ConnectionPool().send(address, REQUEST, DEADLINES)
    assert await read_body(exchange) == b"hello"
    exchange.close()
    await until(peer.disconnected.is_set)
    server.close()


async def test_connection_close_prevents_reuse(tmp_path: Path) -> None:
    response = PLAIN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with listening(tmp_path, respond(response)) as peer:
        pool = ConnectionPool()
        for number in range(2):
            exchange = await pool.send(peer.address, REQUEST, DEADLINES)
            assert await read_body(exchange) == b"hello"
            pool.release(peer.address, exchange)
            await until(peer.disconnected.is_set)
            peer.disconnected.clear()
            assert len(peer.writers) == number + 1


async def test_connection_closed_by_the_replica_while_idle_is_not_reused(tmp_path: Path) -> None:
    async with listening(tmp_path, respond(PLAIN)) as peer:
        pool, exchange = await pooled_connection(peer)
        peer.writers[0].close()
        await until(lambda: not exchange.is_reusable())
        again = await pool.send(peer.address, REQUEST, DEADLINES)
        assert (await read_body(again), again.reused) == (b"hello", False)
        again.close()


async def test_connection_idle_beyond_the_timeout_is_not_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(tmp_path, respond(PLAIN)) as peer:
        pool, _ = await pooled_connection(peer)
        monkeypatch.setattr(pools, "IDLE_TIMEOUT", 0.0)
        again = await pool.send(peer.address, REQUEST, DEADLINES)
        assert not again.reused
        assert len(peer.writers) == 2
        again.close()
        await until(peer.disconnected.is_set)


async def test_expire_closes_connections_idle_beyond_the_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(tmp_path, respond(PLAIN)) as peer:
        pool, exchange = await pooled_connection(peer)
        pool.expire()
        assert exchange.is_reusable()
        monkeypatch.setattr(pools, "IDLE_TIMEOUT", 0.0)
        pool.expire()
        assert not exchange.is_reusable()
        assert pool.idle(peer.address) == 0
        await until(peer.disconnected.is_set)


async def test_each_exchange_on_a_connection_has_its_own_deadlines(tmp_path: Path) -> None:
    scripts = iter([respond(PLAIN), stall])

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await next(scripts)(reader, writer)

    async with listening(tmp_path, script) as peer:
        pool, _ = await pooled_connection(peer)
        short = Deadlines(connect=5, first_byte=0.05, idle=5, total=5)
        again = await pool.send(peer.address, REQUEST, short)
        assert again.reused
        with pytest.raises(DeadlineError, match=r"no byte for 0\.05 s"):
            await again.head()


async def test_deadlines_do_not_apply_to_an_idle_connection(tmp_path: Path) -> None:
    async with listening(tmp_path, respond(PLAIN)) as peer:
        pool = ConnectionPool()
        short = Deadlines(connect=5, first_byte=0.5, idle=0.5, total=0.5, client_write=0.5)
        exchange = await answered_in_time(pool, peer, short)
        await until(lambda: exchange._timer is None)
        again = await pool.send(peer.address, REQUEST, DEADLINES)
        assert again is exchange
        assert await read_body(again) == b"hello"
        again.close()


async def test_connecting_counts_towards_the_remaining_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dial = connect.dial

    async def slowly(*arguments: Any) -> None:
        await asyncio.sleep(0.1)
        await dial(*arguments)

    monkeypatch.setattr(exchanges, "dial", slowly)
    async with listening(tmp_path, respond(b"")) as peer:
        exchange = await ConnectionPool().send(peer.address, REQUEST, replace(DEADLINES, total=3600), 600)
        assert 0.0 <= exchange._total_timeout <= 599.91
        exchange.close()


async def test_pooled_connection_that_breaks_during_a_request_is_an_error(tmp_path: Path) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if peer.requests > 1:
            raise ConnectionError
        writer.write(PLAIN)

    async with listening(tmp_path, script) as peer:
        pool, _ = await pooled_connection(peer)
        again = await pool.send(peer.address, REQUEST, DEADLINES)
        assert again.reused
        with pytest.raises(TransportError, match="connection broke"):
            await again.head()
        assert not again.is_reusable()


MALFORMED = {
    "empty": b"",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "incomplete status line": b"HTTP/1.1 2",
    "non-numeric status": b"HTTP/1.1 abc\r\n\r\n",
    "unknown version": b"HTTP/9.9 200 OK\r\n\r\n",
    "incomplete head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "head only": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    "short body": b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
    "body without length": b"HTTP/1.1 200 OK\r\n\r\nhello",
    "conflicting lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    "bad chunk size": CHUNKED + b"zz\r\nhello\r\n",
    "huge chunk size": CHUNKED + b"f" * 40 + b"\r\nhello\r\n",
    "incomplete chunk": CHUNKED + b"5\r\nhe",
    "no last chunk": CHUNKED + b"5\r\nhello\r\n",
    "protocol upgrade": b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello",
    "interim response": b"HTTP/1.1 103 Early Hints\r\n\r\n" + PLAIN,
    "malformed header": b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
    "endless head": b"HTTP/1.1 200 OK\r\n" + b"x-more: %b\r\n" % (b"y" * 1000) * 100,
}


@pytest.mark.parametrize("size", [1, 10**6])
@pytest.mark.parametrize("response", MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_response_is_a_transport_error(response: bytes, size: int, tmp_path: Path) -> None:
    if size == 1 and len(response) > 1000:
        size = 100
    chunks = [response[start : start + size] for start in range(0, len(response), size)]
    async with listening(tmp_path, respond(*chunks, end=True)) as peer:
        pool = ConnectionPool()
        exchange = await pool.send(peer.address, REQUEST, DEADLINES)
        with pytest.raises(TransportError) as caught:
            await exchange.head()
            await read_body(exchange)
        assert not isinstance(caught.value, DeadlineError)
        assert peer.address not in str(caught.value)
        pool.release(peer.address, exchange)
        again = await pool.send(peer.address, REQUEST, DEADLINES)
        assert not again.reused
        again.close()


async def test_response_head_beyond_the_limit_is_an_error(tmp_path: Path) -> None:
    lines = [b"x-more: %b\r\n" % (b"y" * 1000)] * 100
    async with listening(tmp_path, respond_then_stall(b"HTTP/1.1 200 OK\r\n", *lines)) as peer:
        exchange = await ConnectionPool().send(peer.address, REQUEST, DEADLINES)
        with pytest.raises(TransportError, match="head is longer"):
            await exchange.head()
        await until(peer.disconnected.is_set)


async def test_second_response_is_not_added_to_the_first(tmp_path: Path) -> None:
    second = PLAIN.replace(b"hello", b"other").replace(b"200", b"500")
    async with listening(tmp_path, respond(PLAIN + second)) as peer:
        pool = ConnectionPool()
        exchange = await pool.send(peer.address, REQUEST, DEADLINES)
        assert (await exchange.head(), await read_body(exchange)) == (200, b"hello")
        assert not exchange.is_reusable()
        pool.release(peer.address, exchange)
        await until(peer.disconnected.is_set)


async def test_unsolicited_response_prevents_reuse(tmp_path: Path) -> None:
    async with listening(tmp_path, respond(PLAIN)) as peer:
        pool, exchange = await pooled_connection(peer)
        peer.writers[0].write(PLAIN.replace(b"hello", b"other"))
        await until(lambda: not exchange.is_reusable())
        again = await pool.send(peer.address, REQUEST, DEADLINES)
        assert (await read_body(again), again.reused) == (b"hello", False)
        again.close()


@pytest.mark.parametrize("kind", ["no file", "no listener", "no listener at a port"])
async def test_refused_connection_is_a_transport_error(kind: str, tmp_path: Path) -> None:
    address = str(tmp_path / "peer.sock")
    if kind == "no listener":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(address)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and does not listen: nobody else gets the port meanwhile
        if kind == "no listener at a port":
            address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(TransportError, match=r"^no connection: ") as caught:
            await ConnectionPool().send(address, REQUEST, DEADLINES)
    assert not isinstance(caught.value, DeadlineError)
    assert address not in str(caught.value)


@pytest.mark.parametrize(("kind", "why"), [("port", "no connection within 0.1 s"), ("socket", "no connection: ")])
async def test_full_accept_queue_is_a_transport_error(kind: str, why: str, tmp_path: Path) -> None:
    """A full TCP queue shows as a timeout, a full Unix socket as an error."""
    path = str(tmp_path / "peer.sock")
    family, address = (socket.AF_INET, ("127.0.0.1", 0)) if kind == "port" else (socket.AF_UNIX, path)
    with socket.socket(family) as full, socket.socket(family) as first:
        full.bind(address)
        full.listen(0)
        first.connect(full.getsockname())
        target = path if kind == "socket" else f"127.0.0.1:{full.getsockname()[1]}"
        with pytest.raises(TransportError, match=f"^{why}") as caught:
            await ConnectionPool().send(target, REQUEST, Deadlines(0.1, 5, 5, 5))
        assert not isinstance(caught.value, DeadlineError)


SLOW = {
    "no response": (Deadlines(60, 0.05, 60, 60), (), b""),
    "head only": (Deadlines(60, 0.05, 60, 60), (CHUNKED,), b""),
    "gap in the body": (Deadlines(60, 60, 0.05, 60), (CHUNKED + b"5\r\nhello\r\n",), b"hello"),
    "later gap in the body": (Deadlines(60, 60, 0.05, 60), (CHUNKED, b"2\r\nhe\r\n", b"3\r\nllo\r\n"), b"hello"),
    "incomplete body": (Deadlines(60, 60, 60, 0.05), (CHUNKED + b"5\r\nhello\r\n",), b"hello"),
    "incomplete head": (Deadlines(60, 60, 60, 0.05), (b"HTTP/1.1 200 OK\r\n",), b""),
}


@pytest.mark.parametrize(("deadlines", "chunks", "before"), SLOW.values(), ids=SLOW.keys())
async def test_exceeded_deadline_is_a_deadline_error(
    deadlines: Deadlines, chunks: tuple[bytes, ...], before: bytes, tmp_path: Path
) -> None:
    async with listening(tmp_path, respond_then_stall(*chunks)) as peer:
        received = b"-"
        while received != before:  # less has come if this process stood still meanwhile
            assert before.startswith(received) or received == b"-"
            exchange, received = await ConnectionPool().send(peer.address, REQUEST, deadlines), b""
            with pytest.raises(DeadlineError):
                async with asyncio.timeout(PATIENCE):
                    await exchange.head()
                    while True:
                        received += await exchange.read()
        await until(peer.disconnected.is_set, "the end of the connection")


async def test_total_deadline_applies_while_bytes_arrive(tmp_path: Path) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        while True:
            writer.write(b"1\r\nx\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with listening(tmp_path, drip) as peer:
        exchange = await ConnectionPool().send(peer.address, REQUEST, Deadlines(60, 60, 60, 0.1))
        with pytest.raises(DeadlineError, match="not complete"):
            await read_body(exchange)
        await until(peer.disconnected.is_set)


async def answered_in_time(pool: ConnectionPool, peer: Peer, deadlines: Deadlines) -> Exchange:
    """A connection that was released after a response which came within the deadlines, if not at the first attempt."""
    while True:
        exchange = await pool.send(peer.address, REQUEST, deadlines)
        try:
            assert await read_body(exchange) == b"hello"
        except DeadlineError:  # this process stood still meanwhile
            continue
        finally:
            pool.release(peer.address, exchange)
        return exchange


def hurry(exchange: Exchange, idle: float) -> None:
    """Shortens or lengthens its idle deadline from now on."""
    exchange._deadlines = replace(exchange._deadlines, idle=idle)
    exchange._read_timeout = idle
    exchange._set_timer(idle)


async def test_deadlines_end_with_the_exchange(tmp_path: Path) -> None:
    async with listening(tmp_path, respond(PLAIN)) as peer:
        pool = ConnectionPool()
        await answered_in_time(pool, peer, Deadlines(60, 0.05, 0.05, 0.05))
        await asyncio.sleep(0.1)  # longer than each of the deadlines, here and below
        again = await pool.send(peer.address, REQUEST, DEADLINES)
        await asyncio.sleep(0.1)
        assert (again.reused, await read_body(again)) == (True, b"hello")
        again.close()


class Flood:
    """A script that sends `size` bytes in chunks; `written` counts those that backpressure let it send."""

    def __init__(self, size: int) -> None:
        self.size, self.written = size, 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(high=0)
        writer.write(CHUNKED)
        while self.written < self.size:
            writer.write(b"4000\r\n" + b"x" * 2**14 + b"\r\n")
            await writer.drain()
            self.written += 2**14
        writer.write(b"0\r\n\r\n")

    async def stall(self) -> None:
        """Waits until backpressure stops it."""
        before = -1
        while before != self.written:
            before = self.written
            await asyncio.sleep(0.1)


async def test_slow_reader_causes_backpressure(tmp_path: Path) -> None:
    flood = Flood(16 * 2**20)
    async with listening(tmp_path, flood) as peer:
        exchange = await ConnectionPool().send(peer.address, REQUEST, Deadlines(60, 60, 60, 60))
        await until(lambda: exchange._paused)
        await flood.stall()
        assert 0 < flood.written < 2 * 2**20
        hurry(exchange, 0.05)
        await asyncio.sleep(0.2)  # no idle timeout: the reader is the slow side
        hurry(exchange, 60)
        assert len(await read_body(exchange)) == flood.size
        assert exchange.is_reusable()
        exchange.close()


async def test_reader_that_never_reads_exceeds_the_total_deadline(tmp_path: Path) -> None:
    async with listening(tmp_path, Flood(16 * 2**20)) as peer:
        exchange = await ConnectionPool().send(peer.address, REQUEST, Deadlines(60, 60, 60, 0.3))
        await until(peer.disconnected.is_set)
        with pytest.raises(DeadlineError, match="not complete"):
            await read_body(exchange)


async def test_idle_deadline_applies_again_after_backpressure(tmp_path: Path) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"20000\r\n" + b"x" * 2**17 + b"\r\n")
        await stall(reader, writer)

    async with listening(tmp_path, script) as peer:
        exchange = await ConnectionPool().send(peer.address, REQUEST, Deadlines(60, 60, 60, 60))
        await until(lambda: exchange._paused)
        hurry(exchange, 0.05)
        await asyncio.sleep(0.2)  # longer than the deadline, which applies only while somebody reads
        hurry(exchange, 60)
        received = 0
        while received < 2**17:
            received += len(await exchange.read())
        hurry(exchange, 0.05)
        with pytest.raises(DeadlineError, match="no byte"):
            await exchange.read()
        await until(peer.disconnected.is_set)


@pytest.mark.parametrize("chunks", [(), (CHUNKED,), (CHUNKED + b"5\r\nhello\r\n",)])
@pytest.mark.parametrize("action", ["close", "release"])
async def test_abandoned_response_closes_the_connection(chunks: tuple[bytes, ...], action: str, tmp_path: Path) -> None:
    async with listening(tmp_path, respond_then_stall(*chunks)) as peer:
        pool = ConnectionPool()
        exchange = await pool.send(peer.address, REQUEST, DEADLINES)
        await until(lambda: peer.requests == 1)
        if action == "close":
            exchange.close()
        else:
            pool.release(peer.address, exchange)
        await until(peer.disconnected.is_set, "the end of the connection")
        with pytest.raises(TransportError):
            exchange.start(REQUEST, DEADLINES)


async def test_close_wakes_a_waiting_reader(tmp_path: Path) -> None:
    async with listening(tmp_path, stall) as peer:
        exchange = await ConnectionPool().send(peer.address, REQUEST, DEADLINES)
        waiting = asyncio.create_task(exchange.head())
        await until(lambda: peer.requests == 1)
        exchange.close()
        with pytest.raises(TransportError):
            await waiting


async def test_read_all_rejects_a_body_beyond_the_limit(tmp_path: Path) -> None:
    async with listening(tmp_path, respond(PLAIN)) as peer:
        for limit in (5, 4):
            exchange = await ConnectionPool().send(peer.address, REQUEST, DEADLINES)
            if limit == 5:
                assert await exchange.read_all(limit) == b"hello"
            else:
                with pytest.raises(TransportError, match="longer than 4 bytes"):
                    await exchange.read_all(limit)
            exchange.close()


def drops_second_request() -> tuple[Handle, list[int]]:
    """A script that answers the first request on each connection and aborts at the second; and its requests so far."""
    requests: list[int] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(id(writer))
        if requests.count(id(writer)) > 1:
            writer.transport.abort()
            raise ConnectionError
        writer.write(PLAIN)

    return script, requests


@pytest.mark.parametrize("first", ["head", "read"])
async def test_stale_connection_is_replaced(first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "STALE_AFTER", -1.0)
    monkeypatch.setattr(exchanges, "STALE_RESET_WITHIN", 3600.0)
    script, requests = drops_second_request()
    async with listening(tmp_path, script) as peer:
        pool, _ = await pooled_connection(peer)
        again = await pool.send(peer.address, REQUEST, DEADLINES)
        assert again.reused
        if first == "head":
            assert await again.head() == 200
        assert (await read_body(again), again.reused, again.is_reusable()) == (b"hello", False, True)
        assert (len(peer.writers), len(requests)) == (2, 3)
        pool.release(peer.address, again)
        pool.close()


@pytest.mark.parametrize(
    ("stale_after", "reset_within", "response"), [(3600.0, 3600.0, b""), (-1.0, 0.0, b""), (-1.0, 3600.0, b"H")]
)
async def test_broken_connection_that_is_not_stale_is_not_replaced(
    stale_after: float, reset_within: float, response: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was used just now, or breaks later, or sent a byte: the engine may have seen the request."""
    monkeypatch.setattr(exchanges, "STALE_AFTER", stale_after)
    monkeypatch.setattr(exchanges, "STALE_RESET_WITHIN", reset_within)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(PLAIN if peer.requests == 1 else response)
        if peer.requests > 1:
            await writer.drain()
            raise ConnectionError

    async with listening(tmp_path, script) as peer:
        pool, _ = await pooled_connection(peer)
        again = await pool.send(peer.address, REQUEST, DEADLINES)
        with pytest.raises(TransportError, match="connection broke"):
            await again.head()
        assert (len(peer.writers), peer.requests) == (1, 2)


async def test_stale_connection_to_a_dead_replica_reports_the_break(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchanges, "STALE_AFTER", -1.0)
    monkeypatch.setattr(exchanges, "STALE_RESET_WITHIN", 3600.0)
    script, _ = drops_second_request()
    pool = ConnectionPool()
    async with listening(tmp_path, script) as peer:
        exchange = await pool.send(peer.address, REQUEST, DEADLINES)
        await read_body(exchange)
        pool.release(peer.address, exchange)
        Path(peer.address).unlink()  # noqa: ASYNC240  a temporary folder
        again = await pool.send(peer.address, REQUEST, DEADLINES)
        with pytest.raises(TransportError, match="connection broke") as caught:
            await again.head()
        assert not isinstance(caught.value, RefusedError)


async def test_reader_that_takes_nothing_loses_the_connection(tmp_path: Path) -> None:
    timeouts: list[bool] = []
    async with listening(tmp_path, Flood(16 * 2**20)) as peer:
        exchange = await ConnectionPool().send(peer.address, REQUEST, Deadlines(60, 60, 60, 60, client_write=0.2))
        exchange.on_client_timeout = lambda: timeouts.append(True)
        await until(peer.disconnected.is_set, "the end of the connection")
        assert timeouts == [True]
        with pytest.raises(DeadlineError, match=r"^the response was not read for 0\.2 s$"):
            await read_body(exchange)


async def test_client_write_timeout_applies_to_a_complete_response(tmp_path: Path) -> None:
    timeouts = asyncio.Event()
    async with listening(tmp_path, respond(PLAIN)) as peer:
        pool = ConnectionPool()
        exchange = await pool.send(peer.address, REQUEST, Deadlines(60, 60, 60, 60, client_write=0.1))
        exchange.on_client_timeout = timeouts.set
        assert await exchange.read() == b"hello"
        await timeouts.wait()
        pool.release(peer.address, exchange)
        await until(peer.disconnected.is_set)


async def test_slow_but_steady_reader_does_not_time_out(tmp_path: Path) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        for _ in range(20):
            writer.write(b"1\r\nx\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(b"0\r\n\r\n")

    async with listening(tmp_path, drip) as peer:
        exchange = await ConnectionPool().send(peer.address, REQUEST, Deadlines(60, 60, 60, 60, client_write=0.2))
        assert await read_body(exchange) == b"x" * 20
        exchange.close()
        assert peer.requests == 1


async def test_released_connection_has_no_client_write_timeout(tmp_path: Path) -> None:
    timeouts: list[bool] = []
    async with listening(tmp_path, respond(PLAIN)) as peer:
        pool = ConnectionPool()
        exchange = await pool.send(peer.address, REQUEST, Deadlines(60, 60, 60, 60, client_write=0.05))
        exchange.on_client_timeout = lambda: timeouts.append(True)
        assert await read_body(exchange) == b"hello"
        pool.release(peer.address, exchange)
        await asyncio.sleep(0.2)  # longer than the client's write timeout
        again = await pool.send(peer.address, REQUEST, DEADLINES)
        assert (again.reused, await read_body(again), timeouts) == (True, b"hello", [])
        again.close()


async def test_remaining_time_bounds_the_response(tmp_path: Path) -> None:
    async with listening(tmp_path, respond_then_stall(CHUNKED + b"5\r\nhello\r\n")) as peer:
        exchange = await ConnectionPool().send(peer.address, REQUEST, DEADLINES, 30)
        assert await exchange.read() == b"hello"
        assert 20 < exchange._total_timeout <= 30  # less the time for connecting
        exchange._total_timeout = 0.1
        exchange._set_timer(0.1)
        with pytest.raises(DeadlineError, match=r"not complete after 0\.\d+ s"):
            await read_body(exchange)


async def test_refused_connection_is_distinguished_from_other_failures(tmp_path: Path) -> None:
    pool = ConnectionPool()
    with pytest.raises(RefusedError):
        await pool.send(str(tmp_path / "missing.sock"), REQUEST, DEADLINES)
    assert await pool.refuses(str(tmp_path / "missing.sock"))
    async with listening(tmp_path, stall) as peer:
        assert not await pool.refuses(peer.address)
        await until(peer.disconnected.is_set, "the end of the probing connection")


async def test_tcp_connections_use_keepalive() -> None:
    peer = Peer("", respond(PLAIN))
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    exchange = await ConnectionPool().send(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", REQUEST, DEADLINES)
    assert await read_body(exchange) == b"hello"
    assert exchange._socket
    options = exchange._socket.get_extra_info("socket")
    for level, option, value in connect.KEEP_ALIVE:
        assert options.getsockopt(level, option) == value
    exchange.close()
    await until(peer.disconnected.is_set)
    server.close()


# Chunks that are passed on unparsed


class Steps:
    """A script that sends each piece once the one before has been received, as `received` says."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces, self.sent, self.received = pieces, 0, 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in self.pieces:
            await until(lambda: self.received == self.sent)
            self.sent += 1
            writer.write(piece)


async def streamed(steps: Steps, folder: Path, taken: Callable[[bytes], bytes | None]) -> tuple[list[str], list[bytes]]:
    """What was called, in order, and all that was passed on; a pipe that has written an exclamation mark is full."""
    called: list[str] = []
    passed: list[bytes] = []
    async with listening(folder, steps) as peer:
        pool = ConnectionPool()
        exchange = await pool.send(peer.address, REQUEST, DEADLINES)

        def take(chunk: bytes, now: float) -> bytes | None:
            assert now == 7.0
            called.append("take")
            return taken(chunk)

        def write(chunk: bytes) -> None:
            called.append("write")
            passed.append(chunk)
            steps.received += 1
            if chunk.endswith(b"!\r\n"):
                exchange.hold()

        def sink(data: bytes) -> bool:
            called.append("sink")
            passed.append(data)
            steps.received += 1
            return True

        async def flush() -> None:
            called.append("flush")

        await exchange.head()
        steps.received += 1
        if last := await exchange.stream_to(sink, flush, (take, write, lambda: 7.0)):
            called.append("last")
            passed.append(last)
        assert exchange.is_reusable()
        pool.release(peer.address, exchange)
        pool.close()
    return called, passed


async def test_chunks_between_two_others_are_offered_to_the_pipe(tmp_path: Path) -> None:
    pieces = b"3\r\none\r\n", b"3\r\ntwo\r\n", b"4\r\nfour\r\n", b"4\r\nfive\r\n", b"0\r\n\r\n"
    called, passed = await streamed(
        Steps(CHUNKED, *pieces), tmp_path, lambda chunk: chunk if b"four" in chunk else None
    )
    assert called == ["sink", "take", "sink", "take", "write", "take", "sink", "take"]
    assert passed == [b"one", b"two", pieces[2], b"five"]


async def test_what_arrives_with_the_end_is_returned(tmp_path: Path) -> None:
    called, passed = await streamed(
        Steps(CHUNKED, b"3\r\none\r\n", b"3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n"), tmp_path, lambda chunk: None
    )
    assert (called, passed) == (["sink", "take", "last"], [b"one", b"twothree"])


async def test_what_begins_within_a_chunk_is_not_offered_to_the_pipe(tmp_path: Path) -> None:
    # All but the first look like whole chunks or like the end of one.
    pieces = b"a\r\n5\r\nab\r\n", b"5\r\n\r\n", b"5\r\nhello\r\n5", b"\r\nworld\r\n", b"0\r\n\r\n"
    offered: list[bytes] = []
    _, passed = await streamed(Steps(CHUNKED, *pieces), tmp_path, lambda chunk: offered.append(chunk))
    assert b"".join(passed) == b"5\r\nab\r\n5\r\nhelloworld"
    assert offered == [pieces[2], pieces[4]]


async def test_a_pipe_that_is_full_is_flushed_before_the_next_chunk(tmp_path: Path) -> None:
    pieces = b"3\r\none\r\n", b"4\r\ntwo!\r\n", b"5\r\nthree\r\n", b"0\r\n\r\n"
    called, passed = await streamed(
        Steps(CHUNKED, *pieces), tmp_path, lambda chunk: chunk if chunk[:1] != b"0" else None
    )
    assert called == ["sink", "take", "write", "flush", "take", "write", "take"]
    assert passed == [b"one", *pieces[1:3]]


async def test_what_a_pipe_raises_is_raised_from_the_stream(tmp_path: Path) -> None:
    def taken(chunk: bytes) -> bytes | None:
        raise LookupError(chunk)

    with pytest.raises(LookupError):
        await streamed(Steps(CHUNKED, b"3\r\none\r\n", b"3\r\ntwo\r\n"), tmp_path, taken)


async def test_the_idle_deadline_counts_from_the_last_chunk_that_was_passed_on(tmp_path: Path) -> None:
    async with listening(tmp_path, respond_then_stall(CHUNKED, b"3\r\none\r\n", b"3\r\ntwo\r\n")) as peer:
        exchange = await ConnectionPool().send(peer.address, REQUEST, Deadlines(5, 5, 0.05, 5))
        pipe = (lambda chunk, now: chunk, lambda chunk: None, asyncio.get_running_loop().time)

        async def flush() -> None:
            raise AssertionError("nothing is full")

        with pytest.raises(DeadlineError, match=r"no byte for 0\.05 s"):
            await exchange.stream_to(lambda data: True, flush, pipe)
