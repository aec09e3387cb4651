"""Nothing that a client says is in any log, metric or file, whatever happens to the request; and nothing that it says
can look like a line of a log."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from service.auth.keys import FIRST, digest
from service.relay.relay import Relay
from tests.conftest import Start
from tests.fake_engine import Fault
from tests.support.exchanges import CHAT, COMPLETION, EMBEDDING, MESSAGE, RESPONSE, Case
from tests.support.gateways import HOUSE, RunningGateway

SECRET = "canary7f3a9c41d8e05b62ac"  # in what is said to a model
NAME = "kanari51c7e20b9f4d6a83"  # in what an error may repeat to the client that sent it, and a log may not
KEY = "rh_the-first-key-0123456789"
KEYS = {digest(KEY.encode()): FIRST}
QUOTING = json.dumps({"error": {"message": f"bad value: {SECRET} (parameter=messages, value={SECRET})"}}).encode()
FAULTS = (
    Fault(), Fault(status=400, body=QUOTING), Fault(status=500, body=QUOTING), Fault(status=200, body=QUOTING),
    Fault(raw=f"HTTP/1.1 {SECRET}\r\n\r\n".encode()), Fault(events=1), Fault(cut=20), Fault(dead=True, events=1),
    Fault(events=1, garble=f"data: {SECRET}\n\n".encode()), Fault(finish="abort"),
)  # fmt: skip
PNG = f"data:image/png;base64,{SECRET}"
PARTS = [{"type": "text", "text": SECRET}, {"type": "image_url", "image_url": {"url": PNG}}]
TOOL = {
    "name": "t",
    "description": SECRET,
    "parameters": {"type": "object", "properties": {SECRET: {"enum": [SECRET]}}},
}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": SECRET}}}
CALL = {"id": "c", "type": "function", "function": {"name": "t", "arguments": json.dumps({"a": SECRET})}}
SAID: tuple[tuple[Case, dict[str, Any]], ...] = (
    (CHAT, {"messages": [{"role": "system", "content": SECRET}, {"role": "user", "content": SECRET}], "user": SECRET}),
    (CHAT, {"messages": [{"role": "user", "content": PARTS}]}),
    (CHAT, {"tools": [{"type": "function", "function": TOOL}], "response_format": SCHEMA, "stop": SECRET}),
    (CHAT, {"messages": [{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": SECRET}]}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "file", "file": {"filename": SECRET}}]}]}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"http://{SECRET}"}}]}]}),
    (CHAT, {"temperature": SECRET, "metadata": {SECRET: SECRET}, "chat_template": SECRET}),
    (CHAT, {"messages": SECRET}),
    (COMPLETION, {"prompt": SECRET, "suffix": SECRET, "echo": True}),
    (RESPONSE, {"input": SECRET, "instructions": SECRET, "metadata": {"a": SECRET}}),
    (RESPONSE, {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": PNG}]}]}),
    (MESSAGE, {"system": SECRET, "messages": [{"role": "user", "content": SECRET}], "metadata": {"user_id": SECRET}}),
    (EMBEDDING, {"input": [SECRET]}),
)  # fmt: skip
SERVED = (SAID[0], SAID[9], SAID[11])  # what the engines answer, for them to fail at


@pytest.fixture(autouse=True)
def keyed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What fails on purpose is counted by nobody."""
    monkeypatch.setattr(RunningGateway, "settle", _settled)
    yield


async def _settled(self: RunningGateway) -> None:
    """The books of these requests are kept by the tests of faults."""


