"""What the gateway sees of its engines: their state files as they change, and the failures it saw itself."""

import asyncio
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from service.config.settings import Settings
from service.engine import state
from service.engine.state import CONDITIONS, Condition, EngineState
from service.transport.pool import ConnectionPool
from service.upstreams.breaker import LONGEST_EJECTION
from service.upstreams.replica import Replica
from service.upstreams.upstream import Upstream
from service.upstreams.upstreams import Upstreams
from tests.support import fleets
from tests.support.waiting import until
from tests.upstreams.clock import Clock

FLEET = "models: [{model: pebble-chat, min_replicas: 2}, {model: pebble-base}]"
FIRST = EngineState("pebble-chat-0", "pebble-chat", 0, "ready")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def upstreams(tmp_path: Path, clock: Clock) -> Upstreams:
    return Upstreams(fleets.load(tmp_path, FLEET), Settings(run_dir=tmp_path), ConnectionPool(), clock)


def test_one_upstream_for_each_model_in_the_fleets_order(upstreams: Upstreams, tmp_path: Path) -> None:
    seen = [(one.served.id, [(replica.id, replica.address) for replica in one.replicas]) for one in upstreams]
    assert seen == [
        ("pebble-chat", [("pebble-chat-0", f"{tmp_path}/e0.sock"), ("pebble-chat-1", f"{tmp_path}/e1.sock")]),
        ("pebble-base", [("pebble-base-0", f"{tmp_path}/e2.sock")]),
    ]


def test_nothing_is_usable_before_its_engine_says_so(upstreams: Upstreams, clock: Clock) -> None:
    assert not upstreams.refresh()
    assert [one.usable(clock()) for one in upstreams] == [[], []]
    assert upstreams["pebble-chat"].condition()[0] == "waiting"


@pytest.mark.parametrize("condition", CONDITIONS)
def test_only_a_ready_replica_is_usable(
    condition: Condition, upstreams: Upstreams, tmp_path: Path, clock: Clock
) -> None:
    state.write(tmp_path, replace(FIRST, condition=condition))
    assert upstreams.refresh()
    assert len(upstreams["pebble-chat"].usable(clock())) == (condition == "ready")
    assert upstreams["pebble-chat"].condition()[0] == condition


def test_only_what_changed_is_read(upstreams: Upstreams, tmp_path: Path) -> None:
    state.write(tmp_path, FIRST)
    assert [upstreams.refresh() for _ in range(3)] == [True, False, False]
    state.write(tmp_path, replace(FIRST, condition="failed"))
    assert [upstreams.refresh() for _ in range(2)] == [True, False]


def test_two_changes_at_the_same_time_of_the_clock(upstreams: Upstreams, tmp_path: Path, clock: Clock) -> None:
    """The file system's clock ticks every few milliseconds, and an engine may be starting and ready within one."""
    steps: list[tuple[Condition, int]] = [("starting", 0), ("ready", 1), ("failed", 0)]
    for condition, usable in steps:
        state.write(tmp_path, replace(FIRST, condition=condition))
        os.utime(state.state_path(tmp_path, 0), ns=(10**18, 10**18))
        assert upstreams.refresh()
        assert len(upstreams["pebble-chat"].usable(clock())) == usable


@pytest.mark.parametrize("text", ["", "{", "[]", '{"replica": 1}', '{"surprise": 1}', "\0"])
def test_a_file_that_says_nothing_changes_nothing(text: str, upstreams: Upstreams, tmp_path: Path) -> None:
    state.write(tmp_path, FIRST)
    upstreams.refresh()
    state.state_path(tmp_path, 0).write_text(text)
    upstreams.refresh()
    assert upstreams["pebble-chat"].replicas[0].state == FIRST


def test_a_file_that_vanishes_changes_nothing(upstreams: Upstreams, tmp_path: Path) -> None:
    state.write(tmp_path, FIRST)
    upstreams.refresh()
    state.state_path(tmp_path, 0).unlink()
    assert not upstreams.refresh()
    assert upstreams["pebble-chat"].replicas[0].state == FIRST


