"""What one request and one streamed chunk cost the gateway, in instructions: `python -m bench.cost.instructions`.

Valgrind counts the processor's instructions in user space, so the figures hold on a busy machine; the kernel's part is
not in them. The gateway is a process of its own, with everything that is on by default, before an engine that answers
from memory. It sends the next chunk of a stream once the client has read the last one, so that no two are joined.
`--time` prints CPU microseconds instead, the kernel's included; `--profile FILE` keeps what callgrind_annotate reads.
"""

import argparse
import asyncio
import gc
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast
from unittest import mock

import uvloop

from bench import instructions
from bench.cost.load import request
from bench.cost.peers import MODEL
from bench.cost.stub import WORD, Canned
from service.catalog import catalog
from service.config.paths import ROOT
from service.config.settings import Settings
from service.engine import state
from service.engine.state import EngineState
from service.fleet import fleet
from service.gateway import app
from service.observability import log, log_writer
from tests.fake_engine.shapes import Chat
from tests.support.servers import serving

CHUNKS = 101  # of a long stream; a short one has 2
WARM, REQUESTS, STREAMS = 60, 200, 20
THRESHOLD = 5_000  # of the garbage collector, as in the service
Ask = Callable[[int, int], object]
"""Has so many requests made, each for so many chunks; 0 for a whole answer."""


class Engine(asyncio.Protocol):
    """Answers as the stub does, but sends a chunk when it is told to."""

    def __init__(self, canned: Canned, made: list["Engine"]) -> None:
        self._canned, self._left, self._made = canned, 0, made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the connection's writing side."""
        self._socket = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Begins an answer; a request arrives at once."""
        body = json.loads(data.partition(b"\r\n\r\n")[2])
        if not body.get("stream"):
            self._socket.write(self._canned.whole)
            return
        self._left, self._made[:] = body["max_tokens"], [self]
        self._socket.write(self._canned.opening)
        self.go_on()

    def go_on(self) -> None:
        """Sends the next chunk, the last with the end."""
        self._left -= 1
        if self._left > 0:
            self._socket.write(self._canned.token)
        elif self._left == 0:
            self._socket.write(self._canned.last + self._canned.usage + self._canned.done)


class Client(asyncio.Protocol):
    """Asks one request after the other on one connection."""

    def __init__(self, engines: list[Engine]) -> None:
        self._engines = engines

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the connection's writing side."""
        self._socket = cast(asyncio.Transport, transport)

    async def ask(self, wire: bytes) -> None:
        """Sends a request and waits for the end of its answer."""
        self._end, self._done = b"", asyncio.get_running_loop().create_future()
        self._socket.write(wire)
        await self._done

    def data_received(self, data: bytes) -> None:
        """Has the engine go on once a chunk is here."""
        assert self._end or data.startswith(b"HTTP/1.1 200"), data
        self._end = (self._end + data)[-2000:]
        if self._end.endswith(b"\r\n0\r\n\r\n") or (b"transfer-encoding" not in self._end and data.endswith(b"}")):
            self._done.set_result(None)
        elif WORD.encode() in data:
            self._engines[0].go_on()


async def others(folder: Path, pipe: "multiprocessing.connection.Connection") -> None:
    """The engine and the load, in the other process: each message has a port, how many requests, and of what length."""
    loop, canned, engines = asyncio.get_running_loop(), Canned(Chat(), MODEL), list[Engine]()
    await loop.create_unix_server(lambda: Engine(canned, engines), state.socket_path(folder, 0))
    pipe.send("ready")
    _, client = await loop.create_connection(lambda: Client(engines), "127.0.0.1", pipe.recv())
    while asked := await loop.run_in_executor(None, pipe.recv):
        count, chunks = asked
        for _ in range(count):
            await client.ask(request(MODEL, chunks))
        pipe.send("done")


def child(folder: str, pipe: "multiprocessing.connection.Connection") -> None:
    """The other process."""
    uvloop.run(others(Path(folder), pipe))


async def serve(begin: Callable[[], None], mark: Callable[[], None]) -> None:
    """Runs the gateway; calls `begin` once it is warm, and `mark` before and after each of the three parts."""
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as listener:
        folder, known = Path(name), catalog.load(ROOT / "models")
        (folder / "fleet.yaml").write_text(f"models: [{{model: {MODEL}}}]")
        (folder / "usage").mkdir()
        state.write(folder, EngineState(state.replica_id(MODEL, 0), MODEL, 0, "ready"))
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=child, args=(name, theirs), daemon=True)
        process.start()
        with mock.patch.object(log, "STANDARD_OUTPUT", os.open(os.devnull, os.O_WRONLY)):
            settings = Settings(run_dir=folder, host="0.0.0.0")
            gateway = app.Gateway(settings, known, fleet.load(folder / "fleet.yaml", known))
        async with serving(gateway.app, listener, protocol=gateway.connection(), lifespan="off"):
            await loop.run_in_executor(None, ours.recv)
            gateway.upstreams.refresh()
            ours.send(listener.getsockname()[1])

            async def ask(count: int, chunks: int) -> None:
                ours.send((count, chunks))
                await loop.run_in_executor(None, ours.recv)

            await ask(WARM, 0)
            await ask(WARM // 10, CHUNKS)
            gc.collect()
            gc.freeze()
            gc.set_threshold(THRESHOLD)
            begin()
            await ask(1, 2)
            for count, chunks in ((REQUESTS, 0), (STREAMS, 2), (STREAMS, CHUNKS)):
                mark()
                await ask(count, chunks)
            mark()
        ours.send(None)
        process.join()
        gateway.log.close()


def each(whole: float, short: float, long: float) -> dict[str, float]:
    """What one whole answer, the first chunk of a stream and a further chunk cost."""
    return {
        "whole answer": whole / REQUESTS,
        "stream of two chunks": short / STREAMS,
        "streamed chunk": (long - short) / STREAMS / (CHUNKS - 2),
    }


def counted(kept: Path | None = None) -> dict[str, float]:
    """Instructions by what they are for; `kept` is a folder for callgrind's files."""
    return each(*instructions.between_marks("bench.cost.instructions", "--count", begins=True, kept=kept))


def timed() -> list[float]:
    """CPU microseconds of the three parts."""
    times: list[float] = []
    uvloop.run(serve(lambda: None, lambda: times.append(time.process_time() * 1e6)))
    return [after - before for before, after in itertools.pairwise(times)]


def main() -> None:
    """Prints the figures; `--json FILE` keeps them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", action="store_true", help="CPU microseconds instead of instructions")
    parser.add_argument("--profile", type=Path, help="a folder for callgrind's files")
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)  # the process that is counted
    asked = parser.parse_args()
    if asked.count:
        # So that as many lines are written at once as without valgrind.
        with mock.patch.object(log_writer, "BATCH_INTERVAL", log_writer.BATCH_INTERVAL * instructions.SLOWER):
            uvloop.run(serve(instructions.begin, instructions.mark))
        return
    print("CPU µs" if asked.time else "Instructions in user space")
    for name, one in (each(*timed()) if asked.time else counted(asked.profile)).items():
        print(f"{name:24} {one:12,.1f}")


if __name__ == "__main__":
    main()
