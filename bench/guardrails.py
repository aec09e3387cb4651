"""What guardrails cost the gateway: `python -m bench.guardrails` compares none with a guard before and after a model.

The gateway runs here and its CPU time is counted; engines that answer from memory, and the load, are another process.
"""

import asyncio
import json
import multiprocessing
import multiprocessing.connection
import socket
import tempfile
import time
from pathlib import Path
from typing import cast
from unittest import mock

import uvloop

from bench.cost.stub import END, STREAM, chunk, response
from service.catalog import catalog
from service.config.paths import ROOT
from service.config.settings import Settings
from service.engine import state
from service.engine.state import EngineState
from service.fleet import fleet
from service.gateway import app
from service.gateway.lifespan import with_lifespan
from service.observability.log_writer import LogWriter
from tests.fake_engine import bodies
from tests.fake_engine.shapes import Chat, Turn
from tests.support.servers import serving

FLEET = """
models:
  - {model: pebble-chat}
  - {model: llama-guard-3-8b}
guardrails: {safety: {model: llama-guard-3-8b}}
"""
CASES = {
    "off": "",
    "input": "default_guardrails: {input: [safety]}",
    "output": "default_guardrails: {output: [safety]}",
}
REQUESTS, WARM, ROUNDS, CONNECTIONS, WORDS = 160, 40, 6, 8, 200
ASKED = "Tell me a story about granite. " * 8  # 248 characters


class Engine(asyncio.Protocol):
    """Answers each request with the same words, streamed where that is asked for."""

    def __init__(self, words: tuple[str, ...]) -> None:
        shape = Chat()
        turn = Turn("0123456789abcdef", "m", int(time.time()), 60, words, "stop", usage=True)
        events = [*shape.opening(turn), *(shape.token(turn, word, last=False) for word in words)]
        self._events = [STREAM + chunk(events[0]), *map(chunk, events[1:])]
        self._end = b"".join(map(chunk, [shape.token(turn, "", last=True), *shape.closing(turn)])) + END
        turn.said = len(words)
        self._whole = response(bodies.dumps(shape.whole(turn)))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the connection's writing side."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from asyncio's

    def data_received(self, data: bytes) -> None:
        """Answers; a request arrives at once."""
        if b'"stream": true' in data:
            self._transport.writelines([*self._events, self._end])
        else:
            self._transport.write(self._whole)


async def others(folder: Path, port: int, pipe: "multiprocessing.connection.Connection") -> None:
    """Engines and load: for each word from the pipe, `whole` or `streamed`, as many requests as follow it."""
    loop = asyncio.get_running_loop()
    say = tuple(f" word{number}" for number in range(WORDS))
    await loop.create_unix_server(lambda: Engine(say), state.socket_path(folder, 0))
    await loop.create_unix_server(lambda: Engine(("safe",)), state.socket_path(folder, 1))
    pipe.send("ready")
    while asked := await loop.run_in_executor(None, pipe.recv):
        stream, count = asked
        body = {"model": "pebble-chat", "messages": [{"role": "user", "content": ASKED}], "stream": stream}
        each = [client(port, json.dumps(body).encode(), count // CONNECTIONS) for _ in range(CONNECTIONS)]
        await asyncio.gather(*each)
        pipe.send("done")


async def client(port: int, body: bytes, count: int) -> None:
    """Sends so many requests, one after the other, and reads the answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"  # noqa: E501
    for _ in range(count):
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in answer[:20], answer
        if b"chunked" in answer:
            await reader.readuntil(b"\r\n0\r\n\r\n")
        else:
            await reader.readexactly(int(answer.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
    writer.close()


def child(folder: str, port: int, pipe: "multiprocessing.connection.Connection") -> None:
    """The other process."""
    uvloop.run(others(Path(folder), port, pipe))


async def measure() -> dict[str, list[float]]:
    """CPU microseconds of the gateway for a request, whole and streamed, by case: the least of some rounds."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as listener:
        folder, known = Path(name), catalog.load(ROOT / "models")
        fleets = {}
        for case, text in CASES.items():
            (folder / "fleet.yaml").write_text(FLEET + text)
            fleets[case] = fleet.load(folder / "fleet.yaml", known)
        for order, served in enumerate(fleets["off"].served):
            state.write(folder, EngineState(state.replica_id(served.id, 0), served.id, order, "ready"))
        gateway = app.Gateway(Settings(run_dir=folder, host="0.0.0.0"), known, fleets["off"])
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=child, args=(name, listener.getsockname()[1], theirs), daemon=True
        )
        process.start()
        loop = asyncio.get_running_loop()
        async with serving(with_lifespan(gateway), listener, protocol=gateway.connection()):
            await loop.run_in_executor(None, ours.recv)
            gateway.upstreams.refresh()
            for _ in range(ROUNDS):
                for case, described in fleets.items():
                    gateway.apply(described)
                    for stream in (False, True):
                        times = found.setdefault(f"{case}, {'streamed' if stream else 'whole'}", [])
                        for count in (WARM, REQUESTS):
                            began = time.process_time()
                            ours.send((stream, count))
                            await loop.run_in_executor(None, ours.recv)
                        times.append((time.process_time() - began) / REQUESTS * 1e6)
        ours.send(None)
        process.join()
    return found


def main() -> None:
    """Prints the table."""
    print(f"CPU µs of the gateway for a request of {len(ASKED)} characters and an answer of {WORDS} words")
    with mock.patch.object(LogWriter, "write"):  # standard output is for the table
        found = uvloop.run(measure())
    for case, times in found.items():
        print(f"{case:18} {min(times):8.0f}")


if __name__ == "__main__":
    main()
