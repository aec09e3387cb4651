"""What the gateway knows of its local engines: changes of their state files, and failures of its own requests."""

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
from service.upstreams.breaker import MAX_EJECTION
from service.upstreams.replica import Replica
from service.upstreams.upstream import Upstream
from service.upstreams.upstreams import Upstreams
from tests.support import fleets
from tests.support.background import unexpected
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


def test_no_replica_is_usable_before_its_state_file_exists(upstreams: Upstreams, clock: Clock) -> None:
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


def test_only_changed_state_files_are_read(upstreams: Upstreams, tmp_path: Path) -> None:
    state.write(tmp_path, FIRST)
    assert [upstreams.refresh() for _ in range(3)] == [True, False, False]
    state.write(tmp_path, replace(FIRST, condition="failed"))
    assert [upstreams.refresh() for _ in range(2)] == [True, False]


def test_two_changes_within_one_tick_of_the_clock_are_both_read(
    upstreams: Upstreams, tmp_path: Path, clock: Clock
) -> None:
    """The file system's clock ticks every few milliseconds, and an engine may be starting and ready within one."""
    steps: list[tuple[Condition, int]] = [("starting", 0), ("ready", 1), ("failed", 0)]
    for condition, usable in steps:
        state.write(tmp_path, replace(FIRST, condition=condition))
        os.utime(state.state_path(tmp_path, 0), ns=(10**18, 10**18))
        assert upstreams.refresh()
        assert len(upstreams["pebble-chat"].usable(clock())) == usable


@pytest.mark.parametrize("text", ["", "{", "[]", '{"replica": 1}', '{"surprise": 1}', "\0"])
def test_a_malformed_file_keeps_the_state(text: str, upstreams: Upstreams, tmp_path: Path) -> None:
    state.write(tmp_path, FIRST)
    upstreams.refresh()
    state.state_path(tmp_path, 0).write_text(text)
    upstreams.refresh()
    assert upstreams["pebble-chat"].replicas[0].state == FIRST


def test_a_removed_file_keeps_the_state(upstreams: Upstreams, tmp_path: Path) -> None:
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
def test_a_model_has_the_condition_of_its_best_replica(
    both: list[Condition], condition: Condition, upstreams: Upstreams, tmp_path: Path
) -> None:
    for order, one in enumerate(both):
        state.write(tmp_path, EngineState(f"pebble-chat-{order}", "pebble-chat", order, one, reason=f"because {one}"))
    upstreams.refresh()
    assert upstreams["pebble-chat"].condition() == (condition, f"because {condition}")


def test_a_ready_models_phase_is_no_reason(upstreams: Upstreams, tmp_path: Path) -> None:
    state.write(tmp_path, replace(FIRST, phase="loading weights"))
    upstreams.refresh()
    assert upstreams["pebble-chat"].condition() == ("ready", None)


def usable(upstream: Upstream, clock: Clock) -> list[str]:
    return [replica.id for replica in upstream.usable(clock())]


def test_each_ejection_of_a_replica_lasts_longer(upstreams: Upstreams, tmp_path: Path, clock: Clock) -> None:
    state.write(tmp_path, FIRST)
    upstreams.refresh()
    replica: Replica = upstreams["pebble-chat"].replicas[0]
    for ejection_time in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, MAX_EJECTION, MAX_EJECTION):
        upstreams.record_failure(replica, refused=True)
        clock.now += ejection_time - 0.01
        assert usable(upstreams["pebble-chat"], clock) == []
        clock.now += 0.01
        assert usable(upstreams["pebble-chat"], clock) == ["pebble-chat-0"]


def test_a_restarted_engine_has_a_closed_breaker(upstreams: Upstreams, tmp_path: Path, clock: Clock) -> None:
    state.write(tmp_path, FIRST)
    upstreams.refresh()
    replica = upstreams["pebble-chat"].replicas[0]
    for _ in range(9):
        upstreams.record_failure(replica, refused=True)
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


async def test_watch_calls_back_after_each_change(upstreams: Upstreams, tmp_path: Path) -> None:
    changes: list[tuple[str, str | None]] = []
    watching = asyncio.create_task(
        upstreams.watch(lambda: changes.append(upstreams["pebble-chat"].condition()), unexpected)
    )
    conditions: list[Condition] = ["starting", "ready", "failed"]
    for condition in conditions:
        state.write(tmp_path, replace(FIRST, condition=condition))
        expected = conditions[: conditions.index(condition) + 1]
        await until(partial(lambda wanted: [seen for seen, _ in changes] == wanted, expected))
    watching.cancel()


def test_the_last_replica_is_ejected_only_when_it_refuses_connections(
    upstreams: Upstreams, tmp_path: Path, clock: Clock
) -> None:
    for order in (0, 1):
        state.write(tmp_path, EngineState(f"pebble-chat-{order}", "pebble-chat", order, "ready"))
    upstreams.refresh()
    upstream = upstreams["pebble-chat"]
    for _ in range(3):
        for replica in upstream.replicas:
            upstreams.record_failure(replica)
    assert usable(upstream, clock) == ["pebble-chat-1"]
    for _ in range(20):
        upstreams.record_failure(upstream.replicas[1])
    assert usable(upstream, clock) == ["pebble-chat-1"]
    upstreams.record_failure(upstream.replicas[1], refused=True)
    assert usable(upstream, clock) == []


def test_a_replica_that_is_not_ready_is_no_alternative(upstreams: Upstreams, tmp_path: Path, clock: Clock) -> None:
    state.write(tmp_path, FIRST)
    upstreams.refresh()
    for _ in range(20):
        upstreams.record_failure(upstreams["pebble-chat"].replicas[0])
    assert usable(upstreams["pebble-chat"], clock) == ["pebble-chat-0"]


def test_a_failure_triggers_a_recheck_of_the_replica_and_its_addresses(upstreams: Upstreams) -> None:
    first, second = upstreams["pebble-chat"].replicas
    upstreams["pebble-chat"].recheck.clear()
    upstreams.record_failure(first)
    assert (first.recheck.is_set(), second.recheck.is_set(), upstreams["pebble-chat"].recheck.is_set()) == (
        True,
        False,
        True,
    )


def test_only_replicas_with_capacity_are_free(upstreams: Upstreams, tmp_path: Path, clock: Clock) -> None:
    for order in (0, 1):
        state.write(tmp_path, EngineState(f"pebble-chat-{order}", "pebble-chat", order, "ready"))
    upstreams.refresh()
    upstream = upstreams["pebble-chat"]
    first, second = upstream.replicas
    first.limit, first.in_flight, second.limit, second.in_flight = 4, 4, 4, 1
    assert (upstream.free(clock()), upstream.capacity(clock())) == ([second], 3)
    first.in_flight = 6  # from before its limit shrank
    assert upstream.capacity(clock()) == 3


def test_a_new_fleet_keeps_the_local_replicas(upstreams: Upstreams, tmp_path: Path, clock: Clock) -> None:
    """Their startup order is that of the first fleet, whatever the new one leaves out."""
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
def test_the_condition_of_remote_engines_before_the_first_check(
    least: int, condition: str, tmp_path: Path, clock: Clock
) -> None:
    fleet = fleets.load(
        tmp_path, f"models: [{{model: pebble-chat, min_replicas: {least}, addresses: ['engines.test:80']}}]"
    )
    upstreams = Upstreams(fleet, Settings(run_dir=tmp_path), ConnectionPool(), clock)
    assert upstreams["pebble-chat"].condition()[0] == condition
    assert {count for *_, count in upstreams.counts()} == {0}
