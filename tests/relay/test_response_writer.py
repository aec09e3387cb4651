"""What a client's answer begins with, and what becomes of one that a stop interrupts."""

import asyncio

import pytest

from service.errors import ApiError, ErrorCode
from service.observability.record import Record
from service.relay.response_writer import ResponseWriter
from service.server.asgi import Message
from tests.conftest import Start
from tests.support.exchanges import CHAT, EXCHANGES, Case, label
from tests.support.gateways import HOUSE
from tests.support.waiting import until


@pytest.mark.parametrize(("case", "stream"), EXCHANGES, ids=label)
async def test_nothing_on_the_way_keeps_a_stream_for_others(case: Case, stream: bool, start: Start) -> None:
    gateway = await start(HOUSE)
    response = await gateway.post(case.path, case.body(stream))
    assert response.status_code == 200
    assert response.headers.get("cache-control") == ("no-cache" if stream else None)
    assert response.headers.get("x-accel-buffering") == ("no" if stream else None)
    assert response.headers["content-type"].startswith("text/event-stream" if stream else "application/json")


async def test_a_stream_that_begins_while_it_waits_says_so_too(start: Start) -> None:
    gateway = await start("models: [{model: pebble-chat, min_replicas: 0}]", sse_heartbeat_interval=0.01)
    gateway.show(0, "scaled_to_zero")
    async with gateway.http.stream("POST", CHAT.path, json=CHAT.body(stream=True)) as response:
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        gateway.show(0, "ready")
        assert b"data: [DONE]" in await response.aread()


class PlainServer:
    """A server without our extension, whose client stops reading after so many messages; `sent` are their types."""

    def __init__(self, reads: int) -> None:
        self._reads, self.sent = reads, list[str]()

    async def send(self, message: Message) -> None:
        assert not self.sent or self.sent[-1] != "end", "a message after the end"
        kind = message["type"].rpartition(".")[2]
        self.sent.append("end" if kind == "body" and not message.get("more_body") else kind)
        if len(self.sent) > self._reads:
            await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("streamed", "reads", "sent"),
    [
        (False, 0, ["start"]),
        (False, 1, ["start", "end"]),
        (True, 0, ["start", "body", "end"]),
        (True, 1, ["start", "body", "body", "end"]),
        (True, 2, ["start", "body", "end"]),
    ],
)
async def test_what_a_stop_interrupts_gets_no_second_status_and_nothing_after_its_end(
    streamed: bool, reads: int, sent: list[str]
) -> None:
    server, record = PlainServer(reads), Record("id", CHAT.path, started=0.0)
    writer = ResponseWriter(server.send, "openai")

    async def answer() -> None:
        if streamed:
            await writer.open()
            await writer.send_events(b"data: 1\n\n")
            await writer.close()
        else:
            await writer.respond(b"{}", [])

    answering = asyncio.create_task(answer())
    await until(lambda: len(server.sent) > reads)
    answering.cancel()
    await asyncio.wait([answering])
    server._reads = 100
    await writer.fail(ApiError(ErrorCode.SHUTTING_DOWN, "The service is shutting down."), record)
    assert server.sent == sent
    assert record.code == "shutting_down"


async def test_the_last_events_of_a_stream_are_sent_with_its_end() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    writer = ResponseWriter(send, "openai")
    await writer.open()
    await writer.close(b"data: [DONE]\n\n")
    assert sent[1:] == [{"type": "http.response.body", "body": b"data: [DONE]\n\n"}]


async def test_an_error_before_anything_was_sent_is_raised() -> None:
    server, record = PlainServer(0), Record("id", CHAT.path, started=0.0)
    with pytest.raises(ApiError):
        await ResponseWriter(server.send, "openai").fail(ApiError(ErrorCode.SHUTTING_DOWN, "It stops."), record)
    assert server.sent == []
