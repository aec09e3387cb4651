"""Taking turns, on a virtual clock: nobody starves, no answer is cut, memory is never exceeded, few swaps."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bench.sharing.simulation import STOP, Job, Load, World, first_come, turns
from service.sharing.turns import Seat, decide, longest_wait

TICK, TURN, END = 0.5, 20.0, 100_000.0
LONGEST = 8.0  # seconds of the longest answer
LOADS = st.builds(Load, memory=st.integers(1, 4), load=st.floats(0.5, 15), slots=st.integers(1, 3))
ARRIVALS = st.tuples(st.integers(0, 4), st.floats(0, 300), st.integers(1, int(LONGEST / 0.006)))


def world(loads: list[Load], memory: int) -> World:
    return World(loads, memory, TURN, turns, TICK)


@given(st.lists(LOADS, min_size=2, max_size=5), st.integers(4, 8), st.lists(ARRIVALS, max_size=60))
def test_any_mix_is_served_within_the_bound_and_the_memory(
    loads: list[Load], memory: int, arrivals: list[tuple[int, float, int]]
) -> None:
    jobs = [Job(model % len(loads), at, tokens) for model, at, tokens in arrivals]
    seen = world(loads, memory).run(jobs, END)
    assert all(job.ended_at is not None and job.made >= job.tokens for job in jobs)  # none was cut, none was left
    assert seen.most_held <= memory
    change = max(load.load for load in loads) + STOP + 4 * TICK
    bound = longest_wait([engine.seat() for engine in seen.engines], TURN, LONGEST + 1, change)
    assert max(seen.waits, default=0) <= bound


@given(
    st.lists(st.integers(1, 3), min_size=3, max_size=3), st.integers(3, 5), st.lists(st.integers(0, 2), max_size=12),
    st.sets(st.integers(0, 2), max_size=2),
)  # fmt: skip
def test_what_waits_together_needs_no_more_than_one_swap_beyond_the_optimum(
    sizes: list[int], memory: int, asked: list[int], first: set[int]
) -> None:
    """The optimum serves those first that are there, so it loads each other model that is asked for once."""
    seen = world([Load(memory=size, load=5, slots=4) for size in sizes], memory)
    seen.run([Job(model, 0, 10) for model in first], END)
    before, there = seen.starts, {engine.order for engine in seen.engines if engine.place == "in"}
    seen.run([Job(model, seen.now + 0.01 * number, 10) for number, model in enumerate(asked)], END)
    assert seen.starts - before <= len({*asked} - there) + 1


def test_requests_of_one_model_are_served_together() -> None:
    jobs = [Job(number % 2, 0.1 * number, 100) for number in range(20)]
    ours = world([Load(load=5), Load(load=5)], 1).run(jobs, END)
    control = World([Load(load=5), Load(load=5)], 1, TURN, first_come, TICK, in_order=True)
    control.run([Job(job.model, job.at, job.tokens) for job in jobs], END)
    assert (ours.starts, control.starts) == (2, 20)


def test_a_busy_model_gives_way_after_its_turn_and_comes_back() -> None:
    endless = [Job(0, 0.5 * number, 400) for number in range(400)]
    other = Job(1, 30.0, 100)
    seen = world([Load(load=5, slots=2), Load(load=5)], 1).run([*endless, other], END)
    assert other.first_at is not None
    assert other.first_at <= 30 + TURN + LONGEST + STOP + 5 + 2
    assert seen.engines[0].starts == 2
    assert all(job.ended_at is not None for job in endless)


def test_64_models_in_room_for_three() -> None:
    jobs = [Job(number * 7 % 64, number * 2.0, 300) for number in range(150)]
    seen = World([Load(load=3)] * 64, 3, TURN, turns, TICK).run(jobs, END)
    assert all(job.ended_at is not None for job in jobs)
    assert seen.most_held == 3


def seat(order: int, memory: int = 1, **values: Any) -> Seat:
    return Seat(order, memory, **values)


def test_the_one_that_is_cheapest_to_bring_back_and_longest_unused_goes() -> None:
    there: dict[str, Any] = {"place": "in", "came_at": 0.0}
    dear, cheap = seat(0, back=100, used_at=50, **there), seat(1, back=5, used_at=50, **there)
    old = seat(2, back=100, used_at=0, **there)
    wanted = seat(3, waits_since=99, demand=1, back=9)
    assert decide([dear, cheap, wanted], 2, TURN, 100).there == {0, 3}
    assert decide([dear, old, wanted], 2, TURN, 100).there == {0, 3}
    busy = seat(1, back=5, used_at=100, demand=2, **there)
    assert decide([dear, busy, wanted], 2, TURN, 100).there == {1, 3}


def test_those_that_are_always_there_stay_and_keep_their_room() -> None:
    always, wanted = seat(0, 3, keep="always"), seat(1, 2, waits_since=0, demand=1)
    found = decide([always, wanted], 4, TURN, 1000)
    assert found.there == {0}
    assert decide([always, wanted], 5, TURN, 1000).there == {0, 1}


def test_a_small_one_comes_in_beside_one_that_waits_only_where_it_does_not_delay_it() -> None:
    busy = seat(0, 3, place="in", came_at=95, demand=1, used_at=100, back=5)
    large = seat(1, 4, waits_since=96, demand=1, back=7)
    small = seat(2, 1, waits_since=97, demand=1, back=2)
    found = decide([busy, large, small], 4, TURN, 100)
    assert found.there == {0}
    assert found.after[1] == (0,)
    assert found.ready_in[1] == 15 + 7  # its turn ends at 115
    assert found.ready_in[2] == 15 + 7 + TURN + 2
    assert decide([busy, large, small], 5, TURN, 100).there == {0, 2}


def test_what_sleeps_keeps_its_part_of_the_room() -> None:
    asleep = seat(0, 4, keep="warm", asleep=1, place="asleep")
    wanted = seat(1, 4, waits_since=0, demand=1)
    assert decide([asleep, wanted], 5, TURN, 10).there == {1}
    assert decide([asleep, wanted], 4, TURN, 10).there == frozenset()
