"""Keys through a real server: what connections see of a first answer and of the same one again."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.errors import ApiError, ErrorCode
from service.server.asgi import ClientDisconnectedError, Receive, Scope, Send, extension_of, respond
from tests.relay.keyed_requests import ASKED, END, LARGEST, Client, House, opened
from tests.support.gateways import Answer, Line
from tests.support.servers import serving
from tests.support.waiting import until

Ask = Callable[[str], Coroutine[Any, Any, Line]]


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with opened() as house:
        yield house


@asynccontextmanager
async def served(house: House, *, ours: bool = True, buffer: int = 0) -> AsyncIterator[Ask]:
    """The house on a real socket; gives a function that sends a request with a key, and its connection.

    Unless it is `ours`, only ASGI's messages of the server are used. A client's kernel holds `buffer` bytes.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for event in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{event}.complete"})
            return
        await receive()
        key = "acme", dict(scope["headers"])[b"idempotency-key"].decode()
        record, extra = Client().record, extension_of(scope) if ours else None
        try:
            await house.cache.answer(key, ASKED, house.generation(record, receive), record, send, extra)
        except ApiError as error:
            rows = [(name.encode(), value.encode()) for name, value in error.headers.items()]
            await respond(send, error.status, error.message.encode(), rows)
        except ClientDisconnectedError:
            pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**12)

        async def ask(key: str) -> Line:
            one = socket.socket()
            if buffer:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            one.setblocking(False)
            await asyncio.get_running_loop().sock_connect(one, listener.getsockname())
            house.lines.append(line := Line(*await asyncio.open_connection(sock=one, limit=2**12)))
            await line.post("/", b"{}", f"idempotency-key: {key}", "connection: close")
            return line

        async with serving(app, listener):
            yield ask


async def answer(ask: Ask, key: str = "a") -> Answer:
    return await (await ask(key)).answer()


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "plain"])
async def test_one_streams_the_next_is_told_to_wait_and_a_later_one_replays(ours: bool, house: House) -> None:
    async with served(house, ours=ours) as ask:
        first = await ask("a")
        generation = await house.begun()
        generation.say(b"one ")
        await first.read_until(b"one ")
        second = await answer(ask)
        assert (second.status, second.headers["retry-after"]) == (409, "1")
        generation.say(b"two", END)
        assert (await first.rest()).endswith(b"two\r\n0\r\n\r\n")
        for _ in range(2):
            again = await answer(ask)
            assert (again.status, again.body, again.whole) == (200, b"one two", True)
            assert again.headers["idempotent-replayed"] == "true"
            assert again.headers["content-type"] == "text/plain"
    assert len(house.generations) == 1


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "plain"])
async def test_when_the_first_leaves_the_next_begins_anew(ours: bool, house: House) -> None:
    async with served(house, ours=ours) as ask:
        first = await ask("a")
        generation = await house.begun()
        generation.say(b"one ")
        await first.read_until(b"one ")
        first.leave()
        await until(lambda: generation.ended, "the end of the generation")
        second = await ask("a")
        (await house.begun(1)).say(b"anew", END)
        got = await second.answer()
        assert (got.status, got.body) == (200, b"anew")
        assert "idempotent-replayed" not in got.headers


async def test_an_error_is_not_kept(house: House) -> None:
    async with served(house) as ask:
        first = await ask("a")
        (await house.begun()).say(ApiError(ErrorCode.UPSTREAM_ERROR, "The engine is gone."))
        failed = await first.answer()
        assert (failed.status, failed.body) == (502, b"The engine is gone.")
        second = await ask("a")
        (await house.begun(1)).say(b"anew", END)
        assert (await second.answer()).body == b"anew"


async def test_slow_readers_get_all_of_it(house: House) -> None:
    """The generation waits for the first one; nothing waits for one that gets the answer again."""
    body = bytes(range(200)) * (LARGEST // 200)
    async with served(house, buffer=2**12) as ask:
        first = await ask("a")
        generation = await house.begun()
        pieces = [body[start : start + 500] for start in range(0, len(body), 500)]
        generation.say(*pieces, END)
        await until(lambda: generation.record.completion_tokens > 10, "some of it")
        assert (await first.answer()).body == body
        lines = [await ask("a") for _ in range(3)]
        assert (await answer(ask)).body == body
        assert [(await line.answer()).body for line in lines] == [body] * 3
    assert len(house.generations) == 1


async def test_a_server_that_stops_lets_the_answer_end(house: House) -> None:
    async with served(house) as ask:
        line = await ask("a")
        generation = await house.begun()
        generation.say(b"one ")
        await line.read_until(b"one ")
    generation.say(b"two", END)
    assert (await line.rest()).endswith(b"two\r\n0\r\n\r\n")
    await until(lambda: not house.cache._running, "the end of the answer")
