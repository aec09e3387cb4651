"""The middleware: limits, request ids, the log line, and errors in the format of the endpoint."""

import json
from typing import Any

import httpx
import pytest

from service.gateway import middleware
from service.protocol.streams import StreamWatcher
from service.relay.relay import Relay
from tests.conftest import Start
from tests.support.exchanges import CASES, CHAT, COUNT, MESSAGE, RESPONSE, Case, error_in, is_refusal, label
from tests.support.gateways import ONE, RunningGateway

BODY = json.dumps(CHAT.body()).encode()


async def post(gateway: RunningGateway, content: Any, *, path: str = CHAT.path, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await gateway.http.post(path, content=content, headers={"content-type": "application/json"} | named)


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
async def test_body_beyond_the_limit_gets_413(case: Case, start: Start) -> None:
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


async def test_too_many_headers_get_431(start: Start) -> None:
    gateway = await start(ONE)
    for count, status in ((middleware.MAX_HEADERS - 10, 200), (middleware.MAX_HEADERS + 1, 431)):
        response = await post(gateway, BODY, **{f"x-h{number}": "x" for number in range(count)})
        assert response.status_code == status
    assert response.json()["error"]["code"] == "headers_too_large"


async def test_headers_beyond_the_size_limit_get_431(start: Start) -> None:
    gateway = await start(ONE, max_header_bytes=4000)
    assert (await post(gateway, BODY, x_long="x" * 3000)).status_code == 200
    for case in (CHAT, MESSAGE):
        response = await post(gateway, json.dumps(case.body()).encode(), path=case.path, x_long="x" * 4000)
        assert is_refusal(case, response, 431, "headers_too_large")


@pytest.mark.parametrize("case", CASES, ids=label)
async def test_errors_follow_the_endpoints_format(case: Case, start: Start) -> None:
    gateway = await start(ONE)
    for body, code in (
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b"{}", "missing_required_parameter"),
        (json.dumps({**case.body(), "model": "nope"}).encode(), "model_not_found"),
        (json.dumps({**case.body(), "surprise": 1}).encode(), "unknown_parameter"),
    ):
        response = await post(gateway, body, path=case.path)
        kind, error_code = error_in(case, response.content)
        missing = code == "model_not_found"
        assert response.status_code == (404 if missing else 400)
        if case.anthropic:
            assert kind == ("not_found_error" if missing else "invalid_request_error")
        else:
            assert error_code == code
    await gateway.settle()
    assert {line["outcome"] for line in gateway.lines} == {"refused"}
    assert {line["attempts"] for line in gateway.lines} == {0}


async def test_unknown_path_below_messages_gets_an_anthropic_error(start: Start) -> None:
    gateway = await start(ONE)
    for method in ("GET", "POST"):
        response = await gateway.http.request(method, "/v1/messages/batches")
        assert (response.status_code, error_in(COUNT, response.content)) == (404, ("not_found_error", ""))


IDS = [
    ("mine-1.2_3", "mine-1.2_3"),
    ("x" * 64, "x" * 64),
    *((header, None) for header in ("x" * 65, "two words", '"', "", "é", "a\tb")),
]


@pytest.mark.parametrize(("header", "expected"), IDS)
async def test_valid_client_request_id_is_logged(header: str, expected: str | None, start: Start) -> None:
    gateway = await start(ONE)
    response = await gateway.http.get("/v1/models", headers=[(b"x-request-id", header.encode())])
    await gateway.settle()
    (line,) = gateway.lines
    assert line["client_request_id"] == expected
    assert response.headers["x-request-id"] == line["request_id"] != header
    assert len(line["request_id"]) == 32


@pytest.mark.parametrize("path", ["/v1/models", "/nope", "/v1/messages", "/metrics"])
async def test_every_response_has_a_request_id(path: str, start: Start) -> None:
    gateway = await start(ONE)
    ids = [(await gateway.http.get(path)).headers["x-request-id"] for _ in range(3)]
    await gateway.settle()
    assert [line["request_id"] for line in gateway.lines] == ids


@pytest.mark.parametrize("case", [CHAT, RESPONSE, MESSAGE], ids=label)
async def test_internal_error_hides_its_cause(case: Case, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(Relay, "resolve", resolve)
    gateway = await start(ONE)
    gateway.expected_errors = 1
    response = await gateway.post(case.path, case.body())
    kind, code = error_in(case, response.content)
    assert (response.status_code, kind) == (500, "api_error" if case.anthropic else "server_error")
    assert code == ("" if case.anthropic else "internal_error")
    assert not any(word in response.text for word in ("secret", "Traceback", "RuntimeError", "relay"))
    await gateway.settle()
    (line,) = gateway.lines
    assert (line["outcome"], line["status"], line["code"]) == ("failed", 500, "internal_error")
    # The log has the details, under the request id that the client gets.
    (logged,) = gateway.errors.records
    assert response.headers["x-request-id"] in logged.getMessage()
    assert logged.exc_info


async def test_internal_error_in_a_stream_closes_the_connection(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = StreamWatcher.feed, []

    def feed(watcher: StreamWatcher, data: bytes, now: float) -> bytes:
        calls.append(data)
        if len(calls) > 3:
            raise RuntimeError("a secret")
        return original(watcher, data, now)

    monkeypatch.setattr(StreamWatcher, "feed", feed)
    gateway = await start(ONE)
    gateway.engines[0].gap = 0.02
    gateway.expected_errors = 1
    with pytest.raises(httpx.RemoteProtocolError):
        await gateway.post(CHAT.path, CHAT.body(stream=True))
    await gateway.seen[0].closed.wait()
    await gateway.settle()
    assert (gateway.lines[0]["outcome"], gateway.lines[0]["code"]) == ("failed", "internal_error")
