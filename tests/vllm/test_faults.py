"""What clients of the whole service see when real engines die, hang, stop, fill up or cannot start.

One service for all tests, in this order: each leaves it as it heals, and begins when that is far enough for it.
"""

import asyncio
import random
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from functools import partial
from statistics import mean
from typing import Any

import httpx
import psutil
import pytest

from tests.support.services import ROOT, Service, descendants_of, serving, wait_for
from tests.vllm.conftest import MODEL
from tests.vllm.pair import BOTH, PATH, PATIENT, Pair, Stream, body, fleet, is_whole, total, until
from tests.vllm.transcript import ask

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

HANG = 10.0  # seconds
SLEEPER, BROKEN = "pebble-base", "pebble-instruct"
SECOND, THIRD = 2, 3  # their engines' numbers


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The pair, and two models on demand: one that can wake, and one whose weights are cut in half."""
    folder = tmp_path_factory.mktemp("faults")
    shutil.copytree(ROOT / "models/pebble" / BROKEN, folder / "broken")
    weights = folder / "broken/model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    others: dict[str, dict[str, Any]] = {
        SLEEPER: {"min_replicas": 0, "scale_down_after": 1},
        BROKEN: {
            "min_replicas": 0,
            "scale_down_after": 1,
            "weights": str(folder / "broken"),
            "timeouts": {"activation": 1},
        },
    }
    with serving(fleet(folder, **others), folder / "run", hang_timeout=HANG, drain_timeout=60) as started:
        yield started


@pytest.fixture
async def pair(service: Service) -> AsyncIterator[Pair]:
    limits = httpx.Limits(max_connections=None)
    options: dict[str, Any] = {"trust_env": False, "verify": False}  # else it reads the system's certificates each time
    async with httpx.AsyncClient(base_url=service.url, timeout=PATIENT, limits=limits, **options) as http:
        yield Pair(service, http)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


async def of_each(first: Stream, second: Stream) -> tuple[Stream, Stream]:
    """Two streams that run, in the order of their engines."""
    for one in (first, second):
        await one.take(5)
    assert {first.replica, second.replica} == set(BOTH)
    return (first, second) if first.replica == 0 else (second, first)


# Deaths


async def test_an_api_server_is_killed(pair: Pair) -> None:
    """Its stream ends with an error, the other's does not; whoever comes next never notices."""
    await pair.healed()
    async with pair.stream("kill, one") as one, pair.stream("kill, two") as two:
        lost, kept = await of_each(one, two)
        before = pair.processes(lost.replica)
        before[0].send_signal(signal.SIGKILL)
        next_ones = await asyncio.gather(*(pair.ask(f"next {number}") for number in range(6)))
        assert all(is_whole(answer, 8) for answer in next_ones)
        await lost.rest()
        assert lost.code == "upstream_error"
        await kept.rest()
        assert kept.is_whole(900)
    await pair.told(f"{MODEL}-{lost.replica}  failed, starts again in 1 s, the engine was killed by signal 9")
    assert not alive(before)


async def test_a_model_wakes_for_a_request_and_goes_back_to_sleep(pair: Pair) -> None:
    """Meanwhile the engine that was killed starts, too."""
    async with pair.stream("wake", 100, SLEEPER, sse_heartbeat_interval="1") as stream:
        await stream.take(1)
        processes = pair.processes(SECOND)
        await stream.rest()
    assert stream.comments[0].startswith(f": waiting for {SLEEPER}: ")
    assert stream.is_whole(100)
    assert len(alive(processes)) > 1
    await pair.until(SECOND, lambda said: said.condition == "scaled_to_zero")
    assert not alive(processes)


async def test_a_core_is_stopped_and_then_killed(pair: Pair) -> None:
    """The API server goes on: it ends requests by `abort` and status 200, and after the death with an error and [DONE].

    Neither passes for an answer.
    """
    await pair.healed()
    async with pair.stream("stop, one", 1000) as one, pair.stream("stop, two", 1000) as two:
        lost, kept = await of_each(one, two)
        socket, core = pair.service.socket_of(lost.replica), pair.core(lost.replica)
        core.terminate()
        aborted = await ask(socket, "POST", PATH, body("asked past the gateway", 8))
        assert (aborted.status, aborted.body["choices"][0]["finish_reason"]) == (200, "abort")
        met = len(pair.lines())
        for number in range(4):
            assert is_whole(await pair.ask(f"whole {number}"), 8)
            async with pair.stream(f"stream {number}", 8) as answer:
                await answer.rest()
                assert answer.is_whole(8)
        assert max(line["attempts"] for line in pair.lines()[met:]) == 2, "the gateway met one"
        core.kill()
        await lost.rest()
        assert lost.code == "upstream_error"
        assert all([is_whole(await pair.ask(f"dead {number}"), 8) for number in range(8)])
        await kept.rest()
        assert kept.is_whole(1000)
    await pair.told("the engine ended with exit status 0: EngineDeadError")


