"""What lets a model pass the gate, and what does not; when an alarm rings."""

from collections.abc import Iterable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.upgrade.alarms import Counts, alarm, counts
from service.upgrade.comparison import Answer, Bounds, Finding, Pair, Timing, answers, speed, templates, tools_of
from service.upgrade.service import answer_of
from tests.support.each import each

SAME = Answer("a b", ("a", " b"), (-0.1, -0.2))
TOOLS = tools_of([{"type": "function", "function": {"name": "f", "parameters": {"required": ["x"]}}}])


def refused(findings: Iterable[Finding]) -> list[str]:
    return [one.what for one in findings if not one.passed]


def pairs(*new: Answer, old: Answer = SAME, tools: bool = False) -> list[Pair]:
    return [Pair(f"g:{number}", old, one, TOOLS if tools else {}) for number, one in enumerate(new, 1)]


def calling(name: str, arguments: str) -> Answer:
    return Answer("", calls=((name, arguments),))


@each(
    ("asked", "problems"),
    [
        (pairs(*[SAME] * 10), []),
        (pairs(*[SAME] * 9, Answer("a c", ("a", " c"), (-0.1, -3.0))), []),
        (pairs(*[SAME] * 8, *[Answer("a c", ("a", " c"), (-0.1, -3.0))] * 2), ["greedy answers alike"]),
        (pairs(*[Answer("a b", ("a", " b"), (-0.1, -0.5))] * 10), ["log probability drift"]),
        (pairs(*[SAME] * 9, Answer(error="it failed")), ["errors"]),
        (pairs(Answer(error="it failed"), old=Answer(error="it failed")), ["answers"]),
        (pairs(calling("f", '{"x": 1}'), old=calling("f", '{"x": 1}'), tools=True), []),
        (pairs(calling("f", "{}"), old=calling("f", '{"x": 1}'), tools=True),
         ["greedy answers alike", "valid tool calls"]),
        (pairs(calling("f", "{x"), old=calling("f", "{x"), tools=True), []),
        (pairs(calling("g", '{"x": 1}'), old=calling("f", '{"x": 1}'), tools=True),
         ["greedy answers alike", "valid tool calls"]),
    ],
)  # fmt: skip
def test_answers_pass_within_the_bounds(asked: list[Pair], problems: list[str]) -> None:
    assert refused(answers(asked, Bounds())) == problems


def test_drift_is_that_of_the_same_text() -> None:
    other = Answer("a c", ("a", " c"), (-0.3, -9.0))
    (drift,) = [one for one in answers(pairs(other), Bounds()) if one.what == "log probability drift"]
    assert drift.new == "0.2000"


@pytest.mark.parametrize("allowed", [False, True])
def test_another_rendering_is_refused_unless_it_is_allowed(allowed: bool) -> None:
    found = templates(["g:1", "g:2"], [([1, 2], [1, 2]), ([1, 2], [1, 3])], allowed=allowed)
    assert found.passed is allowed
    assert found.detail.startswith("g:2 is rendered otherwise")


@each(
    ("old", "new", "problems"),
    [
        ((0.1, 0.01), (0.12, 0.012), []),
        ((0.1, 0.01), (0.2, 0.01), ["median TTFT"]),
        ((0.1, 0.01), (0.1, 0.03), ["median ITL"]),
        ((0.001, 0.001), (0.015, 0.004), []),
    ],
)
def test_speed_is_compared_by_medians(old: tuple[float, float], new: tuple[float, float], problems: list[str]) -> None:
    one, other = ([Timing(ttft, (gap, gap))] * 3 for ttft, gap in (old, new))
    assert refused(speed(one, other, Bounds())) == problems
    assert refused(speed([], other, Bounds())) == ["streams"]


@each(
    ("choice", "answer"),
    [
        ({"text": "b", "logprobs": {"tokens": ["b"], "token_logprobs": [-1]}}, Answer("b", ("b",), (-1.0,))),
        ({"message": {"content": "b"}, "logprobs": {"content": [{"token": "b", "logprob": -1}]}},
         Answer("b", ("b",), (-1.0,))),
        ({"message": {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}},
         Answer("", calls=(("f", "{}"),))),
    ],
)  # fmt: skip
def test_answers_are_read_from_both_kinds_of_completions(choice: dict[str, object], answer: Answer) -> None:
    assert answer_of(choice) == answer


GOOD = Counts(100, 1, 0, 0, {0.1: 90, 0.2: 10})
ALARMS: list[tuple[Counts, str]] = [
    (GOOD, ""),
    (Counts(), ""),
    (Counts(5, 1), ""),
    (Counts(100, 2), ""),
    (Counts(100, 3), "3 of 100 requests failed (3.0%; of the old one's 1.0%)"),
    (Counts(100, 0, ejections=1), "its replicas were ejected 1 times"),
    (Counts(100, 0, restarts=1), "its engines were restarted 1 times"),
    (Counts(100, ttft={0.1: 0, 0.5: 30}), "its median TTFT is 300 ms (the old one's 56 ms)"),
    (Counts(100, ttft={0.5: 19}), ""),
]


@each(("new", "why"), ALARMS)
def test_an_alarm_rings_where_the_new_model_does_worse(new: Counts, why: str) -> None:
    assert alarm(GOOD, new, errors=0.01, ttft=1.5) == why


PAGE = """\
# TYPE roundhouse_requests counter
roundhouse_requests_total{model="m",variant="chat",endpoint="/v1/x",status="200",outcome="complete"} 7
roundhouse_requests_total{model="m",variant="chat",endpoint="/v1/x",status="502",outcome="failed"} 2
roundhouse_requests_total{model="m",variant="chat",endpoint="/v1/x",status="200",outcome="failed"} 1
roundhouse_requests_total{model="other",variant="chat",endpoint="/v1/x",status="502",outcome="failed"} 9
# TYPE roundhouse_fallbacks counter
roundhouse_fallbacks_total{model="m",fallback="other",reason="unavailable"} 4
# TYPE roundhouse_ejections counter
roundhouse_ejections_total{model="m"} 2
# TYPE roundhouse_engine_restarts gauge
roundhouse_engine_restarts{model="m",replica="m-0"} 1
# TYPE roundhouse_time_to_first_token_seconds histogram
roundhouse_time_to_first_token_seconds_bucket{model="m",variant="chat",le="0.1"} 3
roundhouse_time_to_first_token_seconds_bucket{model="m",variant="chat",le="0.2"} 5
roundhouse_time_to_first_token_seconds_bucket{model="m",variant="chat",le="+Inf"} 6
"""


def test_counts_are_read_from_the_page_of_metrics() -> None:
    found = counts(text_string_to_metric_families(PAGE), "m", "m")
    assert found == Counts(14, 7, 2, 1, {0.1: 3, 0.2: 2, float("inf"): 1})
    assert found.since(Counts(10, 7, 1, 1, {0.1: 3})) == Counts(4, 0, 1, 0, {0.1: 0, 0.2: 2, float("inf"): 1})
    assert found.since(Counts(100, 50)) == found, "the service was restarted"
    adapter = counts(text_string_to_metric_families(PAGE), "other", "m")
    assert adapter == Counts(9, 9, 2, 1), "its engines are those of its base"
