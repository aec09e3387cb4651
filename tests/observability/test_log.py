"""Which requests and events get a line on standard output, and how people read it."""

import json
import logging
import os
import pty
import re
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from service.config.settings import Settings
from service.errors import ErrorCode
from service.observability import log as logs
from service.observability import log_lines
from service.observability.log import EventHandler, open_log
from service.observability.log_fields import Outcome
from service.observability.log_text import render
from service.observability.record import Record, log_fields
from tests.support.logs import log_line, log_to


def ended(endpoint: str = "/v1/chat/completions", outcome: Outcome = "complete", **known: Any) -> Record:
    record = Record("00000000" * 4, endpoint, 1.0, outcome=outcome, status=200, ended=2.0)
    for name, value in known.items():
        setattr(record, name, value)
    return record


def written(record: Record, **settings: Any) -> str:
    """The outcome in its line, or why it gets none."""
    lines: list[str] = []
    left_out: list[str] = []
    log_to(lines, left_out, **settings).request(record)
    assert len(lines) + len(left_out) == 1
    return left_out[0] if left_out else str(json.loads(lines[0])["outcome"])


READY = ErrorCode.MODEL_UNAVAILABLE


@pytest.mark.parametrize(
    ("record", "settings", "expected"),
    [
        (ended(), {}, "complete"),
        (ended("/health"), {}, "probe"),
        (ended("/metrics/engines/{replica}"), {}, "probe"),
        (ended("/metrics"), {"log_probes": True}, "complete"),
        (ended("/metrics", "refused", code=ErrorCode.INVALID_API_KEY), {}, "refused"),
        (ended("/ping", "refused", code=READY), {}, "probe"),
        (ended("/v1/completions", "refused", code=READY), {}, "refused"),
        (ended("/health", "failed"), {}, "failed"),
        (ended(), {"log_level": "warning"}, "level"),
        (ended(outcome="cancelled"), {"log_level": "warning"}, "level"),
        (ended(outcome="refused"), {"log_level": "warning"}, "refused"),
        (ended(outcome="refused"), {"log_level": "error"}, "level"),
        (ended(outcome="failed"), {"log_level": "error", "log_sample": 1e-9}, "failed"),
        (ended(request_id="7fffffff" * 4), {"log_sample": 0.5}, "complete"),
        (ended(request_id="80000000" * 4), {"log_sample": 0.5}, "sample"),
        (ended(outcome="cancelled", request_id="ff" * 16), {"log_sample": 0.5}, "cancelled"),
        (ended(outcome="refused", request_id="ff" * 16), {"log_sample": 0.5}, "refused"),
    ],
)
def test_a_request_gets_a_line_unless_the_settings_leave_it_out(
    record: Record, settings: dict[str, Any], expected: str
) -> None:
    assert written(record, **settings) == expected


