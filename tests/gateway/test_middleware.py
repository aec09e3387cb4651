"""The middleware: limits, request ids, the log line, and errors in the format of the endpoint."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from service.gateway import middleware
from service.observability.metrics import Metrics
from service.protocol.streams import StreamWatcher
from service.relay.preparation import Preparation
from service.server.asgi import Receive, Scope, Send
from tests.conftest import Start
from tests.support.exchanges import CASES, CHAT, COUNT, MESSAGE, RESPONSE, Case, error_in, is_refusal, label
from tests.support.gateways import ONE, RunningGateway
from tests.support.logs import log_to

BODY = json.dumps(CHAT.body()).encode()


async def post(gateway: RunningGateway, content: Any, *, path: str = CHAT.path, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await gateway.http.post(path, content=content, headers={"content-type": "application/json"} | named)


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
    gateway = await start(f"{ONE}\nunknown_fields: refuse")
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
        raise RuntimeError("a sec" + "ret")

    monkeypatch.setattr(Preparation, "resolve", resolve)
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
    assert "preparation.py" in logged.getMessage() and "RuntimeError" in logged.getMessage()
    assert "a secret" not in logged.getMessage() and not logged.exc_info  # it may be what the request says


async def test_internal_error_in_a_stream_closes_the_connection(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = StreamWatcher.feed, []

    def feed(watcher: StreamWatcher, data: bytes, now: float) -> bytes:
        calls.append(data)
        if len(calls) > 3:
            raise RuntimeError("a sec" + "ret")
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


@pytest.mark.parametrize("case", CASES, ids=label)
async def test_anthropics_name_of_the_request_id_is_on_its_own_endpoints(case: Case, start: Start) -> None:
    gateway = await start(ONE)
    for body in (case.body(), {}):
        response = await gateway.post(case.path, body)
        expected = response.headers["x-request-id"] if case.anthropic else None
        assert response.headers.get("request-id") == expected


NO_REQUESTS = {
    "not HTTP": b"hello\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "raw UTF-8": "GET /v1/modèles HTTP/1.1\r\nhost: x\r\n\r\n".encode(),
    "bare LF": b"GET /v1/models HTTP/1.1\nhost: x\n\n",
    "no Host": b"GET /v1/models HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("sent", NO_REQUESTS.values(), ids=NO_REQUESTS.keys())
async def test_what_is_no_request_is_answered_logged_and_counted(sent: bytes, start: Start) -> None:
    gateway = await start(ONE)
    line = await gateway.connect()
    await line.send(sent)
    answer = await line.answer()
    assert (answer.status, answer.headers["content-type"]) == (400, "application/json")
    assert answer.headers["connection"] == "close"
    assert answer.json["error"].items() >= {"code": "invalid_http", "type": "invalid_request_error"}.items()
    (logged,) = gateway.invalid
    assert logged["request_id"] == answer.headers["x-request-id"]
    assert logged["message"] == answer.json["error"]["message"]
    assert (logged["status"], logged["code"]) == (400, "invalid_http")
    assert gateway.sample("roundhouse_invalid_requests_total", code="invalid_http") == 1
    assert not gateway.given


async def test_a_broken_body_is_its_requests_error(start: Start) -> None:
    gateway = await start(ONE)
    line = await gateway.connect()
    await line.post(CHAT.path, b"zz\r\n", "transfer-encoding: chunked")
    answer = await line.answer()
    assert (answer.status, answer.json["error"]["code"]) == (400, "invalid_http")
    await gateway.settle()
    assert (gateway.lines[0]["code"], gateway.lines[0]["outcome"]) == ("invalid_http", "refused")
    assert not gateway.invalid


async def test_a_request_that_got_no_response_was_left_by_its_client() -> None:
    lines: list[str] = []

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        """What an endpoint does whose client is gone before it has anything to say."""

    recorder = middleware.RecordMiddleware(silent, Metrics(), str, log_to(lines, log_probes=True))
    scope: Scope = {"type": "http", "method": "GET", "path": "/metrics", "headers": []}
    await recorder(scope, _never, _nothing)
    (line,) = map(json.loads, lines)
    assert (line["outcome"], line["status"]) == ("cancelled", 499)


async def _never() -> Any:
    await asyncio.Event().wait()


async def _nothing(message: Any) -> None:
    raise AssertionError(message)
