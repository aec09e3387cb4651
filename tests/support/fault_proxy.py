"""A proxy between gateway and engine that misbehaves on command, over TCP or Unix sockets on either side."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PIECE = 64 * 2**10  # bytes
PACE = 0.01  # seconds between two drips
Way = Literal["requests", "answers"]


@dataclass(frozen=True)
class Trouble:
    """How a proxy misbehaves. Fields combine; as it stands, it passes everything on."""

    refuse: bool = False  # nobody listens: connections are refused; those that are open go on
    mute: bool = False  # new connections are accepted, and nothing is ever read from them
    hold: Literal["", "requests", "answers", "both"] = ""  # nothing goes on that way: no byte, no end, no reset
    reset: bool = (
        False  # every connection is reset, those that are open and new ones; a Unix socket's peer sees a close
    )
    drip: int = 0  # bytes per write, PACE apart; 0 for all at once
    delay: float = 0.0  # seconds that each piece is kept


PASS = Trouble()


@dataclass(eq=False)
class _Link:
    client: socket.socket
    engine: socket.socket | None = None
    task: "asyncio.Task[None] | None" = None
    hard: bool = False

    def close(self) -> None:
        for one in (self.client, self.engine):
            if one is None:
                continue
            if self.hard and one.family != socket.AF_UNIX:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()


class FaultProxy:
    """Carries connections to the `engine`, a Unix socket's path or host:port. `accepted` counts them."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.trouble = PASS
        self.accepted = 0
        self._at: Path | tuple[str, int] = ("127.0.0.1", 0)
        self._listener: socket.socket | None = None
        self._links: set[_Link] = set()
        self._changed = asyncio.Event()

    @property
    def address(self) -> str:
        """Where it listens, as an engine's address is written."""
        return str(self._at) if isinstance(self._at, Path) else f"{self._at[0]}:{self._at[1]}"

    @property
    def open(self) -> int:
        """How many connections it carries now."""
        return len(self._links)

    @asynccontextmanager
    async def listen(self, at: Path | int = 0) -> AsyncIterator["FaultProxy"]:
        """Carries connections made to a Unix socket, or to a TCP port of 127.0.0.1 (0 takes a free one)."""
        holder = None
        if isinstance(at, int):
            # Bound but never listening: while the listener is closed, the port stays ours and refuses.
            holder = socket.socket()
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            holder.bind(("127.0.0.1", at))
            self._at = holder.getsockname()
        else:
            self._at = at
        self._open()
        try:
            yield self
        finally:
            self._shut()
            if holder:
                holder.close()
            tasks = [link.task for link in self._links if link.task]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def be(self, trouble: Trouble) -> None:
        """Misbehaves that way from now on."""
        self.trouble = trouble
        if trouble.refuse:
            self._shut()
        elif self._listener is None:
            self._open()
        if trouble.reset:
            for link in self._links:
                link.hard = True
                if link.task:
                    link.task.cancel()
        self._changed.set()
        self._changed = asyncio.Event()

    def _open(self) -> None:
        if isinstance(self._at, Path):
            self._at.unlink(missing_ok=True)
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self._at))
        else:
            self._listener = socket.socket()
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._listener.bind(self._at)
        self._listener.listen(1024)
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _shut(self) -> None:
        if self._listener:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self) -> None:
        assert self._listener
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:  # whoever knocked has left again
            return
        client.setblocking(False)
        self.accepted += 1
        link = _Link(client, hard=self.trouble.reset)
        if self.trouble.reset:
            link.close()
            return
        self._links.add(link)
        link.task = asyncio.create_task(self._carry(link))
        link.task.add_done_callback(lambda _: self._end(link))

    def _end(self, link: _Link) -> None:
        # Not at the end of the task's own code: one that is cancelled before it begins has none.
        self._links.discard(link)
        link.close()

    async def _carry(self, link: _Link) -> None:
        try:
            await self._until(lambda: not self.trouble.mute)
            link.engine = await _connected(self.engine)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(link.client, link.engine, "requests"))
                group.create_task(self._forward(link.engine, link.client, "answers"))
        except* OSError:
            link.hard = True  # one side was reset, or there is no engine: the other side sees the same

    async def _forward(self, source: socket.socket, sink: socket.socket, way: Way) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(source, PIECE)
            except OSError:
                await self._until(lambda: self._passes(way))
                raise
            await asyncio.sleep(self.trouble.delay)
            await self._until(lambda: self._passes(way))
            if not data:
                with suppress(OSError):  # the other side has left already
                    sink.shutdown(socket.SHUT_WR)
                return
            while data:
                size = self.trouble.drip or len(data)
                await loop.sock_sendall(sink, data[:size])
                data = data[size:]
                if data:
                    await asyncio.sleep(PACE)
                    await self._until(lambda: self._passes(way))

    def _passes(self, way: Way) -> bool:
        return self.trouble.hold not in (way, "both")

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._changed.wait()


async def _connected(address: str) -> socket.socket:
    place: str | tuple[str, int] = address
    if not address.startswith("/"):
        host, port = address.rsplit(":", 1)
        place = host, int(port)
    one = socket.socket(socket.AF_UNIX if place == address else socket.AF_INET)
    one.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(one, place)
    except BaseException:
        one.close()
        raise
    return one
