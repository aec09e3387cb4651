"""The exchange with one replica, against a peer that does exactly what each test says."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from service.transport import connect
from service.transport import exchange as exchanges
from service.transport import pool as pools
from service.transport.pool import (
    DeadlineError,
    Deadlines,
    Exchange,
    RefusedError,
    Transport,
    TransportError,
    get,
    post,
)
from tests.support.waiting import until

PATIENT = Deadlines(connect=5, first_byte=5, idle=5, total=5)
REQUEST = get("/health")
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """A server at `address` that handles every request on a connection with the same script."""

    def __init__(self, address: str, script: Handle) -> None:
        self.address, self._script = address, script
        self.writers: list[asyncio.StreamWriter] = []
        self.requests = 0
        self.left = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.requests += 1
                await self._script(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, RuntimeError):  # the last is uvloop's for what is closed
            self.left.set()
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


def saying(*pieces: bytes, end: bool = False) -> Handle:
    """A script that writes the pieces one by one, and then closes the connection if it is the end."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if end:
            writer.close()
            raise ConnectionError

    return script


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()  # until the client leaves
    raise ConnectionError


def saying_then_silent(*pieces: bytes) -> Handle:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await saying(*pieces)(reader, writer)
        await silent(reader, writer)

    return script


async def rest(exchange: Exchange) -> bytes:
    return await exchange.read_all(2**30)


async def rested(peer: Peer) -> tuple[Transport, Exchange]:
    """A pool, and its one exchange, which has read a whole answer and was given back."""
    pool = Transport()
    exchange = await pool.send(peer.address, REQUEST, PATIENT)
    assert (await exchange.head(), await rest(exchange)) == (200, b"hello")
    pool.release(peer.address, exchange)
    return pool, exchange


