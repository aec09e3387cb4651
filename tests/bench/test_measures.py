"""Measurements against engines of our own making, where the real ones would need a card."""

import asyncio
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from bench.gpu import lab, measures
from bench.gpu.experiments import on_card
from bench.gpu.lab import Running
from bench.gpu.measures import Bench, Scale
from bench.gpu.schedule import Setup, Subject
from service.engine import state
from service.engine.state import EngineState
from service.planner.gpus import load
from service.transport.pool import TransportError
from tests.fake_engine import FakeEngine, Fault
from tests.support.fleets import CATALOG, ROOT
from tests.support.fleets import load as load_fleet

MODELS = ("llama-2-7b-chat", "llama-2-7b")
FINE = Fault(raw=b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
H200 = load(ROOT / "deploy/gpus.yaml")["H200"]
SLEEP, DROP, WAKE = "/sleep?level=1", "/sleep?level=2", "/wake_up"


class Pair:
    """Two engines as a running setup without a gateway."""

    def __init__(self, folder: Path, engines: list[FakeEngine]) -> None:
        self.engines = engines
        subjects = tuple(Subject(CATALOG.models[name], "bf16", 4096) for name in MODELS)
        served = load_fleet(folder, f"models: [{', '.join(f'{{model: {name}}}' for name in MODELS)}]").served
        nobody: subprocess.Popen[bytes] = subprocess.Popen(["sleep", "100"])
        self.nobody = nobody
        now = time.monotonic()
        running = Running(Setup("pair", subjects, 1.0), folder, "127.0.0.1:9", served, nobody, now - 9.0, now, None)
        self.bench = Bench(running, H200, Scale(streams=(1, 2), batch=2, rounds=1, requests=2, shrink=16))

    def asked(self, number: int) -> list[str]:
        return [one.path for one in self.engines[number].requests if not one.path.startswith("/v1")]


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        engines = [FakeEngine(name, gap=0.002) for name in MODELS]
        for order, engine in enumerate(engines):
            await stack.enter_async_context(engine.listen(state.socket_path(tmp_path, order)))
            state.write(tmp_path, EngineState(f"{MODELS[order]}-0", MODELS[order], order, "ready"))
        found = Pair(tmp_path, engines)
        yield found
        found.nobody.kill()
        found.nobody.wait()


async def test_two_models_take_turns_by_sleeping(pair: Pair) -> None:
    for engine in pair.engines:
        for path in (SLEEP, SLEEP, SLEEP, DROP, WAKE, WAKE):
            engine.script(FINE, path=path)
    found = await measures.sleep(pair.bench)
    assert pair.asked(0) == [SLEEP, WAKE, SLEEP, WAKE, SLEEP]
    assert pair.asked(1) == [SLEEP, WAKE, DROP, WAKE]
    assert [(one["to"], one["level"], one["woken_from"]) for one in found["switches"]] == [
        (MODELS[0], 1, 1), (MODELS[1], 1, 1), (MODELS[0], 2, 1), (MODELS[1], 1, 2),
    ]  # fmt: skip
    for one in found["switches"]:
        assert min(one["sleep_s"], one["wake_s"]) >= 0
        assert one["first_token_ms"] > 0
    assert found["both_started_s"] >= 9.0


async def test_an_engine_is_stopped_and_comes_back(pair: Pair) -> None:
    before = EngineState(f"{MODELS[0]}-0", MODELS[0], 0, "ready", pid=pair.nobody.pid)
    state.write(pair.bench.running.folder, before)
    measuring = asyncio.create_task(measures.restart(pair.bench))
    assert await asyncio.to_thread(pair.nobody.wait) == -signal.SIGTERM
    again = replace(before, restarts=1, pid=None, start_phases={"importing vLLM": 12.5, "loading weights": 3.25})
    state.write(pair.bench.running.folder, again)
    found = await measuring
    assert found["start_s"] == 15.75
    assert 0 <= found["stop_s"] <= found["back_s"]
    assert found["first_token_ms"] > 0


def test_on_a_card_engines_of_the_kit_may_sleep(tmp_path: Path) -> None:
    """The service gives their routes to no engine of its own card, and its fleet file may not ask for them."""
    (turns,) = {one.setup.name: one.setup for one in on_card(CATALOG, H200)[0] if one.measure == "sleep"}.values()
    lab.write_fleet(turns, tmp_path, 1)
    program = lab.environment_of(turns, tmp_path, 60.0)["ROUNDHOUSE_ENGINE_PROGRAM"]
    assert program.startswith("env VLLM_SERVER_DEV_MODE=1 ")


async def test_an_engine_that_cannot_sleep_says_so(pair: Pair) -> None:
    with pytest.raises(TransportError, match="status 404"):
        await measures.sleep(pair.bench)


async def test_bounds_are_those_of_the_planner(pair: Pair) -> None:
    found = await measures.bounds(pair.bench)
    assert found["card_known"]
    for row, streams in zip(found["decode"], (1, 2), strict=True):
        assert row["streams"] == streams
        assert row["share"] == pytest.approx(row["tokens_per_s"] / row["bound"], abs=0.001)
    # 13.2 GB of weights, all but the table, 4.8 TB/s.
    assert found["decode"][0]["bound"] == pytest.approx(363, rel=0.01)
    assert found["prefill"]["bound"] > 50_000


async def test_without_a_known_card_there_are_no_bounds(pair: Pair) -> None:
    bench = Bench(pair.bench.running, None, pair.bench.scale)
    found = await measures.bounds(bench)
    assert not found["card_known"]
    assert {row["bound"] for row in (*found["decode"], found["prefill"])} == {None}
    engines = (await measures.start(bench))["engines"]
    assert [engine["planned_kv_blocks"] for engine in engines] == [None, None]


async def test_the_kv_cache_is_vllms_beside_the_planners(pair: Pair) -> None:
    report = b'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="13000"} 1.0\n'
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(report)}\r\n\r\n".encode()
    pair.engines[0].script(Fault(raw=head + report), path="/metrics")
    (pair.bench.running.folder / f"{MODELS[0]}-0.log").write_text("INFO Available KV cache memory: 101.5 GiB\n")
    found = await measures.start(pair.bench)
    first, second = found["engines"]
    assert (first["kv_blocks"], first["block_size"], first["kv_bytes"]) == (13000, 16, int(101.5 * 2**30))
    assert first["kv_blocks_for_its_bytes"] == int(101.5 * 2**30) // (16 * 32 * 2 * 32 * 128 * 2)
    assert first["planned_kv_blocks"] > 12000
    assert first["planned_weight_bytes"] == pytest.approx(2 * 6738415616, rel=0.01)
    assert (second["kv_blocks"], second["kv_blocks_for_its_bytes"]) == (None, None)
    assert found["ready_s"] == 9.0


