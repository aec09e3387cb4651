"""Which engines on demand are wanted."""

from pathlib import Path

import pytest

from service.fleet.fleet import Fleet
from service.gateway.scale_to_zero import Activator, needed
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


def wanted(waking: Activator, fleet: Fleet, now: float, **demand: int) -> list[int]:
    by_model = {f"pebble-{name}": count for name, count in demand.items()}
    return waking.wanted(fleet, lambda model: by_model.get(model, 0), lambda _: 2, now)


def test_without_demand_nothing_on_demand_is_wanted(fleet: Fleet) -> None:
    assert wanted(Activator(fleet), fleet, 0.0) == []


def test_one_request_wakes_the_first_engine(fleet: Fleet) -> None:
    assert wanted(Activator(fleet), fleet, 0.0, code=1) == [4]


@pytest.mark.parametrize(("demand", "orders"), [(1, []), (2, []), (3, [2]), (4, [2]), (5, [2, 3]), (99, [2, 3])])
def test_more_wake_as_the_running_ones_are_full(fleet: Fleet, demand: int, orders: list[int]) -> None:
    assert wanted(Activator(fleet), fleet, 0.0, chat=demand) == orders


def test_what_always_runs_is_never_asked_for(fleet: Fleet) -> None:
    assert 0 not in wanted(Activator(fleet), fleet, 0.0, base=99)


def test_an_engine_stays_until_it_was_idle_for_long_enough(fleet: Fleet) -> None:
    waking = Activator(fleet)
    assert wanted(waking, fleet, 0.0, code=1) == [4]
    assert wanted(waking, fleet, 4.9) == [4]
    assert wanted(waking, fleet, 4.9, code=1) == [4]
    assert wanted(waking, fleet, 9.8) == [4]
    assert wanted(waking, fleet, 9.9) == []


def test_the_last_ones_woken_go_first(fleet: Fleet) -> None:
    waking = Activator(fleet)
    assert wanted(waking, fleet, 0.0, chat=6) == [2, 3]
    assert wanted(waking, fleet, 9.0, chat=3) == [2, 3]
    assert wanted(waking, fleet, 10.0, chat=0) == [2]
    assert wanted(waking, fleet, 19.0, chat=0) == []


def test_a_model_that_left_the_fleet_wants_none(fleet: Fleet, tmp_path: Path) -> None:
    waking = Activator(fleet)
    assert wanted(waking, fleet, 0.0, code=1) == [4]
    smaller = load(tmp_path, "models: [{model: pebble-base}]")
    assert wanted(waking, smaller, 1.0, code=1) == []


@pytest.mark.parametrize(("replicas", "always"), [(1, 0), (1, 1), (4, 0), (4, 2), (8, 8)])
def test_never_more_than_there_are_nor_fewer_than_always(replicas: int, always: int, tmp_path: Path) -> None:
    served = only(tmp_path, f"model: pebble-chat\nmax_replicas: {replicas}\nmin_replicas: {always}")
    counts = [needed(served, demand, places=4) for demand in range(40)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (always, replicas)
    assert needed(served, 1, places=0) == max(1, always)