def kept(gateway: RunningGateway, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> str:
    """All that is left of requests: the access and audit log, Python's logging at every level, metrics, files."""
    records = [one for one in caplog.records if not one.name.startswith(("httpx", "httpcore"))]  # the client's own
    formatter = logging.Formatter()
    files = (path.read_text(errors="replace") for path in gateway.run_dir.iterdir() if path.is_file())
    said = (*gateway.output, *map(formatter.format, records), *capfd.readouterr(), *files)
    return "\n".join([*said, gateway.gateway.render_metrics().decode()])


async def test_what_is_said_to_a_model_is_nowhere_afterwards(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    audited = {"audit_log": tmp_path / "audit", "audit_requests": True}
    # An engine that has failed gets nothing for a while; what waits for it is not what is tried here.
    gateway = await start(HOUSE, keys=KEYS, queue_timeout=0.01, **audited)
    headers = {"x-api-key": KEY, "cookie": f"a={SECRET}", "x-custom": SECRET, "referer": f"http://x/{SECRET}"}
    statuses = set()
    for fault in FAULTS:
        for engine in gateway.engines:
            engine.always = fault
        for case, fields in SAID if fault == FAULTS[0] else SERVED:
            for stream in (False, True) if case.streams else (False,):
                url = f"{case.path}?q={SECRET}"
                answer = await gateway.http.post(url, json={**case.body(stream), **fields}, headers=headers)
                statuses.add(answer.status_code)
                if answer.status_code != 200:
                    assert SECRET not in answer.text, (case.name, fields, fault, answer.text)
    for body in (SECRET, f'{{"model": "{SECRET}', f'["{SECRET}"]', "\xff" + SECRET):
        answer = await gateway.http.post(
            CHAT.path, content=body.encode("latin-1"), headers={**headers, "content-type": "application/json"}
        )
        assert (answer.status_code, SECRET in answer.text) == (400, False)
    with mock.patch.object(Relay, "answer", side_effect=ValueError(SECRET)):
        answer = await gateway.http.post(CHAT.path, json=CHAT.body(), headers=headers)
        assert (answer.status_code, SECRET in answer.text) == (500, False)
    assert statuses >= {200, 400, 502}
    left = kept(gateway, caplog, capfd)
    assert "ValueError" in left and "model_used" in left and "roundhouse_requests_total" in left
    places = [left[max(0, at - 300) : at + 60] for at in range(len(left)) if left.startswith(SECRET, at)]
    assert not places, places[0]
    assert KEY not in left


async def test_a_name_is_in_the_access_log_where_it_belongs_and_nowhere_else(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    gateway = await start(HOUSE, keys=KEYS, audit_log=tmp_path / "audit", audit_requests=True)
    key = {"x-api-key": KEY}
    await gateway.http.post(CHAT.path, json={**CHAT.body(), "model": NAME}, headers={**key, "x-request-id": NAME})
    for method, path in (
        ("GET", f"/{NAME}"),
        (NAME, "/v1/models"),
        ("GET", f"/v1/models/{NAME}"),
        ("DELETE", f"/v1/responses/{NAME}"),
    ):
        await gateway.http.request(method, path, headers=key)
    for name in ("x-roundhouse-tenant", "x-roundhouse-priority", f"x-roundhouse-{NAME}", "idempotency-key", NAME):
        await gateway.http.post(CHAT.path, json={**CHAT.body(), NAME: NAME}, headers={**key, name: NAME})
    await gateway.http.post(CHAT.path, json=CHAT.body(), headers={"x-api-key": NAME, "authorization": f"Bearer {NAME}"})
    assert len(gateway.lines) >= 10
    for line in gateway.lines:  # what was asked for, and the client's own id of the request
        assert NAME not in json.dumps({**line, "requested": "", "client_request_id": ""}), line
    assert [line["requested"] for line in gateway.lines].count(NAME) == 1
    gateway.output.clear()
    assert NAME not in kept(gateway, caplog, capfd)


INJECTED = ('\r\n{"level":"error"}', "\x1b[2J", "\u2028\u2029", "\u202eevil\u2066", "\x00\x7f\x85", "\ud800")


async def test_nothing_can_look_like_a_line_of_a_log(start: Start, tmp_path: Path) -> None:
    gateway = await start(HOUSE, keys=KEYS, audit_log=tmp_path / "audit", audit_requests=True)
    bodies = [{**CHAT.body(), name: text * 300} for text in INJECTED for name in ("model", "user")]
    for body in bodies:
        headers = {"x-api-key": KEY, "content-type": "application/json"}
        await gateway.http.post(CHAT.path, content=json.dumps(body), headers=headers)
    raw = b"\xe2\x80\xa8\xe2\x80\xae\x1b[2J%0d%0a{%22level%22:%22error%22}"
    for request in (
        b"GET /%b HTTP/1.1\r\nhost: a\r\n", b"%b / HTTP/1.1\r\nhost: a\r\n", b"GET / HTTP/1.1\r\nhost: %b\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx-request-id: %b\r\n", b"GET / HTTP/1.1\r\nhost: a\r\nx-%b: b\r\n",
    ):  # fmt: skip
        line = await gateway.connect()
        await line.send(request % raw + b"connection: close\r\n\r\n")
        await line.rest()
    events = [json.loads(line) for line in gateway.output]
    assert {event["event"] for event in events} == {"audit", "request", "invalid_request"}
    assert len([event for event in events if event["event"] != "audit"]) == len(bodies) + 5
    for text in gateway.output:
        assert text.isascii() and text.isprintable() and len(text) < 2000, text
