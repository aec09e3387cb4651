"""The load tool, against an engine that says one word per token."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench.gpu.streams import LoadError, Workload, figures, percentiles, work
from tests.fake_engine import FakeEngine, Fault
from tests.support.waiting import until

LOAD = Workload("short", prompt=8, answer=6, each=2)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[FakeEngine]:
    async with FakeEngine("m", gap=0.01).listen(tmp_path / "e.sock") as engine:
        yield engine


async def test_what_is_measured_is_what_came(engine: FakeEngine, tmp_path: Path) -> None:
    requests = LOAD.requests("m", 2048, 6, seed=1)
    took, answers = await work(str(tmp_path / "e.sock"), 3, requests)
    assert len(answers) == len(engine.requests) == 6
    assert {one.tokens for one in answers} == {6}
    assert {len(one.gaps) for one in answers} == {5}, "one gap less than tokens"
    assert all(one.ttft < one.duration <= took for one in answers)
    found = figures(took, answers)
    assert (found["requests"], found["tokens"]) == (6, 36)
    assert found["tokens_per_s"] == pytest.approx(36 / took, rel=0.01)
    assert found["itl_ms"]["p50"] >= 9
    assert {one.json["ignore_eos"] for one in engine.requests} == {True}


async def test_no_more_streams_than_asked(engine: FakeEngine, tmp_path: Path) -> None:
    engine.gap = 3600.0  # nothing is ever answered, so nothing makes room
    requests = iter(LOAD.requests("m", 2048, 8, seed=1))
    working = asyncio.create_task(work(str(tmp_path / "e.sock"), 2, requests))
    await until(lambda: len(engine.requests) == 2)
    assert len(list(requests)) == 6
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(status=503)])
async def test_a_refusal_is_an_error_and_no_figure(engine: FakeEngine, tmp_path: Path, fault: Fault) -> None:
    engine.script(fault)
    with pytest.raises(LoadError, match=f"status {fault.status}"):
        await work(str(tmp_path / "e.sock"), 2, LOAD.requests("m", 2048, 4, seed=1))


async def test_nobody_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="no connection"):
        await work(str(tmp_path / "e.sock"), 1, LOAD.requests("m", 2048, 1, seed=1))


def test_prompts_are_new_each_time_but_for_what_they_share() -> None:
    shared = Workload("shared", prompt=20, answer=1, shared=12)
    one, two = (shared.requests("m", 2048, 3, seed) for seed in (1, 2))
    prompts = [request["prompt"] for request in (*one, *two)]
    assert {len(prompt) for prompt in prompts} == {20}
    assert len({tuple(prompt) for prompt in prompts}) == 6
    assert len({tuple(prompt[:12]) for prompt in prompts}) == 2, "alike within a load, new in the next"
    assert all(1024 <= token < 1536 for prompt in prompts for token in prompt)


def test_a_short_context_shortens_the_prompt_and_not_the_answer() -> None:
    long = Workload("shared", prompt=1000, answer=100, shared=800)
    assert long.within(4096) == long
    fitting = long.within(601)
    assert (fitting.prompt, fitting.answer, fitting.shared) == (500, 100, 400)


@pytest.mark.parametrize(("seconds", "p50"), [([], 0.0), ([0.002], 2.0), ([0.001, 0.003], 2.0)])
def test_percentiles_of_little(seconds: list[float], p50: float) -> None:
    assert percentiles(seconds)["p50"] == p50


def test_percentiles_of_much() -> None:
    found = percentiles([number / 1000 for number in range(101)])
    assert (found["p50"], found["p95"], found["p99"]) == (50.0, 95.0, 99.0)
