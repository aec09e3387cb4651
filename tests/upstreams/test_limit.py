"""The adaptive concurrency limit: it keeps engines busy and their own queues shallow."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.engine_stats import EngineStats
from service.engine.state import EngineState
from service.upstreams.limit import FULL, InFlight, Observation, ceiling, initial_limit, next_limit, observe
from service.upstreams.replica import Replica
from tests.support import fleets

READY = EngineState("a", "m", 0, "ready")
COUNTS = st.integers(0, 2000)


def sample(running: int, waiting: int = 0, kv_usage: float = 0.3, deferred: int = 0, finished: int = 0) -> EngineStats:
    return EngineStats(1.0, running, waiting, kv_usage, 5.0, deferred, finished)


def observed(*samples: EngineStats | None, max_num_seqs: int | None = None) -> Observation:
    """What is known after samples a second apart, of which None stands for none."""
    known = Observation(max_num_seqs)
    for found in filter(None, samples):
        known = after(known, found)
    return known


def after(known: Observation, found: EngineStats) -> Observation:
    """What is known after another sample, a second later."""
    return observe(known, replace(found, at=known.stats.at + 1.0 if known.stats else 1.0))


def limit_after(
    limit: int,
    in_flight: int,
    found: EngineStats,
    before: EngineStats | None = None,
    max_num_seqs: int | None = None,
) -> int:
    """The limit after a sample a second after `before`."""
    return next_limit(limit, in_flight, observed(before, found, max_num_seqs=max_num_seqs), 256)


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


def test_it_doubles_while_it_is_reached_and_no_request_waits() -> None:
    assert limit_after(40, 40, sample(40)) == 80
    assert limit_after(4, 4, sample(4)) == 8
    assert limit_after(200, 200, sample(200)) == 256
    assert limit_after(40, 40, sample(40, kv_usage=0.0)) == 80, "an encoder has no KV cache"


def test_it_grows_by_what_the_kv_cache_has_room_for() -> None:
    assert limit_after(40, 40, sample(40, kv_usage=0.76)) == 50
    assert limit_after(4, 4, sample(4, kv_usage=0.94)) == 5


def test_it_grows_by_what_is_free_of_max_num_seqs() -> None:
    assert limit_after(50, 50, sample(50), max_num_seqs=64) == 64
    assert limit_after(67, 64, sample(64), max_num_seqs=64) == 68
    assert limit_after(20, 20, sample(20), max_num_seqs=64) == 40


@pytest.mark.parametrize(
    ("in_flight", "found"), [(20, sample(20)), (40, sample(39, 1)), (40, sample(40, kv_usage=FULL))]
)
def test_it_stays_while_it_is_not_reached_or_the_engine_is_full(in_flight: int, found: EngineStats) -> None:
    assert limit_after(40, in_flight, found) == 40


# What a sample says of those that wait, after another a second ago.
QUEUES = {
    "a burst of which the first are read": (sample(40), sample(64, 192), False),
    "nothing was sampled before": (None, sample(64, 192), False),
    "a queue that is read within a second": (sample(64, 448), sample(360, 152), False),
    "a queue whose next ones are others": (sample(192, 64), sample(192, 64, finished=80), False),
    "others come where as many waited as may": (sample(64, 3), sample(64, 192), False),
    "few wait": (sample(64, 192), sample(64, 3), False),
    "those that wait do not wait for capacity": (sample(64, 40, deferred=40), sample(64, 40, deferred=40), False),
    "others come where few waited": (sample(64, 192, deferred=190), sample(64, 192), False),
    "nobody leaves it": (sample(64, 192), sample(64, 192), True),
    "it is read, but slowly": (sample(5, 55), sample(10, 50), True),
    "few leave it": (sample(64, 192), sample(64, 192, finished=20), True),
    "more are preempted than begin": (sample(64, 10), sample(60, 14), True),
    "the KV cache is full": (sample(64), sample(80, 40, kv_usage=FULL), True),
    "the engine forgot what it counted": (sample(64, 192, finished=900), sample(64, 192), True),
}


@pytest.mark.parametrize(("before", "found", "stands"), QUEUES.values(), ids=QUEUES)
def test_whether_a_queue_stands(before: EngineStats | None, found: EngineStats, stands: bool) -> None:
    assert observed(before, found).stands == stands
    assert (limit_after(256, 256, found, before) < 256) == stands


@pytest.mark.parametrize("seconds", [0.25, 1.0, 3.0])
def test_a_queue_stands_by_its_pace_however_often_it_is_sampled(seconds: float) -> None:
    for read, stands in ((16, True), (24, False)):
        found = replace(sample(64, 20, finished=round(read * seconds)), at=1.0 + seconds)
        assert observe(observed(sample(64, 200)), found).stands == stands


def test_a_queue_stands_at_once_where_max_num_seqs_is_known() -> None:
    assert observed(sample(10), sample(64, 20), max_num_seqs=64).stands
    assert observed(sample(10), sample(62, 20), max_num_seqs=64).stands, "a step has just ended with two requests"
    assert not observed(sample(10), sample(32, 20), max_num_seqs=64).stands


def test_max_num_seqs_is_learned_from_a_queue_that_stands() -> None:
    known = observed(sample(64, 192), sample(64, 192))
    assert known.max_num_seqs == 64
    idle = after(known, sample(3))
    assert idle.max_num_seqs == 64
    assert after(idle, sample(63, 10)).stands


def test_max_num_seqs_is_not_learned_from_a_full_kv_cache() -> None:
    assert observed(sample(20, 40), sample(20, 40, kv_usage=FULL)).max_num_seqs is None


@pytest.mark.parametrize("waiting", [0, 40])
def test_an_engine_that_runs_more_than_was_learned_is_known_to_run_more(waiting: int) -> None:
    assert observed(sample(64), sample(67, waiting), max_num_seqs=64).max_num_seqs == 64
    assert observed(sample(64), sample(192, waiting), max_num_seqs=64).max_num_seqs is None


def test_it_shrinks_to_what_the_engine_runs() -> None:
    limit, known = 256, observed(sample(64, 192))
    seen = []
    for _ in range(8):
        in_flight = limit
        known = after(known, sample(min(64, in_flight), max(0, in_flight - 64)))
        limit = next_limit(limit, in_flight, known, 256)
        seen.append(limit)
    assert seen == sorted(seen, reverse=True)
    assert 64 <= seen[-1] <= 64 + 64 // 20


def test_it_shrinks_by_a_quarter_at_most() -> None:
    assert limit_after(60, 60, sample(5, 55), sample(5, 55)) == 45


def test_it_is_back_after_one_step_when_a_queue_was_taken_wrongly_for_one_that_stands() -> None:
    known = observed(sample(10, 200), sample(64, 192))
    shrunk = next_limit(256, 256, known, 256)
    assert (known.stands, shrunk) == (True, 192)
    assert next_limit(shrunk, 256, after(known, sample(256)), 256) == 256


def test_it_stays_while_only_requests_of_other_gateways_wait() -> None:
    assert limit_after(40, 0, sample(64, 100), sample(64, 100)) == 40


def test_it_stays_before_the_first_sample() -> None:
    assert next_limit(40, 40, Observation(), 256) == 40


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("max_num_seqs", [1, 4, 64, 200])
def test_under_endless_demand_engines_are_busy_and_their_queues_shallow(max_num_seqs: int, known: bool) -> None:
    """The limit starts far too high."""
    limit, observation = 256, Observation(max_num_seqs if known else None)
    for step in range(100):
        running, waiting = min(max_num_seqs, limit), max(0, limit - max_num_seqs)
        if step > 20:
            assert running >= 0.9 * max_num_seqs
            assert waiting <= max(2, max_num_seqs // 5)
        observation = after(observation, sample(running, waiting))
        limit = next_limit(limit, limit, observation, 256)


def test_two_gateways_share_an_engine() -> None:
    limits, known = [200, 20], Observation()
    for step in range(300):
        total = sum(limits)
        known = after(known, sample(min(64, total), max(0, total - 64)))
        limits = [next_limit(limit, limit, known, 256) for limit in limits]
        if step > 30:
            assert 0.85 * 64 <= total <= 1.3 * 64
    assert min(limits) / max(limits) > 20 / 200


@given(limit=st.integers(1, 300), in_flight=COUNTS, running=COUNTS, waiting=COUNTS, most=st.integers(1, 300))
def test_it_stays_between_one_and_the_ceiling(
    limit: int, in_flight: int, running: int, waiting: int, most: int
) -> None:
    for before in (None, sample(running, waiting)):
        known = observed(before, sample(running, waiting))
        assert 1 <= next_limit(limit, in_flight, known, most) <= most


@given(in_flight=st.integers(0, 20), limit=st.integers(1, 20))
def test_capacity_is_what_the_limit_leaves(in_flight: int, limit: int) -> None:
    replica = Replica("a", "/a", READY, in_flight, limit)
    assert replica.capacity(0.0) == max(0, limit - in_flight)
    replica.state = None
    assert replica.capacity(0.0) == 0


def test_a_burst_after_the_sample_is_judged_by_the_next_one() -> None:
    """A sample that is read a moment later knows nothing of what was sent meanwhile: no queue can be in it."""
    looks, observation, limit = InFlight(), Observation(), 40
    looks.look(1.0, 12)
    for at, found, in_flight, expected in (
        (1.1, sample(12), 40, 40),  # the burst came between the sample and now
        (2.1, sample(40, 0), 40, 80),
        (3.1, sample(40, 0), 80, 80),
        (4.1, sample(64, 16), 80, 80),
        (5.1, sample(64, 16), 80, 67),
    ):
        observation = observe(observation, replace(found, at=at))
        limit = next_limit(limit, in_flight, observation, 256, looks.before(at))
        assert limit == expected, at
        looks.look(at + 0.2, in_flight)


def test_what_was_in_flight_before_the_first_look_is_not_known() -> None:
    looks = InFlight()
    assert looks.before(1.0) == 0
    looks.look(2.0, 7)
    assert (looks.before(1.9), looks.before(2.0), looks.before(99.0)) == (0, 7, 7)
