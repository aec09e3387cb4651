"""The simulated engine is the one that was measured, and the limit neither slows bursts nor lets an engine drown."""

import pytest

from bench.bursts.engine import MEASURED, Speed
from bench.bursts.loads import BURSTS, OVERLOADS, PHASES, burst, overload, served, single_sample_limit
from bench.bursts.simulation import Load, Simulation
from service.upstreams.limit import next_limit

GROWN = 4  # samples after which the limit has grown back


@pytest.mark.parametrize("streams", MEASURED)
def test_the_engine_is_as_fast_as_the_one_that_was_measured(streams: int) -> None:
    tokens_per_s, _, p99 = MEASURED[streams]
    found = Simulation(served(1024)).direct(Load(streams))
    assert found.tokens_per_s == pytest.approx(tokens_per_s, rel=0.1)
    if streams >= 128:
        assert found.tokens_per_s == pytest.approx(tokens_per_s, rel=0.03)
        assert found.percentile(99) * 1000 == pytest.approx(p99, rel=0.03)


@pytest.mark.parametrize("name", BURSTS)
def test_a_burst_is_as_fast_through_the_gateway(name: str) -> None:
    found = burst(name, next_limit, PHASES[::2])
    assert found["ratio"] >= 0.99
    assert found["p99_ratio"] <= 1.1


def test_a_limit_that_a_single_sample_decides_slows_bursts() -> None:
    """A control: the simulation does show what the limit has to avoid."""
    assert burst("256 streams", single_sample_limit)["ratio"] < 0.97
    assert burst("256 streams, 5 bursts", single_sample_limit)["p99_ratio"] > 3


@pytest.mark.parametrize("name", OVERLOADS)
def test_goodput_at_ten_times_the_capacity_is_that_at_capacity(name: str) -> None:
    found = overload(name, next_limit)
    print(found)
    assert found["goodput"] >= 0.9
    assert found["preemptions"] <= found["direct_preemptions"] + 20
    assert found["waiting"] <= 8, "requests wait in the gateway"


def test_the_limit_is_back_within_a_few_samples_after_long_prompts() -> None:
    simulation = Simulation(served(256), patience=60.0)
    long, short = Load(60, prompt=3000, answer=200), Load(60, each=8)
    found = simulation.service(short, after=long)
    assert min(found.limits) < 60
    assert found.limits[GROWN] > 60


def test_equal_simulations_have_equal_results() -> None:
    simulation = Simulation(served(256), Speed(blocks=500), seed=3)
    load = Load(40, answer=300, vary=0.5)
    assert simulation.service(load) == simulation.service(load)
    assert simulation.service(load).preemptions > 0
