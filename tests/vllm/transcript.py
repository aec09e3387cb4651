"""Responses of an engine, reduced to what must be equal between the fake engine and vLLM."""

import asyncio
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Strings under these keys are compared; of other values only the type is.
COMPARED = {"finish_reason", "message", "object", "param", "role", "status", "stop_reason", "type", "detail", "reason"}
IGNORED_HEADERS = {"connection", "date"}


@dataclass(frozen=True)
class Transcript:
    """One response. `status` is 0 if there was none; `complete` says whether the body was received to its end.

    `headers` are their names. `body` is the shape of the JSON, or the list of the events' shapes without adjacent
    duplicates.
    """

    status: int
    headers: frozenset[str]
    media: str
    body: Any
    complete: bool


def shape(value: Any, key: str = "") -> Any:
    """A JSON value with type names in place of values; compared strings have `N` in place of numbers."""
    match value:
        case dict():
            return {name: shape(inner, name) for name, inner in value.items()}
        case list():
            kinds = [shape(inner, key) for inner in value]
            return [kind for number, kind in enumerate(kinds) if kind not in kinds[:number]]
        case str() if key in COMPARED:
            return re.sub(r"\d+", "N", value)
        case _:
            return type(value).__name__


class RawExchange:
    """One HTTP exchange over a connection of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._data = b""

    @classmethod
    async def start(
        cls, socket: Path, method: str, path: str, body: Any = b"", media: str = "application/json"
    ) -> "RawExchange":
        """Connects and sends the request; a body that is not bytes is encoded as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        reader, writer = await asyncio.open_unix_connection(socket)
        head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        head += f"content-type: {media}\r\ncontent-length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        await writer.drain()
        return cls(reader, writer)

    async def wait(self, text: bytes, times: int = 1) -> None:
        """Reads until the response contains `text` so many times."""
        while self._data.count(text) < times:
            chunk = await self._reader.read(2**16)
            assert chunk, f"ended without {text!r}"
            self._data += chunk

    async def finish(self) -> Transcript:
        """Reads the response to its end."""
        with suppress(ConnectionResetError):
            self._data += await self._reader.read()
        self._writer.close()
        return _transcript(self._data)

    def disconnect(self) -> None:
        """Closes the connection without waiting for the response."""
        self._writer.close()


async def ask(socket: Path, method: str, path: str, body: Any = b"", media: str = "application/json") -> Transcript:
    """One exchange; a refused connection gives a transcript with status 0."""
    try:
        exchange = await RawExchange.start(socket, method, path, body, media)
    except ConnectionRefusedError:
        return Transcript(0, frozenset(), "", None, False)
    return await exchange.finish()


async def metrics(socket: Path) -> dict[str, float]:
    """Every metric of the engine, summed over its labels."""
    reader, writer = await asyncio.open_unix_connection(socket)
    writer.write(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    sums: dict[str, float] = {}
    for name, value in re.findall(r"^(vllm:\w+)\{.*\} (\S+)$", text, re.MULTILINE):
        sums[name] = sums.get(name, 0.0) + float(value)
    return sums


def _transcript(data: bytes) -> Transcript:
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *rows = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (row.partition(":") for row in rows)}
    names = frozenset(headers) - IGNORED_HEADERS
    media = headers.get("content-type", "")
    status = int(first.split(" ")[1])
    if headers.get("transfer-encoding") == "chunked":
        chunks, complete = _chunks(rest)
        return Transcript(status, names, media, _events(chunks), complete)
    complete = len(rest) == int(headers["content-length"])
    body = shape(json.loads(rest)) if media == "application/json" else media and "text"
    return Transcript(status, names, media, body, complete)


def _chunks(data: bytes) -> tuple[list[bytes], bool]:
    """The complete chunks of a chunked body, and whether its last chunk was received."""
    chunks: list[bytes] = []
    while b"\r\n" in data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return chunks, True
        if len(data) < length + 2:
            break
        chunks.append(data[:length])
        data = data[length + 2 :]
    return chunks, False


def _events(chunks: list[bytes]) -> list[Any]:
    """The shapes of the events, one per chunk, without adjacent duplicates: tokens may share an event."""
    events: list[Any] = []
    for chunk in chunks:
        text = chunk.decode()
        assert text.count("\n\n") == 1 and text.endswith("\n\n"), "a chunk is not one event"
        lines = [_line(line) for line in text.strip().split("\n")]
        if events[-1:] != [lines]:
            events.append(lines)
    return events


def _line(line: str) -> Any:
    name, _, value = line.partition(": ")
    return [name, shape(json.loads(value)) if value.startswith("{") else value]
