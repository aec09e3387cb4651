"""A classifier for tests, which answers as OpenAI's moderation endpoint does, or goes wrong as a test wants it."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal

Behaviour = Literal["fine", "slow", "broken", "refusing", "chatty", "odd"]
FORBIDDEN = "forbidden"


class FakeClassifier:
    """Flags texts with the word FORBIDDEN as `violence`. `requests` holds the head and the body of each request."""

    def __init__(self, behaviour: Behaviour = "fine") -> None:
        self.behaviour = behaviour
        self.requests: list[tuple[str, Any]] = []
        self.port = 0

    @asynccontextmanager
    async def listen(
        self, socket: Path | None = None, context: ssl.SSLContext | None = None
    ) -> AsyncIterator["FakeClassifier"]:
        """Serves on a Unix socket, or on a free port of 127.0.0.1, with TLS if there is a context."""
        if socket:
            server = await asyncio.start_unix_server(self._serve, socket)
        else:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
            self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                self.requests.append((head, body))
                if self.behaviour == "slow":
                    await reader.read()
                    break
                if self.behaviour == "broken":
                    break
                status, answer = self._answer(body["input"])
                payload = json.dumps(answer).encode()
                writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(payload)}\r\n\r\n".encode() + payload)
                await writer.drain()
        writer.close()

    def _answer(self, text: str) -> tuple[int, Any]:
        if self.behaviour == "refusing":
            return 401, {"error": "no"}
        if self.behaviour == "odd":
            return 200, {"results": []}
        if self.behaviour == "chatty":
            return 200, {"results": [{"flagged": False}], "more": "x" * 2**21}
        flagged = FORBIDDEN in text
        result = {"flagged": flagged, "categories": {"violence": flagged, "hate": False},
                  "category_scores": {"violence": 0.9 if flagged else 0.1, "hate": 0.2}}  # fmt: skip
        return 200, {"id": "modr-1", "model": "x", "results": [result]}
