"""The formula."""

import pytest

from service.autoscaling.capacity import Capacity
from service.autoscaling.demand import Drain, Seen, load, signals

CAPACITY = Capacity(requests_per_second=2.0, concurrency=32)


@pytest.mark.parametrize(
    ("seen", "replicas"),
    [
        (Seen(arrivals=17.0), {"load": 10.0, "in_flight": 0.0, "kv_cache": 0.0}),
        (Seen(arrivals=17.0, queued=51.0), {"load": 11.0, "in_flight": 0.0, "kv_cache": 0.0}),
        (Seen(arrivals=17.0, queued=9000.0), {"load": 15.0, "in_flight": 0.0, "kv_cache": 0.0}),  # capped
        (Seen(running=64.0, kv_cache=1.6), {"load": 0.0, "in_flight": 2.0, "kv_cache": 2.0}),
    ],
)
def test_the_replicas_that_each_signal_wants(seen: Seen, replicas: dict[str, float]) -> None:
    found = {one.name: one.value(seen) / one.target for one in signals(CAPACITY, Drain(30.0, 5.0))}
    assert found == pytest.approx(replicas)


def test_a_queue_counts_for_the_seconds_in_which_it_is_to_be_gone_up_to_a_cap() -> None:
    assert load(Seen(arrivals=3.0, queued=60.0), 30.0, 10.0) == 5.0
    assert load(Seen(arrivals=3.0, queued=600.0), 30.0, 10.0) == 13.0
