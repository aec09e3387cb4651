"""HTTP as the fake engine speaks it: requests read, answers written, and the faults that can befall an answer."""

import asyncio
import json
import re
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from tests.fake_engine import bodies
from tests.fake_engine.bodies import Cut, End


@dataclass(frozen=True)
class Fault:
    """How one exchange goes wrong. Fields combine; as it stands, nothing does.

    Durations are seconds. After a cut comes `end`; a reset needs TCP, on a Unix socket the peer sees a close.
    """

    delay: float = 0.0  # before the status line
    gap: float | None = None  # before each token, instead of the engine's own
    drip: int = 0  # bytes per write, 0.01 s apart; 0 for all at once
    events: int | None = None  # cut after this many events of the stream
    cut: int | None = None  # cut after this many bytes of the answer, head included
    end: End = "close"
    accept: bool = False  # end a new connection at its first request, of which nothing is taken note of
    status: int = 0  # answer this instead, with `body`
    body: bytes = b""
    raw: bytes | None = None  # answer these bytes instead, head included, then `end`
    garble: bytes | None = None  # sent in the stream where `events` cuts it, before `end`
    surplus: int = 0  # what content-length claims beyond the truth; the answer is followed by `end`
    finish: str | None = None  # finish reason; with "abort" nothing is said, as when only the core is told to stop
    dead: bool = False  # the engine core dies where `events` cuts the stream


# A body to which a gateway has appended the salt of a tenant.
SALTED = re.compile(rb'(.*), ?"cache_salt": "([A-Za-z0-9_-]{43})"\}', re.DOTALL)


@dataclass(eq=False)
class Seen:
    """One request as the engine received it. `closed` is set, and `left` is the loop's time, when the peer has gone.

    `cache_salt` is what the gateway appends to the body of each request for a generation, and `body` is without it.
    `answer` is what was written so far, head included; `sent` says whether that was all.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    left: float | None = None
    answer: bytes = b""
    sent: bool = False
    cache_salt: str | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Line(asyncio.StreamReader):
    """The reading end of a connection. `stir` is set, and ends every pause, when the peer leaves or the engine dies."""

    def __init__(self) -> None:
        super().__init__()
        self.gone = False
        self.busy = False
        self.stir = asyncio.Event()
        self.seen: list[Seen] = []

    def feed_eof(self) -> None:
        super().feed_eof()
        self._leave()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self._leave()

    def _leave(self) -> None:
        self.gone = True
        self.stir.set()
        for seen in self.seen:
            seen.left = seen.left or asyncio.get_running_loop().time()
            seen.closed.set()

    async def pause(self, seconds: float | None) -> None:
        """Sleeps, for ever with None."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stir.wait(), seconds)

    async def until(self, event: asyncio.Event) -> None:
        """Waits until the event is set, or the pause ends."""
        waiting = [asyncio.create_task(one.wait()) for one in (event, self.stir)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()

    async def receive(self) -> Seen | None:
        """The next request; None when the peer has none left."""
        try:
            head = (await self.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except asyncio.IncompleteReadError:
            return None
        method, path, _ = head[0].split(" ")
        pairs = (row.partition(":") for row in head[1:] if row)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        body = await self.readexactly(int(headers.get("content-length", 0)))
        seen = Seen(method, path, headers, body, asyncio.get_running_loop().time())
        if salted := SALTED.fullmatch(body):
            seen.body, seen.cache_salt = salted[1] + b"}", salted[2].decode()
        self.seen.append(seen)
        return self.seen[-1]


class Wire:
    """The writing end of one exchange, as its fault leaves it."""

    def __init__(self, line: Line, writer: asyncio.StreamWriter, fault: Fault, close: bool) -> None:
        self._line, self._writer, self.fault, self._close = line, writer, fault, close
        self._left = fault.cut

    async def answer(self, status: int, body: bytes = b"", media: str = "application/json", **more: str) -> None:
        """A whole answer. `more` are further headers; a bare 500 is what an unhandled exception leaves."""
        headers = {"content-length": str(len(body) + self.fault.surplus)}
        headers |= {"content-type": media} if body else {}
        await self._send(self._head(status, more | headers) + body)
        if self.fault.surplus:
            raise Cut(self.fault.end)

    async def stream(self, events: AsyncIterator[bytes]) -> None:
        """An answer of server-sent events, each of them a chunk of its own."""
        headers = {"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"}
        await self._send(self._head(200, headers))
        number = 0
        async for event in events:
            if number == self.fault.events:
                await self._break()
                break
            await self._send(b"%x\r\n%b\r\n" % (len(event), event))
            number += 1
        await self._send(b"0\r\n\r\n")

    async def raw(self, data: bytes) -> None:
        await self._send(data)
        raise Cut(self.fault.end)

    async def _break(self) -> None:
        """Does in the middle of a stream what the script says."""
        if self.fault.dead:
            for event in (bodies.death_event(), bodies.DONE):
                await self._send(b"%x\r\n%b\r\n" % (len(event), event))
            return
        await self._send(self.fault.garble or b"")
        raise Cut(self.fault.end)

    def _head(self, status: int, headers: dict[str, str]) -> bytes:
        rows = {"date": formatdate(usegmt=True), "server": "uvicorn", **headers}
        rows |= {"vary": "Origin"} if status != 500 else {}
        rows |= {"connection": "close"} if self._close else {}
        lines = "".join(f"{name}: {value}\r\n" for name, value in rows.items())
        return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{lines}\r\n".encode()

    async def _send(self, data: bytes) -> None:
        if self._left is not None:
            data, self._left = data[: self._left], self._left - len(data)
        size = self.fault.drip or len(data) or 1
        for start in range(0, len(data), size):
            if self._line.gone:
                raise ConnectionResetError
            self._writer.write(data[start : start + size])
            self._line.seen[-1].answer += data[start : start + size]
            await self._writer.drain()
            await asyncio.sleep(0.01 if self.fault.drip else 0)
        if self._left is not None and self._left <= 0:
            raise Cut(self.fault.end)


async def hang_up(end: End, line: Line, writer: asyncio.StreamWriter) -> None:
    """Ends a connection in the way that a script asks for."""
    if end == "hang":
        await line.pause(None)
    elif end == "reset":
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
