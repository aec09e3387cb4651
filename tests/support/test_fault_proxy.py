"""The fault proxy: the effect of each fault on open and on new connections."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.fault_proxy import PACE, PASS, FaultProxy, Trouble
from tests.support.waiting import EARLY, PATIENCE, until

BREAKS = (ConnectionResetError, BrokenPipeError)
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Echo:
    """An engine that says back what it hears. `heard` is all of it; `ends` counts the connections that ended."""

    heard: bytearray = field(default_factory=bytearray)
    begun: int = 0
    ends: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.begun += 1
        try:
            while data := await reader.read(2**16):
                self.heard += data
                writer.write(data)
                await writer.drain()
        except BREAKS:
            pass
        finally:
            self.ends += 1
            writer.close()


@dataclass
class Bench:
    """An engine, the proxy before it, and clients of the proxy."""

    echo: Echo
    proxy: FaultProxy
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self) -> Streams:
        if self.proxy.address.startswith("/"):
            streams = await asyncio.open_unix_connection(self.proxy.address)
        else:
            host, port = self.proxy.address.rsplit(":", 1)
            streams = await asyncio.open_connection(host, int(port))
        self.writers.append(streams[1])
        return streams

    async def talking(self) -> Streams:
        """A connection on which a word has gone through."""
        reader, writer = await self.connect()
        assert await said((reader, writer), b"hello") == b"hello"
        return reader, writer


async def said(streams: Streams, words: bytes) -> bytes:
    """What comes back for some words."""
    reader, writer = streams
    writer.write(words)
    async with asyncio.timeout(PATIENCE):
        return await reader.readexactly(len(words))


async def ended(reader: asyncio.StreamReader) -> bool:
    """Waits for the end of a connection; whether it was a reset."""
    async with asyncio.timeout(PATIENCE):
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            return True
        return False


@asynccontextmanager
async def standing(folder: Path, before: str, behind: str) -> AsyncIterator[Bench]:
    echo = Echo()
    async with AsyncExitStack() as stack:
        if behind == "unix":
            server = await asyncio.start_unix_server(echo.serve, folder / "engine.sock")
            engine = str(folder / "engine.sock")
        else:
            server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
            engine = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await stack.enter_async_context(server)
        at: Path | int = folder / "proxy.sock" if before == "unix" else 0
        proxy = await stack.enter_async_context(FaultProxy(engine).listen(at))
        bench = Bench(echo, proxy)
        yield bench
        for writer in bench.writers:
            writer.transport.abort()
    await until(lambda: echo.ends == echo.begun, "the end of every connection")
    assert bench.proxy.open == 0


@pytest.fixture(params=["tcp", "unix"])
def before(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def bench(tmp_path: Path, before: str) -> AsyncIterator[Bench]:
    behind = "tcp" if before == "unix" else "unix"
    async with standing(tmp_path, before, behind) as bench:
        yield bench


@pytest.mark.parametrize("before", ["tcp", "unix"])
@pytest.mark.parametrize("behind", ["tcp", "unix"])
async def test_without_trouble_it_is_not_there(tmp_path: Path, before: str, behind: str) -> None:
    async with standing(tmp_path, before, behind) as bench:
        one, other = await bench.connect(), await bench.connect()
        big = bytes(range(256)) * 4096
        assert tuple(await asyncio.gather(said(one, big), said(other, b"word"))) == (big, b"word")
        assert (bench.proxy.accepted, bench.proxy.open) == (2, 2)
        one[1].write_eof()
        assert not await ended(one[0])
        await until(lambda: bench.proxy.open == 1)
        assert bench.echo.ends == 1


async def test_refused_and_back_at_the_same_address(bench: Bench) -> None:
    streams, address = await bench.talking(), bench.proxy.address
    bench.proxy.be(Trouble(refuse=True))
    with pytest.raises(ConnectionRefusedError):
        await bench.connect()
    assert await said(streams, b"still here") == b"still here"
    bench.proxy.be(PASS)
    assert bench.proxy.address == address
    await bench.talking()


async def test_mute_takes_connections_and_nothing_else(bench: Bench) -> None:
    bench.proxy.be(Trouble(mute=True))
    reader, writer = await bench.connect()
    writer.write(b"anybody?")
    await until(lambda: bench.proxy.accepted == 1)
    # Were any of it read, the kernel would take more and more.
    async with asyncio.timeout(PATIENCE):
        while writer.transport.get_write_buffer_size() < 2**20:
            writer.write(bytes(2**16))
            await asyncio.sleep(0)
    assert (bench.echo.begun, bench.proxy.open) == (0, 1)
    bench.proxy.be(PASS)
    async with asyncio.timeout(PATIENCE):
        assert await reader.readexactly(8) == b"anybody?"


@pytest.mark.parametrize("way", ["requests", "answers", "both"])
async def test_a_held_way_passes_no_byte_and_no_end(bench: Bench, way: str) -> None:
    reader, writer = await bench.talking()
    leaving_reader, leaving = await bench.talking()
    bench.proxy.be(Trouble(hold=way))  # type: ignore[arg-type]
    writer.write(b"more")
    leaving.write_eof()
    if way == "answers":
        await until(lambda: bytes(bench.echo.heard).endswith(b"more"), "the request, which is not held")
        await until(lambda: bench.echo.ends == 1, "the end, which is not held on its way there")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await asyncio.gather(reader.read(1), leaving_reader.read(1))
    if way != "answers":
        assert (bytes(bench.echo.heard), bench.echo.ends) == (b"hellohello", 0)
    bench.proxy.be(PASS)
    async with asyncio.timeout(PATIENCE):
        assert await reader.readexactly(4) == b"more"
    assert not await ended(leaving_reader)


async def test_a_reset_hits_open_connections_and_new_ones(bench: Bench, before: str) -> None:
    reader, _ = await bench.talking()
    bench.proxy.be(Trouble(reset=True))
    assert await ended(reader) == (before == "tcp")
    await until(lambda: bench.echo.ends == 1, "the engine's end of it")
    with pytest.raises((asyncio.IncompleteReadError, *BREAKS)):
        await said(await bench.connect(), b"anybody?")
    assert bench.echo.begun == 1
    bench.proxy.be(PASS)
    await bench.talking()


async def test_a_drip_and_a_delay_take_their_time(bench: Bench) -> None:
    streams = await bench.talking()
    words = b"drop by drop " * 4
    bench.proxy.be(Trouble(drip=4))
    began = time.monotonic()
    assert await said(streams, words) == words
    assert time.monotonic() - began >= (len(words) / 4 - 1) * PACE * EARLY
    bench.proxy.be(Trouble(delay=0.1))
    began = time.monotonic()
    assert await said(streams, words) == words
    assert time.monotonic() - began >= 0.2 * EARLY, "there and back"


async def test_without_an_engine_a_connection_breaks(tmp_path: Path) -> None:
    async with FaultProxy(str(tmp_path / "nobody.sock")).listen() as proxy:
        reader, writer = await Bench(Echo(), proxy).connect()
        assert await ended(reader)
        writer.close()
        await until(lambda: proxy.open == 0)


async def test_an_engine_that_resets_is_seen_to_reset() -> None:
    async def abrupt(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async with await asyncio.start_server(abrupt, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with FaultProxy(f"127.0.0.1:{port}").listen() as proxy:
            reader, writer = await Bench(Echo(), proxy).connect()
            writer.write(b"word")
            assert await ended(reader)
            writer.close()
