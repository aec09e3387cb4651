"""Clients that send too much, too slowly or only half of it, byte by byte, and those beside them."""

import asyncio
import json

import psutil
import pytest

from tests.conftest import Start
from tests.support.exchanges import CHAT
from tests.support.gateways import ONE
from tests.support.waiting import until

HALF = 100  # of each kind
HEAD = f"POST {CHAT.path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n".encode()
MEGABYTE = b" " * 2**20
SENT = 64  # MB
BODY = json.dumps(CHAT.body()).encode()


async def test_a_good_request_is_answered_beside_200_half_open_connections(start: Start) -> None:
    """Half of a head, or a head and half of a body; the latter are closed when their time is up."""
    gateway = await start(ONE, body_timeout=2.0)
    heads = [await gateway.connect() for _ in range(HALF)]
    bodies = [await gateway.connect() for _ in range(HALF)]
    for line in heads:
        await line.send(HEAD)
    for line in bodies:
        await line.post(CHAT.path, BODY[:10], f"content-length: {len(BODY)}", "connection: close")
    await until(lambda: gateway.started == HALF, "the arrival of their heads")
    assert (await gateway.post(CHAT.path, CHAT.body())).status_code == 200
    for answer in await asyncio.gather(*(line.answer() for line in bodies)):
        assert answer.status == 408
    assert len(gateway.seen) == 1
    for line in heads:
        line.leave()
    await gateway.settle()


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
async def test_64_megabytes_are_refused_and_not_kept(framing: str, start: Start) -> None:
    gateway = await start(ONE)
    line = await gateway.connect()
    before = psutil.Process().memory_info().rss
    announced = f"content-length: {SENT * 2**20}" if framing == "content-length" else "transfer-encoding: chunked"
    await line.post(CHAT.path, b"", announced)
    most = before
    try:
        for _ in range(SENT):
            await line.send(b"%x\r\n%b\r\n" % (len(MEGABYTE), MEGABYTE) if framing == "chunked" else MEGABYTE)
            most = max(most, psutil.Process().memory_info().rss)
    except ConnectionError:
        pass  # it is refused before all of it is sent
    await until(lambda: len(gateway.lines) == 1, "the refusal")
    assert gateway.lines[0]["code"] == "request_too_large" and not gateway.seen
    assert most - before < 2 * 4 * 2**20 + 8 * 2**20  # twice the limit, and what the client here needs
    line.leave()
    await gateway.settle()


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (["content-type: text/plain"], BODY, 415),
        (["content-type: application/json", "content-encoding: gzip"], BODY, 415),
        (["content-type: application/json"], b"{", 400),
        (["content-type: application/json"], b'{"model":"pebble-chat","n":NaN}', 400),
    ],
)
async def test_the_next_request_of_a_connection_is_read_where_it_begins(
    headers: list[str], body: bytes, status: int, start: Start
) -> None:
    """A refused body is not taken for the request behind it."""
    gateway = await start(ONE)
    line = await gateway.connect()
    rows = [f"POST {CHAT.path} HTTP/1.1", "host: test", *headers, f"content-length: {len(body)}", "", ""]
    await line.send("\r\n".join(rows).encode() + body)
    refused = await line.read_until(b"\r\n\r\n")
    assert refused.startswith(f"HTTP/1.1 {status} ".encode())
    if b"connection: close" not in refused.lower():
        await line.post(CHAT.path, BODY, "connection: close")
        assert b"HTTP/1.1 200 OK" in await line.rest() and len(gateway.seen) == 1
    line.leave()
    await gateway.settle()
