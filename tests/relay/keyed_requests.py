"""Requests with an `Idempotency-Key`: what is said in their answers, who asks, and what must be so at the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from service.observability.record import Record
from service.relay.idempotency import OVERHEAD, IdempotencyCache, Key, Run
from service.server.asgi import CancelOnDisconnect, Message, Receive, Send, ServerExtension
from tests.support.gateways import Line
from tests.support.waiting import PATIENCE, patience, until

KEY = ("acme", "key-1")
ASKED, OTHER = b"fingerprint", b"another"
LARGEST, TOTAL, TTL = 40_000, 120_000, 600.0
REPLAYED = (b"idempotent-replayed", b"true")
END = None


class Generation:
    """What an engine would say, piece by piece as the test gives them: `END` ends it, an error breaks it off."""

    def __init__(self, record: Record, status: int = 200) -> None:
        self.record, self.status = record, status
        self.begun = self.ended = False
        self._next: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()

    def say(self, *pieces: bytes | BaseException | None) -> None:
        for piece in pieces:
            self._next.put_nowait(piece)

    async def run(self, receive: Receive, send: Send, extra: ServerExtension | None) -> None:
        """Streams the answer as the relay does, until its client leaves."""
        self.begun = True
        try:
            with CancelOnDisconnect(receive, extra):
                await self._stream(send, extra)
        finally:
            self.ended = True

    async def _stream(self, send: Send, extra: ServerExtension | None) -> None:
        piece = await self._take()
        self.record.model, self.record.replica = "pebble-chat", "pebble-chat-0"
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        while piece is not END:
            self.record.completion_tokens += 1
            self.record.output_times.append(0.0)
            if not (extra and extra.write_now(piece)):
                await send({"type": "http.response.body", "body": b"" if extra else piece, "more_body": True})
            piece = await self._take()
        self.record.finish_reason = "stop"
        await send({"type": "http.response.body", "body": b""})

    async def _take(self) -> bytes | None:
        piece = await self._next.get()
        if isinstance(piece, BaseException):
            raise piece
        return piece


class Client:
    """A client in this process: it takes messages while `reads` is set, until it leaves."""

    def __init__(self) -> None:
        self.record = Record("id", "/v1/chat/completions", 0.0)
        self.messages: list[Message] = []
        self.reads, self.left = asyncio.Event(), asyncio.Event()
        self.reads.set()
        self.task: asyncio.Task[None]

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        if message["type"] == "http.response.start":
            message["headers"].append((b"x-request-id", b"%d" % id(self)))  # as the middleware does
        self.messages.append(message)

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        headers: list[tuple[bytes, bytes]] = self.messages[0]["headers"]
        return headers

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages[1:])

    @property
    def whole(self) -> bool:
        return len(self.messages) > 1 and not self.messages[-1].get("more_body", False)

    async def got(self, body: bytes) -> None:
        await until(lambda: self.body == body, f"the arrival of {body[:40]!r}, not {self.body[:40]!r}")

    async def done(self) -> None:
        """Waits until it was answered; raises what went wrong."""
        await asyncio.wait([self.task], timeout=PATIENCE)
        assert self.task.done(), "nobody answered"
        await self.task


class House:
    """An `IdempotencyCache` with a clock of its own, the generations that began and the clients that asked."""

    def __init__(self, **bounds: Any) -> None:
        self.now = 0.0
        self.cache = IdempotencyCache(lambda: self.now, **{"ttl": TTL, "largest": LARGEST, "total": TOTAL, **bounds})
        self.generations: list[Generation] = []
        self.clients: list[Client] = []
        self.lines: list[Line] = []

    def generation(self, record: Record, receive: Receive, status: int = 200) -> Run:
        """What has an answer generated, if that is needed."""

        async def run(send: Send, extra: ServerExtension | None) -> None:
            self.generations.append(one := Generation(record, status))
            await one.run(receive, send, extra)

        return run

    def ask(self, key: Key = KEY, fingerprint: bytes = ASKED, status: int = 200) -> Client:
        """A client that asks; a generation of that status begins if there must be one."""
        client = Client()
        return self.ask_for(self.generation(client.record, client.receive, status), key, fingerprint, client)

    def ask_for(self, run: Run, key: Key = KEY, fingerprint: bytes = ASKED, client: Client | None = None) -> Client:
        """A client that asks for what `run` sends."""
        client = client or Client()
        client.task = asyncio.create_task(self.cache.answer(key, fingerprint, run, client.record, client.send))
        self.clients.append(client)
        return client

    async def begun(self, number: int = 0) -> Generation:
        """The generation of that number, counted from 0, as soon as it runs."""
        await until(lambda: len(self.generations) > number and self.generations[number].begun, "a generation")
        return self.generations[number]

    async def answered(self, key: Key = KEY, body: bytes = b"answer", fingerprint: bytes = ASKED) -> Client:
        """A client for which a whole answer was generated."""
        client, number = self.ask(key, fingerprint), len(self.generations)
        (await self.begun(number)).say(body, END)
        await client.done()
        return client

    def settled(self) -> None:
        """What must hold while nothing runs: each byte of the cache belongs to an answer in it."""
        assert not self.cache._running
        assert self.cache.size == sum(OVERHEAD + len(one.body) for one in self.cache._cached.values())


@asynccontextmanager
async def opened() -> AsyncIterator[House]:
    """At the end nothing may be left: no task, no memory after the answers have expired."""
    before = asyncio.all_tasks()
    house = House()
    try:
        yield house
    finally:
        for line in house.lines:
            line.leave()
        for client in house.clients:
            client.left.set()
    await asyncio.wait_for(asyncio.gather(*(one.task for one in house.clients), return_exceptions=True), patience())
    await until(lambda: asyncio.all_tasks() - before <= {asyncio.current_task()}, "the end of every task")
    house.settled()
    house.now += TTL
    house.cache.expire()
    assert house.cache.size == 0
