"""How many replicas a rate needs."""

import random

import pytest

from service.autoscaling.capacity import Capacity, Size
from service.autoscaling.simulation import Arrival, Site
from service.autoscaling.sizing import SECONDS, fewest_replicas, fixed, keeps, need
from service.autoscaling.traffic import made
from service.planner.memory import Demand
from service.planner.plan import plan
from tests.planner.test_gpus import KNOWN
from tests.support.fleets import CATALOG

CAPACITY = Capacity(2.0, 32)
SITE = Site(CAPACITY.concurrency, max_queued=512, queue_seconds=10.0)


@pytest.mark.parametrize(("rate", "ordered"), [(3.0, 2), (10.0, 6)])
def test_one_fewer_would_not_do(rate: float, ordered: int) -> None:
    found = need(rate, CAPACITY, SITE, 2.0, seed=0)
    assert found.ordered == ordered
    assert rate / 2 <= found.fewest <= found.ordered
    arrivals = list(made(lambda _: rate, SECONDS, CAPACITY.times(None), random.Random(0)))
    assert keeps(fixed(found.fewest, arrivals, SECONDS, SITE), 2.0)
    assert not keeps(fixed(found.fewest - 1, arrivals, SECONDS, SITE), 2.0)


def test_a_peak_counts_and_not_the_average() -> None:
    arrivals = [Arrival(0.0, 64, 16.0, 0.0), Arrival(5000.0, 1, 16.0, 0.0)]
    assert fewest_replicas(arrivals, 10_000.0, CAPACITY, SITE, 2.0)[0] == 2


def test_what_no_number_of_replicas_does_is_said() -> None:
    with pytest.raises(ValueError, match="no number of replicas is enough: a first token takes more than 2 s"):
        fewest_replicas([Arrival(0.0, 1, 16.0, 3.0)], 100.0, CAPACITY, SITE, 2.0)


def test_the_capacity_of_a_plan_is_a_part_of_its_bounds() -> None:
    model, size = CATALOG.models["llama-2-7b-chat"], Size(1000, 250)
    (row,) = plan(model, [KNOWN["H100"]], Demand(1250), ["bf16"])
    assert row.speed is not None
    assert row.speed.together is not None
    assert row.speed.prefill is not None
    found = Capacity.of_plan(row, size, 0.5)
    busy = 250 / (row.speed.together / 2) + 1000 / (row.speed.prefill / 2)
    assert found.requests_per_second == pytest.approx(1 / busy)
    assert (found.concurrency, found.gpus) == (row.speed.batch, 1)
    assert found.times(size)[0] == pytest.approx(found.seconds)
    assert found.times(size)[1] == 1000 / (row.speed.prefill / 2)
    assert found.times(Size(1000, 500))[0] > found.seconds
    (none,) = plan(CATALOG.models["llama-2-70b-chat"], [KNOWN["L4"]], Demand(1250), ["bf16"], degree=1)
    with pytest.raises(ValueError, match="bf16 on L4: weights of"):
        Capacity.of_plan(none, size)
