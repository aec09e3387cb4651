"""The simulator: the measured comparison of signals, and small loads whose outcome can be said beforehand."""

import pytest

from service.autoscaling.autoscaler import Fixed
from service.autoscaling.demand import Seen
from service.autoscaling.simulation import Arrival, Simulation, Site
from service.autoscaling.traffic import made
from tests.autoscaling.experiment import ROWS, Row, simulated

CLOSE = 0.15


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace("÷", "over").replace("×", "x"))
def test_a_signal_does_what_was_measured_of_it(row: Row) -> None:
    found = simulated(row)
    assert found.peak_replicas == pytest.approx(row.peak, rel=CLOSE)
    assert found.replica_seconds == pytest.approx(row.pod_seconds, rel=CLOSE)
    assert found.peak_queued == pytest.approx(row.most_queued, rel=CLOSE)


def test_what_flapped_flaps_and_what_did_not_does_not() -> None:
    ready = {row.name: [one.ready for one in simulated(row).samples] for row in ROWS}
    for name in ("queue, `Value` 25", "queue, `AverageValue` 25"):
        low = ready[name].index(1, 100)  # all but one are taken away while 2 are needed, and then more come again
        assert max(ready[name][low:]) > 1
    after = ready["arrival rate and the queue over 30 s"][160:]
    assert after == sorted(after, reverse=True)


class Plan:
    """An autoscaler that does what it is told, and remembers what it was told of the load."""

    def __init__(self, wanted: dict[float, int], period: float = 1.0) -> None:
        self.period = period
        self.wanted = wanted
        self.seen: dict[float, Seen | None] = {}

    def replicas(self, now: float, seen: Seen | None, current: int) -> int:
        self.seen[now] = seen
        return self.wanted.get(now, current)


def test_requests_wait_for_a_place_and_run_in_their_order() -> None:
    found = Simulation(Site(concurrency=2), Fixed(1), 1.0).run(
        [Arrival(0.0, 2, 10.0, 0.5), Arrival(1.0, 2, 10.0, 0.5), Arrival(2.0, 1, 10.0, 0.5)], 100.0
    )
    assert found.ttft(0.0, 0.4, 0.6, 0.8, 1.0) == [0.5, 0.5, 9.5, 9.5, 18.5]
    assert (found.peak_queued, found.refused, found.left, found.arrived) == (3, 0, 0, 5)
    assert found.within(0.5) == 0.4
    assert found.gpu_hours(8) == pytest.approx(100 * 8 / 3600)


def test_a_full_queue_and_a_long_wait_refuse() -> None:
    site = Site(concurrency=1, max_queued=2, queue_seconds=5.0)
    found = Simulation(site, Fixed(1), 1.0).run([Arrival(0.0, 5, 4.0, 0.5)], 60.0)
    # One runs, two wait, two find the queue full; of those that wait one runs from 4 s on, one leaves at 5 s.
    assert (found.refused, found.ttft(0.5, 1.0)) == (3, [0.5, 4.5])


def test_a_replica_serves_when_it_has_started_and_holds_its_gpus_before() -> None:
    autoscaler = Plan({10.0: 3})
    found = Simulation(Site(concurrency=1, cold_start=20.0), autoscaler, 1.0).run([Arrival(11.0, 3, 30.0, 0.0)], 100.0)
    assert found.ttft(0.3, 0.5, 1.0) == [0.0, 19.0, 19.0]
    assert found.replica_seconds == 10 + 90 * 3


def test_replicas_that_start_are_taken_away_first_and_others_finish_what_they_run() -> None:
    autoscaler = Plan({10.0: 4, 15.0: 3, 40.0: 1})
    found = Simulation(Site(concurrency=1, cold_start=20.0), autoscaler, 1.0).run([Arrival(30.0, 3, 30.0, 0.0)], 100.0)
    assert [one.ready for one in found.samples if one.at in (29.0, 31.0, 41.0)] == [1, 3, 1]
    assert found.left == 0
    # 1 until 10 s, 4 until 15 s, 3 until the requests end at 60 s although one was wanted from 40 s on, then 1.
    assert found.replica_seconds == 10 + 5 * 4 + 45 * 3 + 40


def test_metrics_are_as_old_as_they_are_said_to_be() -> None:
    autoscaler = Plan({}, period=5.0)
    site = Site(concurrency=4, metrics_delay=10.0, rate_window=20.0, blind=(60.0, 70.0))
    Simulation(site, autoscaler, 1.0).run(made(lambda _: 2.0, 100.0, (1000.0, 0.0), None), 100.0)
    assert autoscaler.seen[60.0] is None
    assert autoscaler.seen[65.0] is None
    early, late = autoscaler.seen[10.0], autoscaler.seen[50.0]
    assert early is not None
    assert late is not None
    assert (early.arrivals, early.running) == (0.0, 0)
    assert late.arrivals == pytest.approx(2.0, abs=0.1)
    assert (late.running, late.kv_cache, late.ready) == (4, 0.8, 1)
    assert late.queued == pytest.approx(2.0 * 40 - 4, abs=1)


def test_ten_thousand_requests_a_second_are_few_events() -> None:
    arrivals = list(made(lambda _: 10_000.0, 600.0, (8.0, 0.1), None))
    assert len(arrivals) == 6000
    found = Simulation(Site(concurrency=32, initial=2600), Fixed(2600), 10.0).run(arrivals, 600.0)
    assert found.arrived == 6_000_000
    assert found.refused == 0