CONDITION_OF: list[tuple[list[Condition], Condition]] = [
    (["failed", "ready"], "ready"),
    (["failed", "starting"], "starting"),
    (["failed", "waiting"], "waiting"),
    (["scaled_to_zero", "ready"], "ready"),
    (["scaled_to_zero", "waiting"], "waiting"),
    (["failed", "scaled_to_zero"], "scaled_to_zero"),
    (["stopped", "failed"], "failed"),
    (["stopped", "stopping"], "stopping"),
    (["stopped", "stopped"], "stopped"),
]


@pytest.mark.parametrize(("both", "condition"), CONDITION_OF)
def test_a_model_is_as_well_as_its_best_replica(
    both: list[Condition], condition: Condition, upstreams: Upstreams, tmp_path: Path
) -> None:
    for order, one in enumerate(both):
        state.write(tmp_path, EngineState(f"pebble-chat-{order}", "pebble-chat", order, one, reason=f"{one} it is"))
    upstreams.refresh()
    assert upstreams["pebble-chat"].condition() == (condition, f"{condition} it is")


def test_a_ready_models_phase_is_no_reason(upstreams: Upstreams, tmp_path: Path) -> None:
    state.write(tmp_path, replace(FIRST, phase="loading weights"))
    upstreams.refresh()
    assert upstreams["pebble-chat"].condition() == ("ready", None)


def usable(upstream: Upstream, clock: Clock) -> list[str]:
    return [replica.id for replica in upstream.usable(clock())]


def test_a_replica_that_failed_rests_longer_each_time(upstreams: Upstreams, tmp_path: Path, clock: Clock) -> None:
    state.write(tmp_path, FIRST)
    upstreams.refresh()
    replica: Replica = upstreams["pebble-chat"].replicas[0]
    for rest in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, LONGEST_EJECTION, LONGEST_EJECTION):
        upstreams.failed(replica, refused=True)
        clock.now += rest - 0.01
        assert usable(upstreams["pebble-chat"], clock) == []
        clock.now += 0.01
        assert usable(upstreams["pebble-chat"], clock) == ["pebble-chat-0"]


def test_a_new_life_of_an_engine_is_forgiven_the_old_one(upstreams: Upstreams, tmp_path: Path, clock: Clock) -> None:
    state.write(tmp_path, FIRST)
    upstreams.refresh()
    replica = upstreams["pebble-chat"].replicas[0]
    for _ in range(9):
        upstreams.failed(replica, refused=True)
    state.write(tmp_path, replace(FIRST, restarts=1))
    upstreams.refresh()
    assert usable(upstreams["pebble-chat"], clock) == ["pebble-chat-0"]
    assert replica.breaker.closed


def test_replicas_are_counted_by_condition(upstreams: Upstreams, tmp_path: Path) -> None:
    state.write(tmp_path, FIRST)
    upstreams.refresh()
    counts = {(model, condition): count for model, condition, count in upstreams.counts()}
    assert len(counts) == 2 * len(CONDITIONS)
    assert {key: count for key, count in counts.items() if count} == {
        ("pebble-chat", "ready"): 1,
        ("pebble-chat", "waiting"): 1,
        ("pebble-base", "waiting"): 1,
    }


async def test_watching_tells_of_each_change(upstreams: Upstreams, tmp_path: Path) -> None:
    changes: list[tuple[str, str | None]] = []
    watching = asyncio.create_task(upstreams.watch(lambda: changes.append(upstreams["pebble-chat"].condition())))
    conditions: list[Condition] = ["starting", "ready", "failed"]
    for condition in conditions:
        state.write(tmp_path, replace(FIRST, condition=condition))
        expected = conditions[: conditions.index(condition) + 1]
        await until(partial(lambda wanted: [seen for seen, _ in changes] == wanted, expected))
    watching.cancel()


