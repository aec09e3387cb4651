"""What is kept of a request, and the one line of JSON that is logged of it."""

import json
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.observability.record import Record, log_line


def record(**known: object) -> Record:
    return replace(Record("id", "/v1/chat/completions", started=10.0), **known)  # type: ignore[arg-type]


def test_output_marks_the_first_and_the_gaps_between() -> None:
    one = record()
    assert one.ttft is None
    for now in (10.5, 10.6, 10.9):
        one.outputs.append(now)
    assert one.ttft == pytest.approx(0.5)
    assert one.gaps == pytest.approx([0.1, 0.3])


def test_the_duration_is_known_at_the_end() -> None:
    assert record().duration == 0.0
    assert record(ended=12.5).duration == 2.5


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16}, (12, 4, 0)),
        ({"prompt_tokens": 12, "prompt_tokens_details": {"cached_tokens": 8}}, (12, 0, 8)),
        ({"prompt_tokens": 12, "prompt_tokens_details": None}, (12, 0, 0)),
        ({"input_tokens": 13, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 3}}, (13, 4, 3)),
        ({"input_tokens": 12, "output_tokens": 4, "cache_read_input_tokens": 5}, (12, 4, 5)),
        ({}, (0, 0, 0)),
    ],
)
def test_usage_of_every_dialect(usage: dict[str, object], counts: tuple[int, int, int]) -> None:
    one = record()
    one.use(usage)
    assert (one.prompt_tokens, one.completion_tokens, one.cached_tokens) == counts


def test_a_later_usage_adds_what_it_knows_and_forgets_nothing() -> None:
    one = record()
    one.use({"input_tokens": 12, "output_tokens": 0})
    one.use({"output_tokens": 4})
    assert (one.prompt_tokens, one.completion_tokens) == (12, 4)


def test_the_line_of_a_whole_request() -> None:
    one = record(
        model="pebble-chat", variant="chat", route="id", status=200, streamed=True, attempts=1, admitted=10.25,
        outputs=[10.5], ended=11.0, prompt_tokens=12, completion_tokens=4, finish_reason="stop",
    )  # fmt: skip
    line = json.loads(log_line(one, "2026-01-01T00:00:00Z"))
    assert line["time"] == "2026-01-01T00:00:00Z"
    assert (line["model"], line["route"], line["status"], line["outcome"]) == ("pebble-chat", "id", 200, "complete")
    assert (line["waited_s"], line["ttft_s"], line["duration_s"]) == (0.25, 0.5, 1.0)
    assert (line["prompt_tokens"], line["completion_tokens"], line["finish_reason"]) == (12, 4, "stop")
    assert line["replayed"] is False
    assert json.loads(log_line(record(replayed=True), "now"))["replayed"] is True


def test_a_record_has_no_place_for_prompts_or_outputs() -> None:
    texts = {row.name for row in fields(Record) if "str" in str(row.type)}
    assert texts == {
        "request_id", "endpoint", "client_request_id", "tenant", "requested", "model", "variant", "family", "replica",
        "route", "finish_reason", "code",
    }  # fmt: skip


CLIENTS_OWN = ("requested", "client_request_id")


@given(st.sampled_from(CLIENTS_OWN), st.text())
def test_a_client_cannot_write_lines_of_its_own(name: str, text: str) -> None:
    line = log_line(record(**{name: text}), "now")
    assert line.isascii() and line.isprintable()
    assert json.loads(line)[name] == text[:128]


@pytest.mark.parametrize("text", ['x"}\n{"event": "forged', "\x1b[2J", "\u2028", "\r\n", "\ud800"])
def test_control_characters_stay_escaped(text: str) -> None:
    line = log_line(record(requested=text), "now")
    assert line.isascii() and line.isprintable()
    assert json.loads(line)["event"] == "request"


def test_a_long_name_is_cut() -> None:
    assert len(log_line(record(requested="x" * 10_000), "now")) < 1000
