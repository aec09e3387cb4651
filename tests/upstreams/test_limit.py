"""The adaptive concurrency limit: it keeps engines busy and their own queues shallow."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.engine_stats import EngineStats
from service.engine.state import EngineState
from service.upstreams.limit import FULL, ceiling, initial_limit, next_limit
from service.upstreams.replica import Replica
from tests.support import fleets

READY = EngineState("a", "m", 0, "ready")
COUNTS = st.integers(0, 2000)


def sample(running: int, waiting: int = 0, kv_usage: float = 0.3) -> EngineStats:
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
        ("model: pebble-chat\nengine: {max_num_queued_reqs: 50}", 1, 50, 50),
        ("model: pebble-chat\nengine: {max_num_queued_reqs: 50}", 2, 25, 25),
        ("model: pebble-chat\nengine: {max_num_queued_reqs: 500}", 1, 256, 256),
        ("model: pebble-chat\nengine: {max_num_queued_reqs: null}", 1, 256, 256),
    ],
)
def test_the_initial_limit_and_the_ceiling(text: str, gateways: int, most: int, first: int, tmp_path: Path) -> None:
    served = fleets.only(tmp_path, text)
    assert (ceiling(served, gateways), initial_limit(served, gateways)) == (most, first)


def test_it_grows_while_it_is_reached_and_no_request_waits() -> None:
    assert next_limit(40, 40, sample(40), 256) == 44
    assert next_limit(4, 4, sample(4), 256) == 5


@pytest.mark.parametrize(
    ("in_flight", "found"), [(20, sample(20)), (40, sample(39, 1)), (40, sample(40, kv_usage=FULL))]
)
def test_it_stays_while_it_is_not_reached_or_the_engine_is_full(in_flight: int, found: EngineStats) -> None:
    assert next_limit(40, in_flight, found, 256) == 40


def test_it_shrinks_to_what_the_engine_runs() -> None:
    limit = 256
    seen = []
    for _ in range(8):
        in_flight = limit
        limit = next_limit(limit, in_flight, sample(min(64, in_flight), max(0, in_flight - 64)), 256)
        seen.append(limit)
    assert seen == sorted(seen, reverse=True)
    assert 64 <= seen[-1] <= 64 + 64 // 20


def test_it_shrinks_by_a_quarter_at_most() -> None:
    assert next_limit(60, 60, sample(5, 55), 256) == 45


def test_it_stays_while_only_requests_of_other_gateways_wait() -> None:
    assert next_limit(40, 0, sample(64, 100), 256) == 40


@pytest.mark.parametrize("max_num_seqs", [1, 4, 64, 200])
def test_under_endless_demand_engines_are_busy_and_their_queues_shallow(max_num_seqs: int) -> None:
    """The engine's `max_num_seqs` is not known to the limit, which starts far too high."""
    limit = 256
    for step in range(100):
        running, waiting = min(max_num_seqs, limit), max(0, limit - max_num_seqs)
        if step > 20:
            assert running >= 0.9 * max_num_seqs
            assert waiting <= max(2, max_num_seqs // 5)
        limit = next_limit(limit, limit, sample(running, waiting), 256)


def test_two_gateways_share_an_engine() -> None:
    limits = [200, 20]
    for step in range(300):
        total = sum(limits)
        found = sample(min(64, total), max(0, total - 64))
        limits = [next_limit(limit, limit, found, 256) for limit in limits]
        if step > 30:
            assert 0.85 * 64 <= total <= 1.3 * 64
    assert min(limits) / max(limits) > 20 / 200


@given(limit=st.integers(1, 300), in_flight=COUNTS, running=COUNTS, waiting=COUNTS, most=st.integers(1, 300))
def test_it_stays_between_one_and_the_ceiling(
    limit: int, in_flight: int, running: int, waiting: int, most: int
) -> None:
    assert 1 <= next_limit(limit, in_flight, sample(running, waiting), most) <= most


@given(in_flight=st.integers(0, 20), limit=st.integers(1, 20))
def test_capacity_is_what_the_limit_leaves(in_flight: int, limit: int) -> None:
    replica = Replica("a", "/a", READY, in_flight, limit)
    assert replica.capacity(0.0) == max(0, limit - in_flight)
    replica.state = None
    assert replica.capacity(0.0) == 0
