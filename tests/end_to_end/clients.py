"""Clients that ask one after the other, streamed and whole, on kept and on new connections, and judge every answer."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]
HEAD = (
    "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
    "content-type: application/json\r\ncontent-length: {}\r\n{}\r\n"
)


class Clients:
    """Load for one model until `leaving` says that refusals are due, or until `stop`.

    `failed` is what a client should not have seen. A kept connection that is closed before a byte of the next answer is
    none: HTTP allows it, and the client asks again on a new one.
    """

    def __init__(self, port: int, model: str) -> None:
        self._port, self._model = port, model
        self.whole = self.quick = 0
        self.failed: list[str] = []
        self.refused = 0
        self.leaving = self.stop = False

    @contextlib.asynccontextmanager
    async def asking(self, talkers: int = 20, lookers: int = 0) -> AsyncIterator["Clients"]:
        """Clients that talk to the model, and ones that only look, as often as they can, on new connections."""
        tasks = [asyncio.create_task(self._talk(number)) for number in range(talkers)]
        tasks += [asyncio.create_task(self._look()) for _ in range(lookers)]
        yield self
        self.stop = not self.leaving
        await asyncio.gather(*tasks)

    async def _talk(self, number: int) -> None:
        streamed, kept = number % 2 == 0, number % 4 < 2
        said = " ".join(f"word{number}-{at}" for at in range(15 if number % 5 else 2))
        fields = {"model": self._model, "messages": [{"role": "user", "content": said}], "stream": streamed}
        body = json.dumps(fields).encode()
        request = HEAD.format(len(body), "" if kept else "connection: close\r\n").encode() + body
        line, used = None, False
        while not self.stop:
            if line is None:
                line, used = await self._connect(), False
                if line is None:
                    return
            try:
                close = self._judge(*await exchange(line, request), streamed)
                self.whole += 1
                used = True
            except (OSError, asyncio.IncompleteReadError) as error:
                if not used or getattr(error, "partial", None):
                    self.failed.append(f"{error!r} on a {'used' if used else 'new'} connection")
                close = True
            if close:
                line[1].close()
                line = None
        if line:
            line[1].close()

    async def _look(self) -> None:
        while not self.stop and (line := await self._connect()):
            try:
                await exchange(line, b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                self.quick += 1
            except (OSError, asyncio.IncompleteReadError) as error:
                self.failed.append(f"{error!r} while looking")
            line[1].close()

    async def _connect(self) -> Line | None:
        try:
            return await asyncio.open_connection("127.0.0.1", self._port)
        except OSError as error:
            if not self.leaving:
                self.failed.append(repr(error))
            self.refused += 1
            return None

    def _judge(self, head: bytes, body: bytes, streamed: bool) -> bool:
        """Notes an answer that is none; returns whether the connection ends with it."""
        ends = b'"finish_reason":"stop"' in body and body.endswith(b"data: [DONE]\n\n") == streamed
        if not head.startswith(b"HTTP/1.1 200") or not ends or b'"error"' in body:
            self.failed.append(f"{head[:15]!r} … {body[-200:]!r}")
        return b"connection: close" in head


async def exchange(line: Line, request: bytes) -> tuple[bytes, bytes]:
    """One request and its answer, whole: its head in lower case but for the first line, and its body."""
    reader, writer = line
    writer.write(request)
    first, _, rest = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
    head = first + b"\r\n" + rest.lower()
    if b"content-length: " in head:
        length = head.split(b"content-length: ")[1].split(b"\r\n")[0]
        return head, await reader.readexactly(int(length))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return head, body
