"""The samples behind the console's charts: what they say, and that they stay few."""

import pytest

from service.errors import ApiError, ErrorCode
from service.gateway.console.history import LENGTH, MOST_TIMES, History, ReplicaSample, percentile
from service.observability.record import Record

REPLICA = ReplicaSample(1, 8)


def ended(model: str, *outputs: float, tokens: int = 0, failed: bool = False) -> Record:
    """A request from second 10 on, a stream with these times of output."""
    record = Record("id", "/v1/chat/completions", 10.0, model=model, streamed=True, completion_tokens=tokens)
    record.output_times.extend(outputs)
    if failed:
        record.fail(ApiError(ErrorCode.UPSTREAM_ERROR, "no"))
    return record


def test_a_sample_has_what_ended_since_the_last_one() -> None:
    history = History()
    for one in (ended("a", 10.5, 12.5, tokens=5), ended("a", 11.0, failed=True), ended("b", 10.1), ended("")):
        history.observe(one)
    history.sample({"a": (3, 2), "c": (0, 0)}, {"a-0": REPLICA})
    history.sample({"a": (1, 0), "c": (0, 0)}, {"a-0": REPLICA})
    answer = history.since(0, ["a", "b", "c"], ["a-0", "b-0"])
    assert [dict(zip(answer["model_fields"], row, strict=True)) for row in answer["models"]["a"]] == [
        {"running": 3, "waiting": 2, "ended": 2, "errors": 1, "tokens": 5,
         "ttft_p50": 0.5, "ttft_p95": 1.0, "tpot_p50": 0.5},
        {"running": 1, "waiting": 0, "ended": 0, "errors": 0, "tokens": 0,
         "ttft_p50": None, "ttft_p95": None, "tpot_p50": None},
    ]  # fmt: skip
    assert answer["models"].keys() == {"a", "c"}  # there is no model "b" in the fleet
    assert answer["replicas"] == {"a-0": [REPLICA, REPLICA]}
    assert history.since(1, ["a"], [])["models"]["a"][0].running == 1
    assert history.since(2, ["a"], [])["models"]["a"] == []
    assert history.since(999, ["a"], [])["models"]["a"] == []


def test_it_stays_small_and_forgets_what_is_gone() -> None:
    history = History()
    for _ in range(LENGTH + 20):
        history.sample({"a": (0, 0)}, {"a-0": REPLICA})
    for number in range(MOST_TIMES + 20):
        history.observe(ended("a", 10.0 + number))
    assert len(history._ended["a"].ttft) == MOST_TIMES
    history.sample({"a": (0, 0), "new": (0, 0)}, {})
    answer = history.since(0, ["a", "new"], ["a-0"])
    assert [len(rows) for rows in answer["models"].values()] == [LENGTH, 1]
    assert answer["models"]["a"][-1].ended == MOST_TIMES + 20
    assert not answer["replicas"] and not history._replicas


@pytest.mark.parametrize(
    ("values", "fraction", "expected"),
    [([], 0.5, None), ([1.0], 0.95, 1.0), ([1.0, 2.0], 0.5, 1.0), (list(map(float, range(1, 101))), 0.95, 95.0)],
)
def test_percentiles_are_values_that_occurred(values: list[float], fraction: float, expected: float | None) -> None:
    assert percentile(values, fraction) == expected
