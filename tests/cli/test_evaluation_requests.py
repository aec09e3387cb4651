"""How an evaluation asks: again where it is told to wait, not for ever, and never what is refused for good."""

import asyncio
import json
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click
import pytest

from service.cli.evaluation_requests import FAILURES, RETRY_TIME, Client, Target
from service.evaluation.calls import Call, Reply

OK = (200, {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3}})
BUSY, BROKEN = (429, {"error": {"message": "busy"}}), (502, {"error": {"message": "no  such\nluck"}})
WRONG = (400, {"error": {"message": "too long"}})
ODD: tuple[int, object] = (200, {"choices": []})


@asynccontextmanager
async def answering(*answers: tuple[int, object]) -> AsyncIterator[tuple[str, Counter[int]]]:
    """A service that gives these answers, the last one for ever; its address, and how often it gave which status.

    The status 0 closes the connection instead.
    """
    left, given = deque(answers), Counter[int]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                asked = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(asked.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
                status, body = left.popleft() if len(left) > 1 else left[0]
                given[status] += 1
                if not status:
                    return
                data = json.dumps(body).encode()
                head = f"HTTP/1.1 {status} x\r\nretry-after: 7\r\nx-request-id: abc\r\ncontent-length: {len(data)}"
                writer.write(f"{head}\r\n\r\n".encode() + data)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", given


async def ask(url: str, count: int = 1) -> tuple[list[Reply], dict[str, str], list[float]]:
    """The replies, the refusals, and the seconds that it would have waited."""

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    waits: list[float] = []
    calls = [Call("answer", "/v1/chat/completions", {"model": "m", "n": number}) for number in range(count)]
    replies: list[Reply] = []
    done: list[None] = []
    async with Client(Target(url, None, 2, 30), sleep) as client:
        refusals = await client.ask_all(calls, replies.append, lambda: done.append(None))
    assert len(done) == count
    return replies, refusals, waits


async def test_what_is_told_to_wait_is_asked_again() -> None:
    async with answering(BUSY, BUSY, (503, {}), BROKEN, (0, None), OK) as (url, given):
        (reply,), refusals, waits = await ask(url)
        assert (reply.text, reply.finish, reply.prompt_tokens, reply.request_id) == ("yes", "stop", 3, "abc")
        assert not refusals and waits == [7, 7, 7, 1, 2]
        assert given == {429: 2, 503: 1, 502: 1, 0: 1, 200: 1}


@pytest.mark.parametrize(
    ("answer", "times", "reason"),
    [
        (WRONG, 1, "400: too long"),
        (BROKEN, FAILURES, "502: no such luck"),
        (ODD, 1, "the answer is not"),
    ],
    ids=["refused", "broken", "odd"],
)
async def test_what_does_not_get_better_is_given_up(answer: tuple[int, object], times: int, reason: str) -> None:
    async with answering(answer) as (url, given):
        replies, refusals, _ = await ask(url, 3)
        assert not replies and given[answer[0]] == 3 * times
        assert all(said.startswith(reason) for said in refusals.values())


async def test_a_service_that_is_always_full_is_not_asked_for_ever() -> None:
    async with answering(BUSY) as (url, _):
        _, refusals, waits = await ask(url)
        assert list(refusals.values()) == ["429: busy"]
        assert RETRY_TIME - 7 <= sum(waits) <= RETRY_TIME + 7


async def test_a_service_that_is_gone_ends_the_command() -> None:
    async with answering((0, None)) as (url, _):
        with pytest.raises(click.ClickException, match=r"does not answer any more.*Run the same command again"):
            await ask(url, 4)
