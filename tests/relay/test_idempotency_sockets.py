"""Shared answers through a real server: what two connections see of one generation."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.errors import ApiError, upstream_failed
from service.relay.idempotency import PIECE
from service.server.asgi import ClientGoneError, Receive, Scope, Send, respond
from tests.relay.shared_answers import ASKED, END, Client, Generation, House, opened
from tests.support.gateways import Answer, Line
from tests.support.servers import serving
from tests.support.waiting import until


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with opened() as house:
        yield house


@asynccontextmanager
async def served(house: House) -> AsyncIterator[Callable[[str], Coroutine[Any, Any, Line]]]:
    """The house on a real socket; gives a function that sends a request with a key, and its connection."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for event in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{event}.complete"})
            return
        await receive()
        client = Client()
        key = dict(scope["headers"])[b"idempotency-key"].decode()

        def run(receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
            house.generations.append(Generation(client.record))
            return house.generations[-1].run(receive, send)

        try:
            await house.once.answer(("acme", key), ASKED, run, client.record, receive, send)
        except ApiError as error:
            await respond(send, error.status, error.message.encode())
        except ClientGoneError:
            pass

    with socket.create_server(("127.0.0.1", 0)) as listener:

        async def ask(key: str) -> Line:
            house.lines.append(line := Line(*await asyncio.open_connection(*listener.getsockname())))
            await line.post("/", b"{}", f"idempotency-key: {key}", "connection: close")
            return line

        async with serving(app, listener):
            yield ask


async def answers(*lines: Line) -> list[Answer]:
    return [await line.answer() for line in lines]


async def test_two_share_and_a_third_replays(house: House) -> None:
    async with served(house) as ask:
        first = await ask("a")
        generation = await house.begun()
        generation.say(b"one ")
        await first.read_until(b"one ")
        second = await ask("a")
        await second.read_until(b"one ")
        generation.say(b"two", END)
        assert (await first.rest()).endswith(b"two\r\n0\r\n\r\n")
        assert (await second.rest()).endswith(b"two\r\n0\r\n\r\n")
        (third,) = await answers(await ask("a"))
    assert (third.status, third.body, third.whole) == (200, b"one two", True)
    assert third.headers["x-roundhouse-replayed"] == "true"
    assert len(house.generations) == 1


async def test_the_first_leaves_then_the_last(house: House) -> None:
    async with served(house) as ask:
        first = await ask("a")
        generation = await house.begun()
        second = await ask("a")
        generation.say(b"one ")
        for line in (first, second):
            await line.read_until(b"one ")
        first.leave()
        generation.say(b"two ")
        await second.read_until(b"two ")
        assert not generation.ended
        second.leave()
        await until(lambda: generation.ended, "the end of the generation")
        assert not house.once._running


async def test_everyone_hears_of_an_error(house: House) -> None:
    async with served(house) as ask:
        lines = [await ask("a")]
        generation = await house.begun()
        lines.append(await ask("a"))
        await until(lambda: listeners(house) == 2, "the second client")
        generation.say(upstream_failed("The engine is gone."))
        for answer in await answers(*lines):
            assert (answer.status, answer.body) == (502, b"The engine is gone.")


async def test_a_reader_that_stops_holds_up_only_itself(house: House) -> None:
    async with served(house) as ask:
        slow = await ask("a")
        generation = await house.begun()
        fast = await ask("a")
        await until(lambda: listeners(house) == 2, "the second client")
        body = b"x" * PIECE
        generation.say(*[body] * 3, END)
        (answer,) = await answers(fast)
        assert answer.body == body * 3
        (late,) = await answers(slow)
        assert late.body == body * 3


async def test_a_server_that_stops_lets_shared_answers_end(house: House) -> None:
    lines = []
    async with served(house) as ask:
        lines.append(await ask("a"))
        generation = await house.begun()
        lines.append(await ask("a"))
        generation.say(b"one ")
        for line in lines:
            await line.read_until(b"one ")
    generation.say(b"two", END)
    for line in lines:
        assert (await line.rest()).endswith(b"two\r\n0\r\n\r\n")


def listeners(house: House) -> int:
    return sum(len(answer.listeners) for answer in house.once._running.values())