@pytest.mark.parametrize("streams", Scale().streams)
@pytest.mark.parametrize("each", [1, 2])
def test_all_rounds_together_have_enough_requests_for_percentiles(streams: int, each: int) -> None:
    scale = Scale()
    count = scale.count(streams, each, scale.rounds)
    assert count * scale.rounds >= 30
    assert count >= streams * each
    assert count % streams == 0, "every stream has as many"


async def test_a_load_counts_the_requests_of_all_rounds(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Running, "gateway_seconds", lambda _: 0.0)
    running = replace(pair.bench.running, address=pair.bench.running.socket())
    bench = Bench(running, H200, Scale(streams=(1, 2), rounds=2, requests=6, shrink=32))
    found = await measures.loads(measures.SHORT)(bench)
    assert [(row["direct"]["requests"], row["service"]["requests"]) for row in found["loads"]] == [(6, 6), (8, 8)]
    assert {row["direct"]["tokens"] for row in found["loads"]} == {6 * 4, 8 * 4}


async def test_batching_is_the_same_requests_both_ways(pair: Pair) -> None:
    found = await measures.batching(pair.bench)
    assert found["one_at_a_time"]["requests"] == found["together"]["requests"] == 2
    rates = [found[key]["tokens_per_s"] for key in ("one_at_a_time", "together")]
    assert found["gain"] == pytest.approx(rates[1] / rates[0], abs=0.01)