# Meanwhile that one starts, and the other is there for all


async def test_weights_that_are_cut_in_half(pair: Pair) -> None:
    """The engine says why it failed, once; it is left alone then, and the other models serve."""
    answer = await pair.http.post(PATH, json=body("x", 8) | {"model": BROKEN})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_loading")
    assert int(answer.headers["retry-after"]) >= 1
    failed = asyncio.create_task(pair.told(f"{BROKEN}-0  failed, starts again in 1 s, "))
    while not failed.done():
        assert is_whole(await pair.ask("meanwhile"), 8)
        await asyncio.sleep(0.5)
    await failed
    await pair.told("SafetensorError: Error while deserializing header")
    assert (await pair.until(THIRD, lambda said: said.condition == "scaled_to_zero")).restarts == 1


# Clients that leave


async def test_clients_that_leave_free_their_engine(pair: Pair) -> None:
    made = await pair.quiet()
    async with pair.stream("leave") as stream:
        await stream.take(5)
    whole = asyncio.create_task(pair.ask("leave", 900))
    await until(partial(pair.seen, "roundhouse_requests_in_flight"), 1.0)
    whole.cancel()
    assert await pair.quiet() < made + 2 * 900


async def test_clients_that_leave_the_queue(pair: Pair) -> None:
    await pair.quiet()
    asked = [asyncio.create_task(pair.ask(f"queue {number}", 900)) for number in range(30)]
    await until(partial(pair.seen, "roundhouse_demand"), 30.0)
    assert await pair.seen("roundhouse_requests_queued") > 10
    for one in asked:
        one.cancel()
    await pair.quiet()
    assert is_whole(await pair.ask("after"), 8)


async def test_a_hundred_clients_that_leave_at_any_time(pair: Pair) -> None:
    """Queued, before the first byte, in the middle, after the end, streamed or not."""
    await pair.quiet()
    met, source = len(pair.lines()), random.Random(4)

    async def client(number: int, patience: float, streamed: bool) -> None:
        try:
            async with asyncio.timeout(patience):
                if not streamed:
                    await pair.ask(f"client {number}", 200)
                    return
                async with pair.stream(f"client {number}", 200) as stream:
                    await stream.rest()
        except TimeoutError:
            return

    await asyncio.gather(*(client(number, source.uniform(0.05, 5.0), number % 2 > 0) for number in range(100)))
    await pair.quiet()
    outcomes = {line["outcome"] for line in pair.lines()[met:]}
    assert "cancelled" in outcomes
    assert outcomes <= {"cancelled", "complete"}


async def test_a_deadline_frees_the_engine(pair: Pair) -> None:
    made = await pair.quiet()
    late = await pair.ask("whole", 1000, timeout="0.5")
    assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
    async with pair.stream("streamed", 1000, timeout="1") as stream:
        await stream.rest()
    assert stream.code == "timeout"
    assert await pair.quiet() < made + 2 * 1000


# Overload


async def test_ten_times_what_the_engines_hold(pair: Pair) -> None:
    """The queue is in the gateway, the engines are kept full, and everyone is answered."""
    await pair.healed()
    asked = asyncio.gather(*(pair.ask(f"crowd {number}", 100) for number in range(80)))
    queued, running, waiting = [], [], []
    while not asked.done():
        queued.append(await pair.seen("roundhouse_requests_queued"))
        pages = [await pair.page(number) for number in BOTH]
        if queued[-1] and max(queued) > 40:
            running += [total(page, "vllm:num_requests_running") for page in pages]
            waiting += [total(page, "vllm:num_requests_waiting") for page in pages]
    assert all(is_whole(answer, 100) for answer in await asked)
    assert max(queued) > 40
    assert mean(waiting) < 3
    assert mean(running) > 3


async def test_conversations_stay_where_their_beginning_is_cached(pair: Pair) -> None:
    """By a changed fleet file, under way: the same talk under both policies, and what the engines had cached of it."""
    await pair.healed()
    _, scattered = await talk(pair, "round_robin")
    file = pair.service.run_dir.parent / "fleet.yaml"
    file.write_text(file.read_text().replace("round_robin", "prefix_affinity"))
    await pair.told('"outcome": "in use"')
    engines, kept = await talk(pair, "prefix_affinity")
    file.write_text(file.read_text().replace("prefix_affinity", "round_robin"))
    await pair.told('"outcome": "in use"', times=2)
    assert all(len(seen) == 1 for seen in engines)
    assert set.union(*engines) == {f"{MODEL}-{number}" for number in BOTH}
    assert kept > scattered


