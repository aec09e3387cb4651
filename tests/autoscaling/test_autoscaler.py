"""HPA and KEDA over time: what they remember, zero replicas, and missing metrics."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from service.autoscaling.autoscaler import Autoscaler, Fallback, Hpa, Keda, Spec, Zero
from service.autoscaling.behavior import UNLIMITED, Limit, Rules
from service.autoscaling.demand import Seen, Signal

REQUESTS = Signal("requests", lambda seen: seen.queued, 10.0)
SPEC = Spec((REQUESTS,), 1, 20, UNLIMITED, Rules(UNLIMITED.limits, 60.0), sync=15.0)


def follow(
    autoscaler: Autoscaler, load: Mapping[float, Seen | None], until: float, current: int = 1
) -> dict[float, int]:
    """The replicas after each of its times; a load holds until the next."""
    found, now = {}, 0.0
    while now <= until:
        seen = load[max(at for at in load if at <= now)]
        if seen:
            seen = replace(seen, ready=current, ordered=current)
        found[now] = current = autoscaler.replicas(now, seen, current)
        now += autoscaler.period
    return found


def queued(number: float) -> Seen:
    return Seen(queued=number)


def test_the_window_holds_what_was_wanted_and_the_first_what_there_was() -> None:
    found = follow(Hpa(SPEC), {0.0: queued(100), 15.0: queued(0)}, 90.0, current=12)
    # 10 are wanted at 0 s, but 12 were there; one is wanted from 15 s on.
    assert list(found.values()) == [12, 12, 12, 12, 1, 1, 1]


def test_changes_are_held_against_later_ones() -> None:
    spec = replace(SPEC, up=Rules((Limit("Pods", 2, 60),)))
    assert list(follow(Hpa(spec), {0.0: queued(200)}, 135.0).values()) == [3, 3, 3, 3, 5, 5, 5, 5, 7, 7]


def test_bounds() -> None:
    assert follow(Hpa(SPEC), {0.0: queued(1000)}, 0.0) == {0.0: 20}
    assert follow(Hpa(SPEC), {0.0: queued(1000)}, 0.0, current=30) == {0.0: 20}
    assert follow(Hpa(SPEC), {0.0: queued(1000)}, 0.0, current=0) == {
        0.0: 0
    }  # a minimum of one switches it off at zero
    assert follow(Hpa(replace(SPEC, minimum=0)), {0.0: queued(25)}, 0.0, current=0) == {0.0: 3}


def test_a_target_of_type_value_multiplies_the_ready_replicas() -> None:
    spec = replace(SPEC, signals=(replace(REQUESTS, kind="Value"),))
    seen = replace(queued(25), ready=2, ordered=5)
    assert Hpa(spec).replicas(0.0, seen, 5) == 5
    assert Hpa(spec).replicas(0.0, replace(seen, queued=30), 5) == 6


def test_without_metrics_an_hpa_changes_nothing() -> None:
    assert set(follow(Hpa(SPEC), {0.0: queued(50), 30.0: None}, 300.0).values()) == {5}


def test_keda_goes_to_zero_after_the_cooldown_and_back_at_its_next_poll() -> None:
    zero = Zero(polling=30.0, cooldown=120.0)
    load = {0.0: queued(5), 30.0: queued(0), 200.0: queued(5)}
    found = follow(Keda(replace(SPEC, minimum=0), zero), load, 240.0)
    assert [at for at, number in found.items() if number == 0] == [120.0, 135.0, 150.0, 165.0, 180.0, 195.0]
    assert found[210.0] == 1


def test_the_cooldown_begins_no_earlier_than_it_may() -> None:
    zero = Zero(polling=30.0, cooldown=60.0, initial_cooldown=150.0)
    found = follow(Keda(replace(SPEC, minimum=0), zero), {0.0: queued(0)}, 180.0)
    assert min(at for at, number in found.items() if number == 0) == 150.0


def test_activation_is_more_than_its_threshold() -> None:
    spec = replace(SPEC, minimum=0, signals=(replace(REQUESTS, activation=5.0),))
    assert follow(Keda(spec, Zero()), {0.0: queued(5)}, 60.0, current=0)[60.0] == 0
    assert follow(Keda(spec, Zero()), {0.0: queued(6)}, 60.0, current=0)[0.0] == 1


@pytest.mark.parametrize(
    ("behavior", "expected"),
    [("static", 2), ("currentReplicas", 5), ("currentReplicasIfHigher", 5), ("currentReplicasIfLower", 2)],
)
def test_without_metrics_keda_falls_back(behavior: Fallback, expected: int) -> None:
    zero = Zero(polling=30.0, failures=3, fallback=2, behavior=behavior)
    found = follow(Keda(SPEC, zero), {0.0: queued(50), 30.0: None}, 400.0)
    assert {found[at] for at in (30.0, 75.0)} == {5}
    assert found[400.0 // 15 * 15] == expected


def test_without_a_fallback_keda_keeps_what_there_is() -> None:
    assert set(follow(Keda(SPEC, Zero()), {0.0: queued(50), 30.0: None}, 600.0).values()) == {5}
