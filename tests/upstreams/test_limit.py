"""How many requests an engine is given: its own queue stays shallow, and no part of it stays idle."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.engine_stats import EngineStats
from service.engine.state import EngineState
from service.upstreams.limit import FULL, adapted, ceiling, opening
from service.upstreams.replica import Replica
from tests.support import fleets

READY = EngineState("a", "m", 0, "ready")
COUNTS = st.integers(0, 2000)


def reading(running: int, waiting: int = 0, kv_usage: float = 0.3) -> EngineStats:
    return EngineStats(1.0, running, waiting, kv_usage, 5.0)


@pytest.mark.parametrize(
    ("text", "gateways", "most", "first"),
    [
        ("model: pebble-chat", 1, 256, 256),
        ("model: pebble-chat\nmax_in_flight: 100", 3, 33, 33),
        ("model: pebble-chat\nengine: {max_num_seqs: 16}", 1, 256, 16),
        ("model: pebble-chat\nengine: {max_num_seqs: 16}", 4, 64, 4),
        ("model: pebble-chat\nengine: {max_num_seqs: 16}\nmax_in_flight: 8", 1, 8, 8),
        ("model: pebble-chat\nengine: {max_num_seqs: 2}\nmax_in_flight: 2", 9, 1, 1),
    ],
)
def test_where_it_begins_and_ends(text: str, gateways: int, most: int, first: int, tmp_path: Path) -> None:
    served = fleets.only(tmp_path, text)
    assert (ceiling(served, gateways), opening(served, gateways)) == (most, first)


def test_it_grows_while_it_is_reached_and_nobody_waits() -> None:
    assert adapted(40, 40, reading(40), 256) == 44
    assert adapted(4, 4, reading(4), 256) == 5


@pytest.mark.parametrize(
    ("in_flight", "found"), [(20, reading(20)), (40, reading(39, 1)), (40, reading(40, kv_usage=FULL))]
)
def test_it_stays_where_more_would_not_help(in_flight: int, found: EngineStats) -> None:
    assert adapted(40, in_flight, found, 256) == 40


def test_it_shrinks_to_what_the_engine_runs() -> None:
    limit = 256
    seen = []
    for _ in range(8):
        in_flight = limit
        limit = adapted(limit, in_flight, reading(min(64, in_flight), max(0, in_flight - 64)), 256)
        seen.append(limit)
    assert seen == sorted(seen, reverse=True)
    assert 64 <= seen[-1] <= 64 + 64 // 20


def test_a_moments_burst_does_not_take_all_of_it() -> None:
    assert adapted(60, 60, reading(5, 55), 256) == 45


def test_what_others_let_wait_costs_nothing_where_nothing_of_ours_is() -> None:
    assert adapted(40, 0, reading(64, 100), 256) == 40


@pytest.mark.parametrize("seats", [1, 4, 64, 200])
def test_engines_with_any_number_of_seats_are_kept_busy_and_their_queue_shallow(seats: int) -> None:
    """Demand without end, at an engine of which nobody knows how much it runs at once."""
    limit = 256
    for step in range(100):
        running, waiting = min(seats, limit), max(0, limit - seats)
        if step > 20:
            assert running >= 0.9 * seats
            assert waiting <= max(2, seats // 5)
        limit = adapted(limit, limit, reading(running, waiting), 256)


def test_two_gateways_of_one_engine_fill_it_together_and_neither_pushes_the_other_out() -> None:
    limits = [200, 20]
    for step in range(300):
        total = sum(limits)
        found = reading(min(64, total), max(0, total - 64))
        limits = [adapted(limit, limit, found, 256) for limit in limits]
        if step > 30:
            assert 0.85 * 64 <= total <= 1.3 * 64
    assert min(limits) / max(limits) > 20 / 200


@given(limit=st.integers(1, 300), in_flight=COUNTS, running=COUNTS, waiting=COUNTS, most=st.integers(1, 300))
def test_it_stays_between_one_and_the_ceiling(
    limit: int, in_flight: int, running: int, waiting: int, most: int
) -> None:
    assert 1 <= adapted(limit, in_flight, reading(running, waiting), most) <= most


@given(in_flight=st.integers(0, 20), limit=st.integers(1, 20))
def test_the_room_is_what_is_left(in_flight: int, limit: int) -> None:
    replica = Replica("a", "/a", READY, in_flight, limit)
    assert replica.capacity(0.0) == max(0, limit - in_flight)
    replica.state = None
    assert replica.capacity(0.0) == 0
