"""The record of a request, and its log line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import convert
from msgspec.structs import fields, replace

from service.observability.record import Record, Usage
from tests.support.logs import log_line


def make_record(**known: object) -> Record:
    return replace(Record("id", "/v1/chat/completions", started=10.0), **known)


def test_ttft_and_gaps_come_from_the_output_times() -> None:
    record = make_record()
    assert record.ttft is None
    for now in (10.5, 10.6, 10.9):
        record.output_times.append(now)
    assert record.ttft == pytest.approx(0.5)
    assert record.gaps == pytest.approx([0.1, 0.3])


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16}, (12, 4, 0)),
        ({"prompt_tokens": 12, "prompt_tokens_details": {"cached_tokens": 8}}, (12, 0, 8)),
        ({"prompt_tokens": 12, "prompt_tokens_details": None}, (12, 0, 0)),
        ({"input_tokens": 13, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 3}}, (13, 4, 3)),
        ({"input_tokens": 12, "output_tokens": 4, "cache_read_input_tokens": 5}, (17, 4, 5)),
        ({"input_tokens": 0, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 7}, (12, 0, 5)),
        ({"prompt_tokens": -1, "completion_tokens": "4", "prompt_tokens_details": {"cached_tokens": None}}, (0, 0, 0)),
        ({}, (0, 0, 0)),
    ],
)
def test_usage_of_every_dialect(usage: dict[str, object], counts: tuple[int, int, int]) -> None:
    record = make_record()
    record.update_usage(convert(usage, Usage))
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens) == counts


def test_later_usage_keeps_known_counts() -> None:
    record = make_record()
    record.update_usage(Usage(input_tokens=12, output_tokens=0))
    record.update_usage(Usage(output_tokens=4))
    assert (record.prompt_tokens, record.completion_tokens) == (12, 4)


def test_log_line_of_a_complete_request() -> None:
    record = make_record(
        model="pebble-chat", variant="chat", route_reason="id", status=200, streamed=True, attempts=1, admitted=10.25,
        output_times=[10.5], ended=11.0, prompt_tokens=12, completion_tokens=4, finish_reason="stop",
    )  # fmt: skip
    line = json.loads(log_line(record, "2026-01-01T00:00:00Z"))
    assert line["time"] == "2026-01-01T00:00:00Z"
    assert (line["model"], line["route_reason"], line["status"], line["outcome"]) == (
        "pebble-chat",
        "id",
        200,
        "complete",
    )
    assert (line["time_to_admission_s"], line["ttft_s"], line["duration_s"]) == (0.25, 0.5, 1.0)
    assert (line["prompt_tokens"], line["completion_tokens"], line["finish_reason"]) == (12, 4, "stop")
    assert line["replayed"] is False
    assert json.loads(log_line(replace(record, replayed=True), "now"))["replayed"] is True


def test_record_has_no_field_for_prompts_or_outputs() -> None:
    texts = {row.name for row in fields(Record) if "str" in str(row.type)}
    assert texts == {
        "request_id", "endpoint", "client_request_id", "tenant", "key", "requested", "model", "variant", "family",
        "replica", "route_reason", "fallback", "fallback_of", "finish_reason", "code", "ignored_fields", "reason",
    }  # fmt: skip


CLIENT_FIELDS = ("requested", "client_request_id")


@given(st.sampled_from(CLIENT_FIELDS), st.text())
def test_client_text_cannot_add_log_lines(name: str, text: str) -> None:
    line = log_line(make_record(**{name: text}), "now")
    assert line.isascii() and line.isprintable()
    assert json.loads(line)[name] == (text[:128] if name == "requested" else text)


@pytest.mark.parametrize("text", ['x"}\n{"event": "forged', "\x1b[2J", "\u2028", "\r\n", "\ud800"])
def test_control_characters_are_escaped(text: str) -> None:
    line = log_line(make_record(requested=text), "now")
    assert line.isascii() and line.isprintable()
    assert json.loads(line)["event"] == "request"


def test_long_names_are_truncated() -> None:
    assert len(log_line(make_record(requested="x" * 10_000), "now")) < 1000