def test_requests_as_bytes() -> None:
    assert get("/health") == b"GET /health HTTP/1.1\r\nhost: engine\r\n\r\n"
    assert post("/v1/x", b"{}", "7") == (
        b"POST /v1/x HTTP/1.1\r\nhost: engine\r\nx-request-id: 7\r\n"
        b"content-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    )


ANSWERS: list[tuple[bytes, int, bytes, bool]] = [
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
@pytest.mark.parametrize(("answer", "status", "body", "reusable"), ANSWERS)
async def test_an_answer_in_pieces_of_any_size(
    answer: bytes, status: int, body: bytes, reusable: bool, size: int, tmp_path: Path
) -> None:
    pieces = [answer[start : start + size] for start in range(0, len(answer), size)]
    async with listening(tmp_path, saying(*pieces)) as peer:
        exchange = await Transport().send(peer.address, REQUEST, PATIENT)
        assert await exchange.head() == status
        assert await rest(exchange) == body
        assert await exchange.read() == b""
        assert exchange.reusable == reusable
        exchange.close()


async def test_a_connection_carries_one_request_after_another(tmp_path: Path) -> None:
    async with listening(tmp_path, saying(PLAIN)) as peer:
        pool = Transport()
        for turn in range(3):
            exchange = await pool.send(peer.address, REQUEST, PATIENT)
            assert exchange.reused == (turn > 0)
            assert (await exchange.head(), await rest(exchange)) == (200, b"hello")
            pool.release(peer.address, exchange)
        assert (len(peer.writers), peer.requests) == (1, 3)
        pool.close()
        await until(peer.left.is_set)


async def test_requests_at_the_same_time_have_connections_of_their_own(tmp_path: Path) -> None:
    async with listening(tmp_path, saying(PLAIN)) as peer:
        pool = Transport()
        exchanges = [await pool.send(peer.address, REQUEST, PATIENT) for _ in range(3)]
        assert [await rest(exchange) for exchange in exchanges] == [b"hello"] * 3
        for exchange in exchanges:
            pool.release(peer.address, exchange)
        again = [await pool.send(peer.address, REQUEST, PATIENT) for _ in range(3)]
        assert all(exchange.reused for exchange in again)
        assert len(peer.writers) == 3
        for exchange in again:
            exchange.close()


async def test_an_address_may_be_a_port() -> None:
    peer = Peer("", saying(PLAIN))
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    exchange = await Transport().send(address, REQUEST, PATIENT)
    assert await rest(exchange) == b"hello"
    exchange.close()
    await until(peer.left.is_set)
    server.close()


async def test_a_connection_that_must_close_is_not_used_again(tmp_path: Path) -> None:
    answer = PLAIN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with listening(tmp_path, saying(answer)) as peer:
        pool = Transport()
        for turn in range(2):
            exchange = await pool.send(peer.address, REQUEST, PATIENT)
            assert await rest(exchange) == b"hello"
            pool.release(peer.address, exchange)
            await until(peer.left.is_set)
            peer.left.clear()
            assert len(peer.writers) == turn + 1


async def test_a_connection_that_the_replica_closed_while_idle_is_not_used_again(tmp_path: Path) -> None:
    async with listening(tmp_path, saying(PLAIN)) as peer:
        pool, exchange = await rested(peer)
        peer.writers[0].close()
        await until(lambda: not exchange.reusable)
        again = await pool.send(peer.address, REQUEST, PATIENT)
        assert (await rest(again), again.reused) == (b"hello", False)
        again.close()


async def test_a_connection_idle_for_long_is_not_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(tmp_path, saying(PLAIN)) as peer:
        pool, _ = await rested(peer)
        monkeypatch.setattr(pools, "IDLE_POOL", 0.0)
        again = await pool.send(peer.address, REQUEST, PATIENT)
        assert not again.reused
        assert len(peer.writers) == 2
        again.close()
        await until(peer.left.is_set)


async def test_what_nobody_uses_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(tmp_path, saying(PLAIN)) as peer:
        pool, exchange = await rested(peer)
        pool.expire()
        assert exchange.reusable
        monkeypatch.setattr(pools, "IDLE_POOL", 0.0)
        pool.expire()
        assert not exchange.reusable
        assert pool.idle(peer.address) == 0
        await until(peer.left.is_set)


async def test_the_next_answer_has_deadlines_of_its_own(tmp_path: Path) -> None:
    turns = iter([saying(PLAIN), silent])

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await next(turns)(reader, writer)

    async with listening(tmp_path, script) as peer:
        pool, _ = await rested(peer)
        hasty = Deadlines(connect=5, first_byte=0.05, idle=5, total=5)
        again = await pool.send(peer.address, REQUEST, hasty)
        assert again.reused
        with pytest.raises(DeadlineError, match=r"no byte for 0\.05 s"):
            await again.head()


async def test_a_deadline_of_an_answer_is_none_of_the_rest_after_it(tmp_path: Path) -> None:
    async with listening(tmp_path, saying(PLAIN)) as peer:
        pool = Transport()
        hasty = Deadlines(connect=5, first_byte=0.5, idle=0.5, total=0.5, reader=0.5)
        exchange = await pool.send(peer.address, REQUEST, hasty)
        await rest(exchange)
        pool.release(peer.address, exchange)
        await until(lambda: exchange._timer is None)
        again = await pool.send(peer.address, REQUEST, PATIENT)
        assert again is exchange
        assert await rest(again) == b"hello"
        again.close()


async def test_connecting_takes_of_the_time_that_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dial = connect.dial

    async def slowly(*arguments: Any) -> None:
        await asyncio.sleep(0.1)
        await dial(*arguments)

    monkeypatch.setattr(exchanges, "dial", slowly)
    async with listening(tmp_path, saying(b"")) as peer:
        exchange = await Transport().send(peer.address, REQUEST, PATIENT, 0.3)
        assert 0.0 <= exchange._total <= 0.21
        exchange.close()


async def test_a_pooled_connection_that_closes_under_a_request(tmp_path: Path) -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if peer.requests > 1:
            raise ConnectionError
        writer.write(PLAIN)

    async with listening(tmp_path, once) as peer:
        pool, _ = await rested(peer)
        again = await pool.send(peer.address, REQUEST, PATIENT)
        assert again.reused
        with pytest.raises(TransportError, match="connection broke"):
            await again.head()
        assert not again.reusable


MALFORMED = {
    "nothing": b"",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "half a status line": b"HTTP/1.1 2",
    "no number as status": b"HTTP/1.1 abc\r\n\r\n",
    "another version": b"HTTP/9.9 200 OK\r\n\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "a head only": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    "too little": b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
    "a body without a length": b"HTTP/1.1 200 OK\r\n\r\nhello",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    "a bad chunk size": CHUNKED + b"zz\r\nhello\r\n",
    "a huge chunk size": CHUNKED + b"f" * 40 + b"\r\nhello\r\n",
    "half a chunk": CHUNKED + b"5\r\nhe",
    "no last chunk": CHUNKED + b"5\r\nhello\r\n",
    "another protocol from here on": b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello",
    "an interim answer": b"HTTP/1.1 103 Early Hints\r\n\r\n" + PLAIN,
    "a line that is no header": b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"x-more: %b\r\n" % (b"y" * 1000) * 100,
}


@pytest.mark.parametrize("size", [1, 10**6])
@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED.keys())
async def test_what_is_no_answer(answer: bytes, size: int, tmp_path: Path) -> None:
    if size == 1 and len(answer) > 1000:
        size = 100
    pieces = [answer[start : start + size] for start in range(0, len(answer), size)]
    async with listening(tmp_path, saying(*pieces, end=True)) as peer:
        pool = Transport()
        exchange = await pool.send(peer.address, REQUEST, PATIENT)
        with pytest.raises(TransportError) as caught:
            await exchange.head()
            await rest(exchange)
        assert not isinstance(caught.value, DeadlineError)
        assert peer.address not in str(caught.value)
        pool.release(peer.address, exchange)
        again = await pool.send(peer.address, REQUEST, PATIENT)
        assert not again.reused
        again.close()


async def test_an_endless_head_is_refused_before_the_connection_ends(tmp_path: Path) -> None:
    lines = [b"x-more: %b\r\n" % (b"y" * 1000)] * 100
    async with listening(tmp_path, saying_then_silent(b"HTTP/1.1 200 OK\r\n", *lines)) as peer:
        exchange = await Transport().send(peer.address, REQUEST, PATIENT)
        with pytest.raises(TransportError, match="head is longer"):
            await exchange.head()
        await until(peer.left.is_set)


async def test_a_second_answer_is_no_part_of_the_first(tmp_path: Path) -> None:
    second = PLAIN.replace(b"hello", b"other").replace(b"200", b"500")
    async with listening(tmp_path, saying(PLAIN + second)) as peer:
        pool = Transport()
        exchange = await pool.send(peer.address, REQUEST, PATIENT)
        assert (await exchange.head(), await rest(exchange)) == (200, b"hello")
        assert not exchange.reusable
        pool.release(peer.address, exchange)
        await until(peer.left.is_set)


async def test_an_answer_that_nobody_asked_for(tmp_path: Path) -> None:
    async with listening(tmp_path, saying(PLAIN)) as peer:
        pool, exchange = await rested(peer)
        peer.writers[0].write(PLAIN.replace(b"hello", b"other"))
        await until(lambda: not exchange.reusable)
        again = await pool.send(peer.address, REQUEST, PATIENT)
        assert (await rest(again), again.reused) == (b"hello", False)
        again.close()


@pytest.mark.parametrize("kind", ["no file", "no listener", "no port"])
async def test_nobody_there(kind: str, tmp_path: Path) -> None:
    address = str(tmp_path / "peer.sock")
    if kind == "no listener":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(address)
    if kind == "no port":
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(TransportError, match=r"^no connection: ") as caught:
        await Transport().send(address, REQUEST, PATIENT)
    assert not isinstance(caught.value, DeadlineError)
    assert address not in str(caught.value)


@pytest.mark.parametrize(("kind", "why"), [("port", "no connection within 0.1 s"), ("socket", "no connection: ")])
async def test_a_replica_that_accepts_no_more(kind: str, why: str, tmp_path: Path) -> None:
    """It shows on a port as silence, on a Unix socket at once."""
    path = str(tmp_path / "peer.sock")
    family, address = (socket.AF_INET, ("127.0.0.1", 0)) if kind == "port" else (socket.AF_UNIX, path)
    with socket.socket(family) as full, socket.socket(family) as first:
        full.bind(address)
        full.listen(0)
        first.connect(full.getsockname())
        there = path if kind == "socket" else f"127.0.0.1:{full.getsockname()[1]}"
        with pytest.raises(TransportError, match=f"^{why}") as caught:
            await Transport().send(there, REQUEST, Deadlines(0.1, 5, 5, 5))
        assert not isinstance(caught.value, DeadlineError)


SLOW = {
    "no answer": (Deadlines(1, 0.05, 5, 5), (), b""),
    "a head only": (Deadlines(1, 0.05, 5, 5), (CHUNKED,), b""),
    "silence within": (Deadlines(1, 60, 0.05, 60), (CHUNKED + b"5\r\nhello\r\n",), b"hello"),
    "silence within, later": (Deadlines(1, 0.1, 0.05, 60), (CHUNKED, b"2\r\nhe\r\n", b"3\r\nllo\r\n"), b"hello"),
    "no end": (Deadlines(1, 5, 5, 0.05), (CHUNKED + b"5\r\nhello\r\n",), b"hello"),
    "no end of a head": (Deadlines(1, 5, 5, 0.05), (b"HTTP/1.1 200 OK\r\n",), b""),
}


@pytest.mark.parametrize(("deadlines", "pieces", "before"), SLOW.values(), ids=SLOW.keys())
async def test_deadlines(deadlines: Deadlines, pieces: tuple[bytes, ...], before: bytes, tmp_path: Path) -> None:
    async with listening(tmp_path, saying_then_silent(*pieces)) as peer:
        exchange = await Transport().send(peer.address, REQUEST, deadlines)
        got = b""
        with pytest.raises(DeadlineError):
            async with asyncio.timeout(5):
                await exchange.head()
                while True:
                    got += await exchange.read()
        assert got == before
        await until(peer.left.is_set, "the end of the connection")


async def test_the_deadline_for_all_of_it_holds_while_bytes_arrive(tmp_path: Path) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        while True:
            writer.write(b"1\r\nx\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with listening(tmp_path, drip) as peer:
        exchange = await Transport().send(peer.address, REQUEST, Deadlines(1, 5, 5, 0.1))
        with pytest.raises(DeadlineError, match="not complete"):
            await rest(exchange)
        await until(peer.left.is_set)


async def test_no_deadline_outlives_its_answer(tmp_path: Path) -> None:
    async with listening(tmp_path, saying(PLAIN)) as peer:
        pool = Transport()
        exchange = await pool.send(peer.address, REQUEST, Deadlines(1, 0.05, 0.05, 0.05))
        assert await rest(exchange) == b"hello"
        pool.release(peer.address, exchange)
        await asyncio.sleep(0.1)  # longer than each of the deadlines, here and below
        again = await pool.send(peer.address, REQUEST, PATIENT)
        await asyncio.sleep(0.1)
        assert (again.reused, await rest(again)) == (True, b"hello")
        again.close()


class Flood:
    """A script that sends `size` bytes in chunks, and counts in `written` what the other side let it send."""

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
        """Waits until it can send no more."""
        before = -1
        while before != self.written:
            before = self.written
            await asyncio.sleep(0.1)


async def test_a_slow_reader_holds_the_sender_back(tmp_path: Path) -> None:
    flood = Flood(16 * 2**20)
    async with listening(tmp_path, flood) as peer:
        exchange = await Transport().send(peer.address, REQUEST, Deadlines(1, 0.05, 0.05, 30))
        await flood.stall()
        assert 0 < flood.written < 2 * 2**20
        await asyncio.sleep(0.2)  # the silence is the reader's, not the replica's
        assert len(await rest(exchange)) == flood.size
        assert exchange.reusable
        exchange.close()


async def test_a_reader_that_never_reads_meets_the_deadline_for_all_of_it(tmp_path: Path) -> None:
    async with listening(tmp_path, Flood(16 * 2**20)) as peer:
        exchange = await Transport().send(peer.address, REQUEST, Deadlines(1, 0.05, 0.05, 0.3))
        await until(peer.left.is_set)
        with pytest.raises(DeadlineError, match="not complete"):
            await rest(exchange)


async def test_silence_after_a_pause_is_the_replicas_again(tmp_path: Path) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"20000\r\n" + b"x" * 2**17 + b"\r\n")
        await silent(reader, writer)

    async with listening(tmp_path, script) as peer:
        exchange = await Transport().send(peer.address, REQUEST, Deadlines(1, 0.05, 0.05, 30))
        await asyncio.sleep(0.2)  # longer than the deadlines, which hold only for who reads
        got = 0
        with pytest.raises(DeadlineError, match="no byte"):
            while True:
                got += len(await exchange.read())
        assert got == 2**17
        await until(peer.left.is_set)


@pytest.mark.parametrize("pieces", [(), (CHUNKED,), (CHUNKED + b"5\r\nhello\r\n",)])
@pytest.mark.parametrize("way", ["close", "release"])
async def test_letting_go_of_an_answer_ends_its_connection(pieces: tuple[bytes, ...], way: str, tmp_path: Path) -> None:
    async with listening(tmp_path, saying_then_silent(*pieces)) as peer:
        pool = Transport()
        exchange = await pool.send(peer.address, REQUEST, PATIENT)
        await until(lambda: peer.requests == 1)
        if way == "close":
            exchange.close()
        else:
            pool.release(peer.address, exchange)
        await until(peer.left.is_set, "the end of the connection")
        with pytest.raises(TransportError):
            exchange.start(REQUEST, PATIENT)


async def test_who_waits_is_woken_when_the_exchange_is_closed(tmp_path: Path) -> None:
    async with listening(tmp_path, silent) as peer:
        exchange = await Transport().send(peer.address, REQUEST, PATIENT)
        waiting = asyncio.create_task(exchange.head())
        await until(lambda: peer.requests == 1)
        exchange.close()
        with pytest.raises(TransportError):
            await waiting


async def test_an_answer_longer_than_allowed(tmp_path: Path) -> None:
    async with listening(tmp_path, saying(PLAIN)) as peer:
        for limit in (5, 4):
            exchange = await Transport().send(peer.address, REQUEST, PATIENT)
            if limit == 5:
                assert await exchange.read_all(limit) == b"hello"
            else:
                with pytest.raises(TransportError, match="longer than 4 bytes"):
                    await exchange.read_all(limit)
            exchange.close()


def forgetful() -> tuple[Handle, list[int]]:
    """A script that answers the first request on each connection and breaks off at the second; and who asked."""
    turns: list[int] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        turns.append(id(writer))
        if turns.count(id(writer)) > 1:
            writer.transport.abort()
            raise ConnectionError
        writer.write(PLAIN)

    return script, turns


@pytest.mark.parametrize("first", ["head", "read"])
async def test_a_connection_that_died_while_idle_is_replaced(
    first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchanges, "IDLE", -1.0)
    script, turns = forgetful()
    async with listening(tmp_path, script) as peer:
        pool, _ = await rested(peer)
        again = await pool.send(peer.address, REQUEST, PATIENT)
        assert again.reused
        if first == "head":
            assert await again.head() == 200
        assert (await rest(again), again.reused, again.reusable) == (b"hello", False, True)
        assert (len(peer.writers), len(turns)) == (2, 3)
        pool.release(peer.address, again)
        pool.close()


@pytest.mark.parametrize(("idle", "at_once", "answer"), [(60.0, 5.0, b""), (-1.0, 0.0, b""), (-1.0, 5.0, b"H")])
async def test_a_connection_that_breaks_otherwise_is_not_replaced(
    idle: float, at_once: float, answer: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was used just now, one that breaks later, one that said something: the engine may have worked."""
    monkeypatch.setattr(exchanges, "IDLE", idle)
    monkeypatch.setattr(exchanges, "AT_ONCE", at_once)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(PLAIN if peer.requests == 1 else answer)
        if peer.requests > 1:
            await writer.drain()
            raise ConnectionError

    async with listening(tmp_path, script) as peer:
        pool, _ = await rested(peer)
        again = await pool.send(peer.address, REQUEST, PATIENT)
        with pytest.raises(TransportError, match="connection broke"):
            await again.head()
        assert (len(peer.writers), peer.requests) == (1, 2)


async def test_a_replica_that_died_while_its_connection_was_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchanges, "IDLE", -1.0)
    script, _ = forgetful()
    pool = Transport()
    async with listening(tmp_path, script) as peer:
        exchange = await pool.send(peer.address, REQUEST, PATIENT)
        await rest(exchange)
        pool.release(peer.address, exchange)
        Path(peer.address).unlink()  # noqa: ASYNC240  a temporary folder
        again = await pool.send(peer.address, REQUEST, PATIENT)
        with pytest.raises(TransportError, match="connection broke") as caught:
            await again.head()
        assert not isinstance(caught.value, RefusedError)


async def test_a_client_that_takes_nothing_loses_the_connection(tmp_path: Path) -> None:
    told: list[bool] = []
    async with listening(tmp_path, Flood(16 * 2**20)) as peer:
        exchange = await Transport().send(peer.address, REQUEST, Deadlines(1, 5, 5, 30, reader=0.2))
        exchange.on_slow = lambda: told.append(True)
        await until(peer.left.is_set, "the end of the connection")
        assert told == [True]
        with pytest.raises(DeadlineError, match="nobody took anything"):
            await rest(exchange)


async def test_a_client_that_does_not_take_the_end_of_an_answer(tmp_path: Path) -> None:
    told = asyncio.Event()
    async with listening(tmp_path, saying(PLAIN)) as peer:
        pool = Transport()
        exchange = await pool.send(peer.address, REQUEST, Deadlines(1, 5, 5, 30, reader=0.1))
        exchange.on_slow = told.set
        assert await exchange.read() == b"hello"
        await told.wait()
        pool.release(peer.address, exchange)
        await until(peer.left.is_set)


async def test_who_reads_slowly_but_reads_may_take_long(tmp_path: Path) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        for _ in range(20):
            writer.write(b"1\r\nx\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(b"0\r\n\r\n")

    async with listening(tmp_path, drip) as peer:
        exchange = await Transport().send(peer.address, REQUEST, Deadlines(1, 5, 5, 30, reader=0.2))
        assert await rest(exchange) == b"x" * 20
        exchange.close()
        assert peer.requests == 1


async def test_nothing_is_said_of_a_connection_that_was_released(tmp_path: Path) -> None:
    told: list[bool] = []
    async with listening(tmp_path, saying(PLAIN)) as peer:
        pool = Transport()
        exchange = await pool.send(peer.address, REQUEST, Deadlines(1, 5, 5, 30, reader=0.05))
        exchange.on_slow = lambda: told.append(True)
        assert await rest(exchange) == b"hello"
        pool.release(peer.address, exchange)
        await asyncio.sleep(0.2)  # long after the reader would have been called slow
        again = await pool.send(peer.address, REQUEST, PATIENT)
        assert (again.reused, await rest(again), told) == (True, b"hello", [])
        again.close()


async def test_what_is_left_of_a_requests_time_bounds_its_answer(tmp_path: Path) -> None:
    async with listening(tmp_path, saying_then_silent(CHUNKED + b"5\r\nhello\r\n")) as peer:
        exchange = await Transport().send(peer.address, REQUEST, PATIENT, 0.1)
        with pytest.raises(DeadlineError, match=r"not complete after 0\.\d+ s"):
            await rest(exchange)


async def test_a_refused_connection_is_told_from_others(tmp_path: Path) -> None:
    pool = Transport()
    with pytest.raises(RefusedError):
        await pool.send(str(tmp_path / "nobody.sock"), REQUEST, PATIENT)
    assert await pool.refuses(str(tmp_path / "nobody.sock"))
    async with listening(tmp_path, silent) as peer:
        assert not await pool.refuses(peer.address)
        await until(peer.left.is_set, "the end of the connection that only asked")


async def test_a_port_is_asked_whether_it_lives() -> None:
    peer = Peer("", saying(PLAIN))
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    exchange = await Transport().send(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", REQUEST, PATIENT)
    assert await rest(exchange) == b"hello"
    assert exchange._socket
    options = exchange._socket.get_extra_info("socket")
    for level, option, value in connect.KEEP_ALIVE:
        assert options.getsockopt(level, option) == value
    exchange.close()
    await until(peer.left.is_set)
    server.close()
