"""Requests from logs and files."""

import json
from typing import Any

import pytest

from service.autoscaling.capacity import Capacity, Size
from service.autoscaling.simulation import Arrival
from service.autoscaling.trace import Request, arrivals, mean_seconds, mean_size, moment, read_csv, read_jsonl, read_log
from service.errors import ApiError, ErrorCode
from service.observability.record import Record
from tests.support.logs import log_line

WRONG = (
    ("time", "7e999"), ("time", "null"), ("duration_s", '"3"'), ("duration_s", "-1"), ("time_to_admission_s", "[]"),
    ("model", "[1]"), ("event", "3"),
)  # fmt: skip
AT = moment("2026-11-20T09:30:00Z")


def line(**fields: Any) -> str:
    """The line that the gateway writes for a request that took 10 s and waited 2 s, with these fields of its record."""
    record = Record("r" * 32, "/v1/chat/completions", 100.0)
    record.model, record.admitted, record.ended, record.status = "llama", 102.0, 110.0, 200
    record.prompt_tokens, record.completion_tokens, record.output_times = 300, 50, [103.0, 109.0]
    for name, value in fields.items():
        setattr(record, name, value)
    return log_line(record, "2026-11-20T09:30:00Z")


def refused(code: ErrorCode) -> str:
    record = Record("r" * 32, "/v1/chat/completions", 100.0)
    record.fail(ApiError(code, "no"))
    return line(admitted=None, output_times=[], prompt_tokens=0, completion_tokens=0, code=code, outcome=record.outcome)


def test_a_line_of_the_log_is_a_request() -> None:
    assert list(read_log([line()])) == [("llama", Request(AT - 10, Size(300, 50), 8.0, 1.0))]
    assert list(read_log(["2026-11-20 gateway[3]: " + line()])) == list(read_log([line()]))


def test_what_was_no_demand_is_left_out_and_what_was_refused_for_lack_of_it_is_not() -> None:
    none = [
        refused(ErrorCode.RATE_LIMIT_EXCEEDED), refused(ErrorCode.INVALID_REQUEST), line(replayed=True), line(model=""),
        *(line().replace(f'"{name}":', f'"{name}":{wrong},"was":') for name, wrong in WRONG), "{" * 9999 + '"request"',
        '{"event":"start","detail":"a \\"request\\""}', "", '{"event":"request"', '["request"]',
    ]  # fmt: skip
    assert list(read_log(none)) == []
    cut = line(outcome="cancelled")  # it did not run as long as it would have
    assert [one for _, one in read_log([refused(ErrorCode.OVERLOADED), cut])] == [
        Request(AT - 10, None, None, None)
    ] * 2


def test_files() -> None:
    rows = "time,prompt_tokens,completion_tokens,seconds,other\n3,10,20,,x\n1.5,,,4,\n"
    assert list(read_csv(rows.splitlines())) == [Request(3, Size(10, 20), None, None), Request(1.5, None, 4, None)]
    lines = [json.dumps({"time": "2026-11-20T09:30:00Z", "completion_tokens": 7}), ""]
    assert list(read_jsonl(lines)) == [Request(AT, Size(0, 7), None, None)]


@pytest.mark.parametrize(
    ("read", "text", "why"),
    [
        (read_csv, "at,seconds\n1,2", "line 1: no column 'time'; columns are time, prompt_tokens"),
        (read_csv, "time\n1\nnoon", "line 3: 'noon' is neither seconds nor a date such as"),
        (read_csv, "time,seconds\n1,-2", "line 2: numbers must be 0 or more"),
        (read_csv, "time,seconds\n1,x", "line 2: could not convert"),
        (read_csv, "time,seconds\n1,nan", "line 2: numbers must be 0 or more"),
        (read_csv, "time\nnan", "line 2: 'nan' is neither seconds nor a date"),
        (read_jsonl, '{"time":1}\n{"time"', "line 2: not JSON"),
        (read_csv, "time\n" + "1" * 200_000, "line 2: field larger than"),
        (read_jsonl, '{"at":1}', "line 1: no object with a key 'time'"),
    ],
)
def test_a_mistake_in_a_file_is_named(read: Any, text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        list(read(text.splitlines()))


def test_requests_become_arrivals_as_they_ran_or_as_the_capacity_says() -> None:
    requests = [Request(20.0, Size(100, 50), 8.0, 1.0), Request(10.0, None, None, None)]
    assert mean_size(requests) == Size(100, 50)
    assert mean_seconds(requests) == 8.0
    capacity = Capacity(2.0, 10, 0.5, prompt_rate=1000.0, output_rate=100.0)
    assert arrivals(requests, capacity, as_measured=True) == [Arrival(0.0, 1, 5.0, 0.5), Arrival(10.0, 1, 8.0, 1.0)]
    assert len(arrivals([*requests, *requests], capacity, as_measured=True)) == 4  # several in the same second
    with pytest.raises(ValueError, match="the requests span 19,676 days, more than 366: are all times of one clock"):
        arrivals([Request(1.7e9, None, None, None), requests[1]], capacity, as_measured=True)
    # (100 / 1000 + 50 / 100) x 10 seconds, of which 100 / 1000 for the prompt
    assert arrivals(requests, capacity, as_measured=False) == [Arrival(0.0, 1, 5.0, 0.5), Arrival(10.0, 1, 6.0, 0.1)]
