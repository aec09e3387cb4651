"""Concurrent streams of chat completions, and their results."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from service.transport.pool import ConnectionPool, Deadlines, post_request

PATIENT = Deadlines(connect=5.0, first_byte=300.0, idle=300.0, total=600.0)
PATH = "/v1/chat/completions"
T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """One finished stream. Times are seconds; `tokens` is what the engine says it generated."""

    text: str
    tokens: int
    ttft: float
    duration: float


async def ask(transport: ConnectionPool, address: str, fields: dict[str, Any]) -> Answer:
    """One streamed chat completion from `address` (a socket's path or host:port)."""
    began = time.perf_counter()
    body = json.dumps({**fields, "stream": True, "stream_options": {"include_usage": True}}).encode()
    exchange = await transport.send(address, post_request(PATH, body), PATIENT)
    try:
        status = await exchange.head()
        raw, first = [], 0.0
        while piece := await exchange.read():
            first = first or time.perf_counter()
            raw.append(piece)
    finally:
        transport.release(address, exchange)
    data = b"".join(raw)
    if status != 200 or not data.endswith(b"data: [DONE]\n\n"):
        raise RuntimeError(f"{address}: status {status}: {data[-300:]!r}")
    events = [json.loads(event[6:]) for event in data.split(b"\n\n") if event.startswith(b"data: {")]
    text = "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])
    tokens = next(event["usage"]["completion_tokens"] for event in reversed(events) if event.get("usage"))
    ended = time.perf_counter()
    return Answer(text, tokens, first - began, ended - began)


async def load(address: str, streams: int, requests: list[dict[str, Any]]) -> tuple[float, list[Answer]]:
    """Works through `requests` with `streams` of them at a time; returns the seconds it took, and every answer."""
    return await work(ask, address, streams, requests)


async def work(
    ask: Callable[[ConnectionPool, str, dict[str, Any]], Awaitable[T]],
    address: str,
    streams: int,
    requests: Iterable[dict[str, Any]],
) -> tuple[float, list[T]]:
    """As `load`, with any way to `ask`; what that raises comes as an ExceptionGroup."""
    transport, waiting, answers = ConnectionPool(), iter(requests), list[T]()

    async def client() -> None:
        for fields in waiting:
            answers.append(await ask(transport, address, fields))

    began = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(streams):
                group.create_task(client())
        return time.perf_counter() - began, answers
    finally:
        transport.close()
