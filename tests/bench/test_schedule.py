"""What is measured next: the most for the minutes, within them, and nothing twice."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.gpu.schedule import Experiment, Setup, choose, cost, expected

NEAR, FAR, DEAR = Setup("near", (), 1.0), Setup("far", (), 1.0), Setup("dear", (), 20.0)
QUICK = Experiment(NEAR, "quick", 1.0, 10.0)
SLOW = Experiment(NEAR, "slow", 4.0, 10.0)
OTHER = Experiment(FAR, "other", 1.0, 9.0)
BEST = Experiment(DEAR, "best", 1.0, 100.0)
ALL = [SLOW, OTHER, QUICK, BEST]


def names(order: list[Experiment]) -> list[str]:
    return [one.measure for one in order]


def test_the_most_valuable_for_its_minutes_comes_first() -> None:
    assert choose(ALL, (), 30.0, None) is QUICK
    assert names(expected(ALL, (), 60.0)) == ["quick", "best", "other", "slow"]


def test_what_is_running_costs_no_start() -> None:
    assert (cost(SLOW, None), cost(SLOW, "near"), cost(SLOW, "far")) == (5.0, 4.0, 5.0)
    assert choose([replace(OTHER, value=10.0), QUICK], (), 9.0, "far") == replace(OTHER, value=10.0)
    assert choose([OTHER, QUICK], (), 1.5, "far") is OTHER, "the other would need its start too"


def test_a_start_is_worth_what_all_that_it_serves_is_worth() -> None:
    many = [Experiment(DEAR, str(number), 0.5, 30.0) for number in range(8)]
    alone = Experiment(NEAR, "alone", 1.0, 12.0)
    assert choose([alone, many[0]], (), 60.0, None) is alone
    chosen = choose([alone, *many], (), 60.0, None)
    assert chosen
    assert chosen.setup is DEAR
    assert choose([alone, *many], (), 5.0, None) is alone, "there is no time for the others' start"


@pytest.mark.parametrize(("left", "found"), [(0.0, None), (1.9, None), (2.0, QUICK), (21.0, QUICK)])
def test_nothing_is_begun_that_does_not_fit(left: float, found: Experiment | None) -> None:
    assert choose(ALL, (), left, None) is found


def test_what_has_a_result_is_not_done_again() -> None:
    assert choose(ALL, {"near/quick"}, 4.0, None) is OTHER
    assert choose(ALL, {one.id for one in ALL}, 100.0, None) is None


SETUPS = st.sampled_from([NEAR, FAR, DEAR])
EXPERIMENTS = st.lists(
    st.builds(Experiment, SETUPS, st.text("abcdef", min_size=1, max_size=3), st.floats(0.1, 9), st.floats(0.1, 99)),
    unique_by=lambda one: one.id,
    max_size=12,
)


@given(EXPERIMENTS, st.floats(0, 60))
def test_the_whole_plan_fits_and_leaves_nothing_that_still_would(known: list[Experiment], minutes: float) -> None:
    order = expected(known, (), minutes)
    assert len({one.id for one in order}) == len(order)
    spent, running = 0.0, None
    for one in order:
        spent += cost(one, running)
        running = one.setup.name
    assert spent <= minutes + 1e-6
    rest = [one for one in known if one not in order]
    assert all(cost(one, running) > minutes - spent - 1e-6 for one in rest)