def test_events_have_a_level_of_their_own() -> None:
    lines: list[str] = []
    log = log_to(lines, log_level="warning")
    log.event("reload", outcome="in use")
    log.event("reload", "error", problems=["é"])
    (line,) = map(json.loads, lines)
    assert (line["event"], line["level"], line["problems"]) == ("reload", "error", ["é"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line["time"]) and lines[0].isascii()


def test_what_is_said_to_logging_is_an_event() -> None:
    lines: list[str] = []
    logger = logging.Logger("some.library")
    logger.addHandler(EventHandler(log_to(lines, log_level="debug")))
    try:
        raise ValueError("x")
    except ValueError:
        logger.exception("it failed %d times\n\x1b[2J", 2)
    logger.debug("low")
    failed, low = map(json.loads, lines)
    assert (failed["event"], failed["level"], failed["logger"]) == ("message", "error", "some.library")
    assert failed["message"].startswith("it failed 2 times") and "ValueError: x" in failed["message"]
    assert all(line.isprintable() for line in lines)
    assert (low["level"], low["message"]) == ("debug", "low")


def shown(record: Record) -> str:
    return render(log_line(record, "2026-01-01T01:02:03Z"), False)


def test_a_request_is_one_line_of_text() -> None:
    record = ended(
        model="pebble-chat", replica="pebble-chat-0", tenant="acme", streamed=True, prompt_tokens=12, cached_tokens=8,
        completion_tokens=4, output_times=[1.25], attempts=2,
    )  # fmt: skip
    assert shown(record) == (
        "01:02:03 200 /v1/chat/completions  pebble-chat-0  12 (8 cached) + 4 tokens  first after 250 ms  1.0 s  "
        "2 attempts  acme  " + "0" * 32
    )
    record = ended(outcome="failed", code="upstream_error", reason="gone", requested="x" * 200, status=502)
    assert shown(record) == (
        f"01:02:03 502 /v1/chat/completions  {'x' * 128}  failed upstream_error gone  1.0 s  {'0' * 32}"
    )


def test_colours_are_by_level_and_only_where_they_are_wanted() -> None:
    for outcome, colour in (("complete", "32"), ("refused", "33"), ("failed", "31")):
        line = log_line(ended(outcome=outcome), "2026-01-01T01:02:03Z")  # type: ignore[arg-type]
        assert f"\x1b[{colour}m200\x1b[0m" in render(line, True)
        assert "\x1b" not in render(line, False)


@pytest.mark.parametrize("text", ["\x1b[2J\x1b]0;x\x07", "a\nb", "\u202eevil", "\x9b31m", "\ud800", "\x7f"])
def test_text_of_clients_cannot_control_a_terminal(text: str) -> None:
    assert shown(ended(requested=text)).isprintable()
    for fields in ({"message": text, "replica": text}, {"problems": [text]}, {"how": text}):
        line = render(json.dumps({"time": "", "level": "error", "event": "x", **fields}), False)
        assert line.isprintable()


def test_engines_and_libraries_speak_for_themselves() -> None:
    line = json.dumps({"time": "", "level": "error", "event": "engine", "replica": "m-0", "message": "one\ntwo"})
    assert render(line, False).endswith(" m-0  one\n    two")
    line = json.dumps({"time": "", "level": "warning", "event": "reload", "outcome": "refused", "problems": ["a", "b"]})
    assert render(line, False).endswith("warning reload  outcome=refused  problems=a; b")


@pytest.mark.parametrize(
    ("settings", "environ", "terminal", "expected"),
    [
        ({}, {}, True, "\x1b[33mwarning\x1b[0m"),
        ({}, {"NO_COLOR": "1"}, True, " warning hello"),
        ({}, {"TERM": "dumb"}, True, " warning hello"),
        ({"log_format": "json"}, {}, True, '"event": "hello"'),
        ({}, {}, False, '"event": "hello"'),
        ({"log_format": "text"}, {}, False, " warning hello"),
    ],
)
def test_a_terminal_gets_text_and_everything_else_json(
    settings: dict[str, Any], environ: dict[str, str], terminal: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pty.openpty() if terminal else os.pipe()
    monkeypatch.setattr(logs, "STANDARD_OUTPUT", theirs)
    for name, value in {"NO_COLOR": "", "TERM": "xterm", **environ}.items():
        monkeypatch.setenv(name, value)
    log = open_log(Settings(**settings))
    log.event("hello", "warning")
    log.close()
    written = os.read(ours, 4096).decode()
    os.close(ours)
    os.close(theirs)
    assert expected in written
    assert ("\x1b" in written) == ("\x1b" in expected)


def test_lines_become_text_in_the_thread_that_writes_them_and_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def noted(lines: Sequence[log_lines.Line]) -> bytes:
        threads.append(threading.current_thread().name)
        return encoded(lines)

    encoded, (reader, descriptor) = log_lines.encoded, os.pipe()
    monkeypatch.setattr(logs, "STANDARD_OUTPUT", descriptor)
    monkeypatch.setattr(log_lines, "encoded", noted)
    log = open_log(Settings())
    log.event("before")
    log.request(ended())
    log.event("after")
    log.close()
    lines = [json.loads(line) for line in os.read(reader, 2**16).splitlines()]
    os.close(reader)
    os.close(descriptor)
    assert [line["event"] for line in lines] == ["before", "request", "after"]
    assert {*threads} == {"log writer"}


@pytest.mark.parametrize("text", ["plain", "\x7f", "é", "\u2028", "\ud800", "a\nb"])
def test_many_lines_are_each_as_by_itself(text: str) -> None:
    event, odd, plain = json.dumps({"event": text}), ended(requested=text), ended()
    written = log_lines.encoded([event, log_fields(odd, "now"), log_fields(plain, "later"), event])
    assert written.endswith(b"\n") and written.replace(b"\n", b"").decode().isprintable()
    alone = [event, log_line(odd, "now"), log_line(plain, "later"), event]
    assert [*map(json.loads, written.decode().splitlines())] == [*map(json.loads, alone)]
