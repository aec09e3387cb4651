"""The simulated replicas keep what vLLM would keep, and what the gateway's own choices are worth there."""

import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.affinity.prices import prices
from bench.affinity.simulation import BLOCK, Cache, Engine, Result, Simulation, read
from bench.affinity.workloads import CHARACTERS, Conversation, Workload, text, workloads
from service.config.paths import ROOT
from service.routing.policies import POLICIES, Policy, PolicyInput, round_robin
from service.upstreams.replica import Replica

REPLICAS = 4


def run(workload: Workload, policy: Policy, replicas: int = REPLICAS, shrink: int = 1) -> Result:
    """A short run; with one replica that replaces so many."""
    users, blocks = workload.users * replicas * shrink, workload.blocks * shrink
    return Simulation(workload, policy, replicas, users, blocks, speed=shrink).run(300 * replicas * shrink)


def named(name: str) -> Workload:
    return next(workload for workload in workloads(REPLICAS) if workload.name == name)


def test_a_cache_knows_a_beginning_and_nothing_after_a_gap() -> None:
    cache = Cache(8)
    cache.learn([1, 2, 3])
    assert [cache.known(blocks) for blocks in ([1, 2, 3, 4], [1, 9, 3], [9, 2], [])] == [3, 1, 0, 0]


def test_a_cache_forgets_what_was_used_longest_ago_and_ends_before_beginnings() -> None:
    cache = Cache(4)
    cache.learn([1, 2])
    cache.learn([3, 4])
    cache.learn([1, 5])
    assert cache.known([1, 5]) == 2
    assert cache.known([3, 4]) == 2
    cache.learn([6])
    assert cache.known([3, 4]) == 1


def test_a_block_is_named_after_all_that_comes_before_it() -> None:
    system = text(random.Random(1), 4 * BLOCK)
    one, other = (Conversation(system, question * BLOCK * CHARACTERS, 1) for question in "ab")
    shared = len(f"system\n{system}\nuser\n") // (BLOCK * CHARACTERS)
    assert read(one)[:shared] == read(other)[:shared]
    assert not set(read(one)[shared:]) & set(read(other)[shared:])


def test_a_conversation_that_goes_on_keeps_its_blocks() -> None:
    one = Conversation(text(random.Random(1), 50), text(random.Random(2), 50), 2)
    before = list(read(one))
    one.say("assistant", text(random.Random(3), 100))
    assert read(one)[: len(before)] == before
    assert len(read(one)) == one.tokens // BLOCK > len(before)


def test_a_prompt_waits_for_those_that_are_read_before_it() -> None:
    engine = Engine(0, 10, speed=1.0)
    first = engine.read(1.0, 800)
    assert first > 1.0
    assert engine.read(1.0, 800) - first == pytest.approx(first - 1.0)


def test_the_load_of_a_replica_is_what_it_has_over_time() -> None:
    engine = Engine(0, 10, speed=1.0)
    for now, requests in ((0.0, 1), (2.0, 1), (3.0, -2), (9.0, 1)):
        engine.change(now, requests)
    assert engine.busy == 1 * 2.0 + 2 * 1.0


def test_the_figures_say_who_was_chosen() -> None:
    def first(replicas: Sequence[Replica], choice: PolicyInput) -> Replica:
        return replicas[0]

    alone, turns = (run(named("hot prefix"), policy) for policy in (first, round_robin))
    assert alone.largest == pytest.approx(REPLICAS)
    assert turns.largest < 1.3
    assert alone.ttft > turns.ttft


def test_a_conversation_is_read_once_where_there_is_one_replica() -> None:
    chats = named("chats")
    whole = run(chats, round_robin, replicas=1, shrink=REPLICAS)
    assert whole.hit_rate > 0.9


def test_affinity_doubles_what_caches_have_of_chats() -> None:
    chats = named("chats")
    ours, turns = run(chats, POLICIES["prefix_affinity"]), run(chats, round_robin)
    assert ours.hit_rate > 2 * turns.hit_rate
    assert ours.hit_rate > 0.95 * run(chats, round_robin, replicas=1, shrink=REPLICAS).hit_rate


def test_a_hot_prefix_makes_no_hot_spot() -> None:
    assert run(named("hot prefix"), POLICIES["prefix_affinity"]).largest < 1.5


def test_everything_has_a_price() -> None:
    found = prices(times=1)
    assert set(found["policy_us"]) == set(POLICIES)
    assert all(price > 0 for row in (found["key_us"], *found["policy_us"].values()) for price in row.values())


def test_the_command_prints_a_row_for_each_and_keeps_the_other_part(tmp_path: Path) -> None:
    kept = tmp_path / "affinity.json"
    kept.write_text('{"engines": {"hit_rate": 1}}')
    command = [sys.executable, "-m", "bench.affinity", "--replicas", "2", "--requests", "5", "--json", str(kept)]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for workload in workloads(2):
        for policy in POLICIES:
            assert f"| {workload.name} | 2 | {policy} |" in printed
    assert '"engines"' in kept.read_text()
    assert '"simulated"' in kept.read_text()
