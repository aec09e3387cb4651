"""The audit log: bounded whatever strangers do, one line of JSON for each action whatever a text holds."""

import json
from typing import Any

from service.observability import audit
from service.observability.audit import REFUSALS, AuditLog, audit_line
from service.observability.log_writer import LogWriter
from service.observability.record import Record
from tests.support.each import each


class Lines(LogWriter):
    """Keeps the lines."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.lines: list[dict[str, Any]] = []

    def write(self, line: str) -> None:
        self.lines.append(json.loads(line))

    def close(self) -> None:
        pass


def refused(client: str) -> tuple[dict[str, Any], Record]:
    scope = {"method": "POST", "path": "/v1/models", "client": (client, 1)}
    return scope, Record("r", "/v1/models", 0.0, code="invalid_api_key", status=401)


def test_strangers_get_so_many_lines_a_minute_and_the_others_are_counted() -> None:
    lines, now = Lines(), [0.0]
    log = AuditLog(lines, requests=True, clock=lambda: now[0])
    for _ in range(REFUSALS + 1000):
        log.observe(*refused("10.0.0.1"))
    assert len(lines.lines) == REFUSALS
    assert lines.lines[0] == {
        "time": "1970-01-01T00:00:00Z", "event": "audit", "action": "refused", "key": "", "tenant": "",
        "request_id": "r",
        "client": "10.0.0.1", "endpoint": "/v1/models", "status": 401, "code": "invalid_api_key",
    }  # fmt: skip
    now[0] = 61.0
    log.expire()
    assert lines.lines[REFUSALS:] == [
        {"time": "1970-01-01T00:01:01Z", "event": "audit", "action": "refused_more", "count": 1000}
    ]
    log.observe(*refused("10.0.0.2"))
    log.close()
    assert [line["action"] for line in lines.lines[REFUSALS:]] == ["refused_more", "refused"]


@each("text", ['\r\n{"level":"error"', "\x1b[2J", "\u2028\u202e\x7f", "\ud800", '"},{'], ids=ascii)
def test_a_text_cannot_be_a_line_of_its_own(text: str) -> None:
    line = audit_line(0.0, "x", {"text": text * 1000, "list": [text] * 1000})
    assert line.isascii() and line.isprintable()
    found = json.loads(line)
    assert found["text"] == (text * 1000)[: audit.LONGEST]
    assert found["list"][-1] == f"and {1000 - audit.MOST} more"
