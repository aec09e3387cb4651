"""Made traffic."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from service.autoscaling.traffic import (
    DAY,
    Burst,
    Phase,
    burst_of,
    daily,
    daily_of,
    made,
    phases_of,
    seconds_of,
    stepped,
    with_burst,
)  # fmt: skip


def test_what_is_written_is_read() -> None:
    assert [seconds_of(text) for text in ("90", "90s", "15m", "2h", "7d", "0.5h")] == [90, 90, 900, 7200, 7 * DAY, 1800]
    assert phases_of("10:150s, 2:2m") == (Phase(10, 150), Phase(2, 120))
    assert daily_of("2:20") == (2, 20)
    assert burst_of("50:30s:10m") == Burst(50, 30, 600)


@pytest.mark.parametrize(
    ("parse", "text", "why"),
    [
        (seconds_of, "10x", "'10x' is not a duration such as 90s"),
        (seconds_of, "-1s", "'-1' is not a duration such as .*: it must be a number from 0 on"),
        (seconds_of, "367d", "'367d' is longer than 366 days"),
        (phases_of, "1:300d,2:300d", "the steps last no time, or longer than 366 days"),
        (seconds_of, "", "'' is not a duration"),
        (phases_of, "10", "'10' is not RATE:DURATION, such as 10:150s"),
        (phases_of, "inf:3s", "'inf' is not requests a second"),
        (phases_of, "10:0s,1:0", "the steps last no time"),
        (daily_of, "2", "'2' is not LEAST:MOST"),
        (daily_of, "20:2", "the least, 20, is more than the most, 2"),
        (burst_of, "50:30s", "'50:30s' is not RATE:DURATION:EVERY"),
        (burst_of, "50:30s:0s", "every so many seconds, more than 0"),
    ],
)
def test_what_cannot_be_read_is_named(parse: Callable[[str], Any], text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(text)


def test_rates() -> None:
    steps = stepped(phases_of("10:100s,2:50s"))
    assert [steps(at) for at in (0, 99.9, 100, 149, 150)] == [10, 10, 2, 2, 0]
    day = daily(2, 20)
    assert [round(day(hour * 3600), 6) for hour in (4, 10, 16, 28)] == [2, 11, 20, 2]
    burst = with_burst(steps, Burst(5, 10, 60))
    assert [burst(at) for at in (0, 60, 69.9, 70, 120)] == [10, 15, 15, 10, 7]


def test_requests_are_as_many_as_the_rate_says_and_the_same_again() -> None:
    even = list(made(lambda _: 3.0, 100.0, (8.0, 0.1), None))
    assert sum(one.number for one in even) == 300
    assert {(one.seconds, one.first) for one in even} == {(8.0, 0.1)}
    for rate in (3.0, 3000.0):  # a few and many in each step
        chance = [list(made(stepped([Phase(rate, 1000)]), 1000.0, (8.0, 0.1), random.Random(1))) for _ in range(2)]
        assert chance[0] == chance[1]
        assert sum(one.number for one in chance[0]) == pytest.approx(rate * 1000, rel=0.05)
        assert [one.at for one in chance[0]] == sorted(one.at for one in chance[0])
