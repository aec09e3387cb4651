"""Which on-demand engines should run."""

from pathlib import Path

import pytest

from service.fleet.fleet import Fleet
from service.gateway.scale_to_zero import Activator, replicas_needed
from tests.support.fleets import load, only

FLEET = """
models:
  - {model: pebble-base}
  - {model: pebble-chat, min_replicas: 1, max_replicas: 3, scale_down_after: 10}
  - {model: pebble-code, min_replicas: 0, scale_down_after: 5}
  - {model: pebble-instruct, min_replicas: 0, addresses: ["engines:8000"]}
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return load(tmp_path, FLEET)


def wanted_engines(activator: Activator, fleet: Fleet, now: float, **demand: int) -> list[int]:
    by_model = {f"pebble-{name}": count for name, count in demand.items()}
    return activator.wanted_engines(fleet, lambda model: by_model.get(model, 0), lambda _: 2, now)


def test_no_demand_needs_no_engine(fleet: Fleet) -> None:
    assert wanted_engines(Activator(fleet), fleet, 0.0) == []


def test_first_request_activates_one_engine(fleet: Fleet) -> None:
    assert wanted_engines(Activator(fleet), fleet, 0.0, code=1) == [4]


@pytest.mark.parametrize(("demand", "orders"), [(1, []), (2, []), (3, [2]), (4, [2]), (5, [2, 3]), (99, [2, 3])])
def test_more_engines_start_as_the_running_ones_fill_up(fleet: Fleet, demand: int, orders: list[int]) -> None:
    assert wanted_engines(Activator(fleet), fleet, 0.0, chat=demand) == orders


def test_engines_that_always_run_are_not_listed(fleet: Fleet) -> None:
    assert 0 not in wanted_engines(Activator(fleet), fleet, 0.0, base=99)


def test_engine_stays_for_scale_down_after_its_last_use(fleet: Fleet) -> None:
    activator = Activator(fleet)
    assert wanted_engines(activator, fleet, 0.0, code=1) == [4]
    assert wanted_engines(activator, fleet, 4.9) == [4]
    assert wanted_engines(activator, fleet, 4.9, code=1) == [4]
    assert wanted_engines(activator, fleet, 9.8) == [4]
    assert wanted_engines(activator, fleet, 9.9) == []


def test_engines_stop_in_reverse_start_order(fleet: Fleet) -> None:
    activator = Activator(fleet)
    assert wanted_engines(activator, fleet, 0.0, chat=6) == [2, 3]
    assert wanted_engines(activator, fleet, 9.0, chat=3) == [2, 3]
    assert wanted_engines(activator, fleet, 10.0, chat=0) == [2]
    assert wanted_engines(activator, fleet, 19.0, chat=0) == []


def test_model_removed_from_the_fleet_needs_none(fleet: Fleet, tmp_path: Path) -> None:
    activator = Activator(fleet)
    assert wanted_engines(activator, fleet, 0.0, code=1) == [4]
    smaller = load(tmp_path, "models: [{model: pebble-base}]")
    assert wanted_engines(activator, smaller, 1.0, code=1) == []


@pytest.mark.parametrize(("max_replicas", "min_replicas"), [(1, 0), (1, 1), (4, 0), (4, 2), (8, 8)])
def test_replicas_needed_stay_between_minimum_and_maximum(max_replicas: int, min_replicas: int, tmp_path: Path) -> None:
    served = only(tmp_path, f"model: pebble-chat\nmax_replicas: {max_replicas}\nmin_replicas: {min_replicas}")
    counts = [replicas_needed(served, demand, slots=4) for demand in range(40)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (min_replicas, max_replicas)
    assert replicas_needed(served, 1, slots=0) == max(1, min_replicas)