async def talk(pair: Pair, name: str) -> tuple[list[set[str]], float]:
    """Seven conversations of four turns: the engines that each was at, and which part of the prompts was cached."""
    talks: list[list[dict[str, str]]] = [[] for _ in range(7)]
    engines: list[set[str]] = [set() for _ in talks]
    prompts = cached = 0
    for turn in range(4):
        for number, messages in enumerate(talks):
            text = f"{name} {number}, {turn}: " + "all of it is said once more, " * 5
            messages.append({"role": "user", "content": text})
            fields = {"model": MODEL, "messages": messages, "max_tokens": 8, "temperature": 0}
            answer = await pair.http.post("/v1/chat/completions", json=fields)
            assert answer.status_code == 200, answer.text
            usage, said = answer.json()["usage"], answer.json()["choices"][0]["message"]["content"]
            messages.append({"role": "assistant", "content": said})
            engines[number].add(answer.headers["x-roundhouse-replica"])
            prompts += usage["prompt_tokens"]
            cached += usage["prompt_tokens_details"]["cached_tokens"]
    return engines, cached / prompts


# Rolling restarts


async def test_one_engine_service_after_the_other_is_restarted_under_load(pair: Pair) -> None:
    """SIGTERM to each BentoML worker in turn, which is then started anew; nobody's request fails."""
    await pair.healed()
    stopped = asyncio.Event()

    async def client(number: int) -> int:
        """Asks without an end, every other answer streamed; returns how many it got."""
        count = 0
        while not stopped.is_set():
            count += 1
            prompt = f"client {number}, {count}"
            if count % 2:
                assert is_whole(await pair.ask(prompt, 40), 40)
            else:
                async with pair.stream(prompt, 40) as stream:
                    await stream.rest()
                    assert stream.is_whole(40), stream.events[-1]
            await asyncio.sleep(1.0)
        return count

    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(client(number)) for number in range(3)]
        for number in BOTH:
            before, worker = pair.said(number).pid, worker_of(pair.service, number)
            worker.terminate()
            await pair.until(number, lambda said: said.condition == "stopping")
            await pair.until(number, lambda said: said.condition == "stopped")
            after = await pair.until(number, lambda said: said.condition == "ready")
            assert after.pid != before
            await until(pair.ready, list(BOTH))
        stopped.set()
    assert all(one.result() for one in clients)


def worker_of(service: Service, number: int) -> psutil.Process:
    """The BentoML worker of an engine service."""
    name = f"engine-{MODEL}-{number}"
    found = psutil.Process(service.process.pid).children(recursive=True)
    return next(one for one in found if name in one.cmdline())


# The end


async def test_a_core_stands_still(pair: Pair) -> None:
    """It is healthy by its own account; its progress gives it away. The service is then asked to end, and does."""
    await pair.healed()
    async with pair.stream("freeze, one") as one, pair.stream("freeze, two") as two:
        lost, kept = await of_each(one, two)
        before, socket = pair.processes(lost.replica), pair.service.socket_of(lost.replica)
        pair.core(lost.replica).suspend()
        meanwhile = [asyncio.create_task(pair.ask(f"meanwhile {number}")) for number in range(4)]
        assert (await ask(socket, "GET", "/health")).status == 200
        await kept.rest()
        assert kept.is_whole(900)
        await pair.told(f"it hangs: no progress for {HANG:g} s (a request for one token: no byte for ")
        await lost.rest()
        assert lost.code == "upstream_error"
        assert not alive(before)
        assert all(is_whole(answer, 8) for answer in await asyncio.gather(*meanwhile))
    await pair.until(lost.replica, lambda said: said.condition == "starting" and said.restarts == 1)


async def test_every_request_ended_once(pair: Pair) -> None:
    """Whatever happened to it: a line in the log, and a count of the same outcome."""
    await pair.quiet()
    lines = [line for line in pair.lines() if line["endpoint"] == PATH]
    assert len({line["request_id"] for line in lines}) == len(lines)
    for outcome in {line["outcome"] for line in lines}:
        count = await pair.seen("roundhouse_requests_total", f'endpoint="{PATH}"', f'outcome="{outcome}"')
        assert count == sum(line["outcome"] == outcome for line in lines)
    assert "Traceback" not in pair.service.log.read_text()


async def test_the_service_ends_in_the_middle_of_a_stream(pair: Pair) -> None:
    """One engine runs and one still starts: the stream finishes, and nothing is left."""
    async with pair.stream("the end", 400) as stream:
        await stream.take(5)
        pair.service.process.terminate()
        await stream.rest()
        assert stream.is_whole(400)
    assert await asyncio.to_thread(pair.service.process.wait, 60) == 0
    await asyncio.to_thread(wait_for, lambda: not descendants_of(pair.service.run_dir), 30, "every process gone")