def test_the_last_replica_stays_in_use_whatever_it_answers(upstreams: Upstreams, tmp_path: Path, clock: Clock) -> None:
    for order in (0, 1):
        state.write(tmp_path, EngineState(f"pebble-chat-{order}", "pebble-chat", order, "ready"))
    upstreams.refresh()
    upstream = upstreams["pebble-chat"]
    for _ in range(3):
        for replica in upstream.replicas:
            upstreams.failed(replica)
    assert usable(upstream, clock) == ["pebble-chat-1"]
    for _ in range(20):
        upstreams.failed(upstream.replicas[1])
    assert usable(upstream, clock) == ["pebble-chat-1"]
    upstreams.failed(upstream.replicas[1], refused=True)
    assert usable(upstream, clock) == []


def test_one_that_is_not_ready_is_no_spare(upstreams: Upstreams, tmp_path: Path, clock: Clock) -> None:
    state.write(tmp_path, FIRST)
    upstreams.refresh()
    for _ in range(20):
        upstreams.failed(upstreams["pebble-chat"].replicas[0])
    assert usable(upstreams["pebble-chat"], clock) == ["pebble-chat-0"]


def test_a_failure_casts_doubt_on_the_replica_and_its_addresses(upstreams: Upstreams) -> None:
    first, second = upstreams["pebble-chat"].replicas
    upstreams["pebble-chat"].recheck.clear()
    upstreams.failed(first)
    assert (first.recheck.is_set(), second.recheck.is_set(), upstreams["pebble-chat"].recheck.is_set()) == (
        True,
        False,
        True,
    )


def test_only_replicas_with_room_are_free(upstreams: Upstreams, tmp_path: Path, clock: Clock) -> None:
    for order in (0, 1):
        state.write(tmp_path, EngineState(f"pebble-chat-{order}", "pebble-chat", order, "ready"))
    upstreams.refresh()
    upstream = upstreams["pebble-chat"]
    first, second = upstream.replicas
    first.limit, first.in_flight, second.limit, second.in_flight = 4, 4, 4, 1
    assert (upstream.free(clock()), upstream.capacity(clock())) == ([second], 3)
    first.in_flight = 6  # what it had before its limit shrank
    assert upstream.capacity(clock()) == 3


def test_a_new_fleet_keeps_the_engines_that_run_here(upstreams: Upstreams, tmp_path: Path, clock: Clock) -> None:
    """The order in which engines started is that of the first fleet, whatever the new one leaves out."""
    state.write(tmp_path, EngineState("pebble-base-0", "pebble-base", 2, "ready"))
    upstreams.refresh()
    upstream = upstreams["pebble-base"]
    (replica,) = upstream.replicas
    replica.in_flight, upstream.request_count = 5, 7
    upstreams.apply(fleets.load(tmp_path, "models: [{model: pebble-base, max_in_flight: 9}]"))
    assert [one.served.id for one in upstreams] == ["pebble-base"]
    assert upstreams["pebble-base"] is upstream
    assert upstream.replicas == [replica]
    assert (replica.in_flight, replica.limit, upstream.request_count, upstream.served.max_in_flight) == (5, 9, 7, 9)
    state.write(tmp_path, EngineState("pebble-base-0", "pebble-base", 2, "stopping"))
    assert upstreams.refresh()
    assert not replica.ready
    upstreams.apply(fleets.load(tmp_path, FLEET))
    assert upstreams["pebble-base"].replicas == [replica]
    assert [one.id for one in upstreams["pebble-chat"].replicas] == ["pebble-chat-0", "pebble-chat-1"]


@pytest.mark.parametrize(("least", "condition"), [(0, "scaled_to_zero"), (1, "waiting")])
def test_engines_elsewhere_that_nobody_has_seen(least: int, condition: str, tmp_path: Path, clock: Clock) -> None:
    fleet = fleets.load(
        tmp_path, f"models: [{{model: pebble-chat, min_replicas: {least}, addresses: ['engines.test:80']}}]"
    )
    upstreams = Upstreams(fleet, Settings(run_dir=tmp_path), ConnectionPool(), clock)
    assert upstreams["pebble-chat"].condition()[0] == condition
    assert {count for *_, count in upstreams.counts()} == {0}
