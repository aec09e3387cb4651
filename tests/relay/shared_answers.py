"""Answers that several clients share: what is said in them, who listens, and what must be so at the end."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from service.observability.record import Record
from service.relay.idempotency import PIECE, Once, Run
from service.server.asgi import Message, Receive, Send
from tests.support.gateways import Line
from tests.support.waiting import PATIENCE, patience, until

KEY = ("acme", "key-1")
ASKED, OTHER = b"fingerprint", b"another"
LARGEST, TOTAL, TTL = 4 * PIECE, 12 * PIECE, 600.0
REPLAYED = (b"x-roundhouse-replayed", b"true")
END = None


class Generation:
    """What an engine would say, piece by piece as the test gives them: `END` ends it, an error breaks it off."""

    def __init__(self, record: Record, status: int = 200) -> None:
        self.record, self.status = record, status
        self.begun = self.ended = False
        self.heard: list[Message] = []
        self._next: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()

    def say(self, *pieces: bytes | BaseException | None) -> None:
        for piece in pieces:
            self._next.put_nowait(piece)

    @property
    def waits(self) -> bool:
        """Whether everything that it should say has been taken."""
        return self._next.empty()

    async def run(self, receive: Receive, send: Send) -> None:
        self.begun = True
        listening = asyncio.create_task(self._listen(receive))
        try:
            first = await self._take()
            self.record.model, self.record.replica = "pebble-chat", "pebble-chat-0"
            self.record.completion_tokens += 1
            headers = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": self.status, "headers": headers})
            while first is not END:
                await send({"type": "http.response.body", "body": first, "more_body": True})
                first = await self._take()
                self.record.completion_tokens += 1
            self.record.finish_reason = "stop"
            await send({"type": "http.response.body", "body": b""})
        finally:
            listening.cancel()
            self.ended = True

    async def _take(self) -> bytes | None:
        piece = await self._next.get()
        if isinstance(piece, BaseException):
            raise piece
        return piece

    async def _listen(self, receive: Receive) -> None:
        self.heard.append(await receive())


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
        return len(self.messages) > 1 and not self.messages[-1]["more_body"]

    async def got(self, body: bytes) -> None:
        await until(lambda: self.body == body, f"the arrival of {body[:40]!r}, not {self.body[:40]!r}")

    async def done(self) -> None:
        """Waits until it was answered; raises what went wrong."""
        await asyncio.wait([self.task], timeout=PATIENCE)
        assert self.task.done(), "nobody answered"
        await self.task

    async def leave(self) -> None:
        self.left.set()
        await asyncio.wait([self.task])


class House:
    """A `Once` with a clock of its own, the generations that it began and the clients that asked."""

    def __init__(self, **bounds: Any) -> None:
        self.now = 0.0
        self.once = Once(lambda: self.now, **{"patience": PATIENCE, "largest": LARGEST, "total": TOTAL, **bounds})
        self.generations: list[Generation] = []
        self.clients: list[Client] = []
        self.lines: list[Line] = []

    def ask(self, key: tuple[str, str] = KEY, fingerprint: bytes = ASKED, status: int = 200) -> Client:
        """A client that asks; a generation of that status begins if there must be one."""
        client = Client()

        def run(receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
            self.generations.append(Generation(client.record, status))
            return self.generations[-1].run(receive, send)

        return self.ask_for(run, key, fingerprint, client)

    def ask_for(
        self, run: Run, key: tuple[str, str] = KEY, fingerprint: bytes = ASKED, client: Client | None = None
    ) -> Client:
        """A client that asks for what `run` sends."""
        client = client or Client()
        answer = self.once.answer(key, fingerprint, run, client.record, client.receive, client.send)
        client.task = asyncio.create_task(answer)
        self.clients.append(client)
        return client

    async def begun(self, number: int = 0) -> Generation:
        """The generation of that number, counted from 0, as soon as it runs."""
        await until(lambda: len(self.generations) > number and self.generations[number].begun, "a generation")
        return self.generations[number]

    async def answered(self, key: tuple[str, str] = KEY, body: bytes = b"answer") -> Client:
        """A client that got a whole answer."""
        client, number = self.ask(key), len(self.generations)
        (await self.begun(number)).say(body, END)
        await client.done()
        return client


@asynccontextmanager
async def opened() -> AsyncIterator[House]:
    """At the end nothing may be left: no task, no memory after the answers have expired."""
    before = asyncio.all_tasks()
    house = House()
    yield house
    for line in house.lines:
        line.leave()
    await asyncio.wait_for(asyncio.gather(*(one.task for one in house.clients), return_exceptions=True), patience())
    await until(lambda: asyncio.all_tasks() - before <= {asyncio.current_task()}, "the end of every task")
    assert not [message for generation in house.generations for message in generation.heard]
    house.now += TTL
    house.once.expire()
    assert house.once.held == 0
