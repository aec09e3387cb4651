"""Reading a request's body: its media type, its size, and the time it takes."""

import asyncio
import json
from functools import partial
from typing import Any

import pytest

from service.gateway import app
from service.server.timeouts import ClientTimeouts
from tests.conftest import Start
from tests.gateway.test_middleware import BODY, post
from tests.support.exchanges import CHAT, MESSAGE, Case, error_in, is_refusal, label
from tests.support.gateways import ONE
from tests.support.waiting import PATIENCE

MEDIA_TYPES = [
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/jsonp",
    "json",
    "",
]


@pytest.mark.parametrize("media", MEDIA_TYPES)
async def test_media_type_other_than_json_gets_415(media: str, start: Start) -> None:
    gateway = await start(ONE)
    for case in (CHAT, MESSAGE):
        response = await post(gateway, BODY, path=case.path, content_type=media)
        assert is_refusal(case, response, 415, "unsupported_media_type")
    assert not gateway.seen


@pytest.mark.parametrize("case", [CHAT, MESSAGE], ids=label)
async def test_a_body_without_a_media_type_gets_415(case: Case, start: Start) -> None:
    gateway = await start(ONE)
    response = await gateway.http.post(case.path, content=BODY)
    assert is_refusal(case, response, 415, "unsupported_media_type")
    assert "'Content-Type: application/json'" in response.text
    assert not gateway.seen


@pytest.mark.parametrize("media", ["application/json", "Application/JSON; charset=utf-8", "application/json ;x=y"])
async def test_json_media_types_are_accepted(media: str, start: Start) -> None:
    gateway = await start(ONE)
    assert (await post(gateway, BODY, content_type=media)).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, identity", "x"])
async def test_compressed_body_gets_415(encoding: str, start: Start) -> None:
    gateway = await start(ONE)
    response = await post(gateway, BODY, content_encoding=encoding)
    assert is_refusal(CHAT, response, 415, "unsupported_media_type")
    assert (await post(gateway, BODY, content_encoding="identity")).status_code == 200


async def chunks(size: int) -> Any:
    for _ in range(size // 1000):
        yield b" " * 1000


@pytest.mark.parametrize("case", [CHAT, MESSAGE], ids=label)
async def test_body_beyond_the_limit_gets_413(case: Case, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "ClientTimeouts", partial(ClientTimeouts, linger=PATIENCE))  # while the client still sends
    gateway = await start(ONE, max_body_bytes=10_000)
    for content in (b" " * 10_001, chunks(11_000), chunks(1_000_000)):
        response = await post(gateway, content, path=case.path)
        kind = error_in(case, response.content)
        assert response.status_code == 413
        assert kind == (("request_too_large", "") if case.anthropic else ("invalid_request_error", "request_too_large"))
    body = json.dumps(case.body()).encode()
    assert (await post(gateway, body.ljust(10_000), path=case.path)).status_code == 200


async def test_content_length_beyond_the_limit_gets_413_at_once(start: Start) -> None:
    gateway = await start(ONE, max_body_bytes=10_000)
    connection = await gateway.connect()
    await connection.post(CHAT.path, b"", "content-length: 10001")
    assert b" 413 " in await connection.read_until(b"\r\n")
    connection.leave()


@pytest.mark.parametrize("sent", [b"", BODY[:10]])
@pytest.mark.parametrize("case", [CHAT, MESSAGE], ids=label)
async def test_incomplete_body_times_out_with_408(sent: bytes, case: Case, start: Start) -> None:
    gateway = await start(ONE, body_timeout=0.1)
    connection = await gateway.connect()
    await connection.post(case.path, sent, "content-length: 1000", "connection: close")
    answer = await connection.answer()
    assert answer.status == 408
    error_in(case, answer.body)
    connection.leave()
    await gateway.settle()
    assert (gateway.lines[0]["code"], gateway.lines[0]["outcome"]) == ("request_timeout", "refused")


async def test_a_body_that_drips_times_out_with_408(start: Start) -> None:
    gateway = await start(ONE, body_timeout=30.0, body_total_timeout=0.3)
    connection = await gateway.connect()
    await connection.post(CHAT.path, b"", "content-length: 1000000", "connection: close")

    async def drip() -> None:
        while True:  # no part keeps the gateway waiting for long
            await connection.send(b" ")
            await asyncio.sleep(0.01)

    dripping = asyncio.create_task(drip())
    gateway.before.add(dripping)
    try:
        answer = await connection.answer()
    finally:
        dripping.cancel()
    assert answer.status == 408
    assert "within 0.3 s" in answer.json["error"]["message"]
    await gateway.settle()
    assert not gateway.seen


async def test_body_may_arrive_byte_by_byte(start: Start) -> None:
    gateway = await start(ONE)
    connection = await gateway.connect()
    await connection.post(CHAT.path, b"", f"content-length: {len(BODY)}", "connection: close")
    for byte in BODY:
        await connection.send(bytes([byte]))
    assert (await connection.answer()).status == 200
    assert gateway.seen[0].body == BODY
    connection.leave()


async def test_chunked_body_is_accepted(start: Start) -> None:
    gateway = await start(ONE)
    connection = await gateway.connect()
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(BODY[at : at + 7]), BODY[at : at + 7]) for at in range(0, len(BODY), 7))
    await connection.post(CHAT.path, chunked + b"0\r\n\r\n", "transfer-encoding: chunked", "connection: close")
    assert (await connection.answer()).status == 200
    assert gateway.seen[0].body == BODY
    connection.leave()


@pytest.mark.parametrize(
    "request_headers",
    [
        ["content-length: 5", "transfer-encoding: chunked"],
        ["content-length: 5, 6"],
        ["content-length: -1"],
        ["transfer-encoding: gzip"],
    ],
)
async def test_ambiguous_body_length_is_refused(request_headers: list[str], start: Start) -> None:
    gateway = await start(ONE)
    connection = await gateway.connect()
    await connection.post(CHAT.path, b"5\r\nhello\r\n0\r\n\r\n", *request_headers, "connection: close")
    assert (await connection.answer()).status in (400, 408)
    assert not gateway.seen
    connection.leave()
