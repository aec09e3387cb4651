"""GPU time is busy or idle, and the parts of the requests add up to the busy time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.upstreams.gpu_time import GpuTime


def test_a_busy_moment_is_shared_equally() -> None:
    time = GpuTime()
    time.use(2, 100.0)
    first = time.change(1, 110.0)
    second = time.change(1, 114.0)
    assert time.change(-1, 118.0) - first == pytest.approx(2 * 4 + 2 * 4 / 2)
    assert time.change(-1, 120.0) - second == pytest.approx(2 * 4 / 2 + 2 * 2)
    time.use(0, 125.0)
    time.use(0, 999.0)
    assert (time.busy, time.idle) == pytest.approx((20, 30))


@given(st.lists(st.tuples(st.floats(0, 10), st.sampled_from(["enter", "leave", "use"]), st.integers(0, 4))))
def test_the_parts_are_the_whole(events: list[tuple[float, str, int]]) -> None:
    time, now, running, parts = GpuTime(), 0.0, list[float](), 0.0
    for seconds, event, number in events:
        now += seconds
        if event == "enter":
            running.append(time.change(1, now))
        elif event == "use":
            time.use(number, now)
        elif running:
            parts += time.change(-1, now) - running.pop(number % len(running))
    while running:
        now += 1.0
        parts += time.change(-1, now) - running.pop()
    assert parts == pytest.approx(time.busy)
