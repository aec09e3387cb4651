"""A stub engine with minimal overhead: canned responses in vLLM's format, streams at a configurable pace.

`POST /pace/0.02` lets streams take 0.02 s for each token from then on; at 0 they are as fast as they can be.
"""

import argparse
import asyncio
import json
import time
from collections import Counter
from typing import Any, cast

import httptools
import uvloop

from tests.fake_engine import bodies
from tests.fake_engine.shapes import Chat, Completion, Shape, Turn

WORD = " granite"  # what every token says
WORDS = 40  # tokens of an answer, where a request does not say how many
PROMPT = 16  # tokens
CONTEXT = 8192  # tokens
SHAPES: dict[str, Shape] = {"/v1/chat/completions": Chat(), "/v1/completions": Completion()}


def response(body: bytes, status: str = "200 OK", media: str = "application/json") -> bytes:
    """A whole answer."""
    head = f"HTTP/1.1 {status}\r\nserver: stub\r\ncontent-type: {media}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


STREAM = (
    b"HTTP/1.1 200 OK\r\nserver: stub\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
END = b"0\r\n\r\n"
NOT_FOUND = response(bodies.dumps({"detail": "Not Found"}), "404 Not Found")


def chunk(event: bytes) -> bytes:
    """One event as a chunk of a stream."""
    return b"%x\r\n%b\r\n" % (len(event), event)


class Canned:
    """What one endpoint answers, as bytes that are ready to send."""

    def __init__(self, shape: Shape, model: str) -> None:
        turn = Turn("0123456789abcdef", model, int(time.time()), PROMPT, (WORD,) * WORDS, "length", usage=True)
        self.opening = STREAM + b"".join(chunk(event) for event in shape.opening(turn))
        self.token = chunk(shape.token(turn, WORD, last=False))
        self.last = chunk(shape.token(turn, WORD, last=True))
        turn.said = WORDS
        *usage, done = shape.closing(turn)
        self.usage, self.done = b"".join(map(chunk, usage)), chunk(done) + END
        self.whole = response(bodies.dumps(shape.whole(turn)))


class Engine:
    """What all connections share: the model, the pace in seconds for each token, and what has been done."""

    def __init__(self, model: str) -> None:
        self.model, self.pace, self.running = model, 0.0, 0
        self.totals: Counter[str] = Counter()
        self.canned = {path: Canned(shape, model) for path, shape in SHAPES.items()}
        self.models = response(bodies.dumps(bodies.models(model, CONTEXT, int(time.time()))))

    def state(self, path: str) -> bytes:
        """The answer to a GET."""
        if path == "/health":
            return response(b"")
        if path == "/metrics":
            return response(bodies.metrics(self.model, self.running, 0, self.totals), media="text/plain")
        return self.models if path == "/v1/models" else NOT_FOUND


class Connection(asyncio.Protocol):
    """One connection: reads requests, and answers them one after the other."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine, self._loop = engine, loop
        self._parser = httptools.HttpRequestParser(self)
        self._path, self._body = "", b""
        self._socket: asyncio.Transport | None = None
        self._canned: Canned | None = None
        self._left, self._usage, self._next = 0, False, 0.0
        self._timer: asyncio.Handle | None = None
        self._full = False

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._socket = None
        if self._canned:
            self._finish("abort")

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._canned and self._timer is None:
            self._soon()

    # Called by the parser.

    def on_url(self, url: bytes) -> None:
        self._path, self._body = url.decode(), b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._parser.get_method() == b"GET":
            self._write(self._engine.state(self._path))
        elif canned := self._engine.canned.get(self._path):
            self._answer(canned, json.loads(self._body))
        elif self._path.startswith("/pace/"):
            self._engine.pace = float(self._path.rpartition("/")[2])
            self._write(response(b"{}"))
        else:
            self._write(NOT_FOUND)

    # Answering.

    def _answer(self, canned: Canned, request: dict[str, Any]) -> None:
        engine = self._engine
        engine.totals["prompt"] += PROMPT
        if not request.get("stream"):
            engine.totals.update(said=WORDS, length=1)
            self._write(canned.whole)
            return
        engine.running += 1
        self._canned, self._left = canned, request.get("max_tokens") or WORDS
        self._usage = bool((request.get("stream_options") or {}).get("include_usage"))
        self._next = self._loop.time()
        self._write(canned.opening)
        self._soon()

    def _soon(self) -> None:
        if pace := self._engine.pace:
            self._next += pace
            self._timer = self._loop.call_at(self._next, self._say)
        else:
            self._timer = self._loop.call_soon(self._say)

    def _say(self) -> None:
        self._timer = None
        canned = self._canned
        if canned is None or self._full:
            return  # `resume_writing` goes on
        self._left -= 1
        self._engine.totals["said"] += 1
        if self._left:
            self._write(canned.token)
            self._soon()
            return
        self._write(canned.last)
        self._write((canned.usage if self._usage else b"") + canned.done)
        self._finish("length")

    def _finish(self, reason: str) -> None:
        if self._timer:
            self._timer.cancel()
        self._canned = self._timer = None
        self._engine.running -= 1
        self._engine.totals[reason] += 1

    def _write(self, data: bytes) -> None:
        if self._socket:
            self._socket.write(data)


async def serve(engine: Engine, port: int) -> asyncio.Server:
    """Serves the engine on a port of 127.0.0.1; 0 takes a free one."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Connection(engine, loop), "127.0.0.1", port, backlog=4096)


async def main() -> None:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    asked = parser.parse_args()
    async with await serve(Engine(asked.model), asked.port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
