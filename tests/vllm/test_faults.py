"""What clients of the whole service see when real engines die, hang, stop, are overloaded or cannot start.

All tests share one service and run in this order; each first waits until the engines have recovered as far as it needs.
"""

import asyncio
import itertools
import json
import random
import shutil
import signal
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import httpx
import psutil
import pytest

from service.engine import bundles
from tests.support.services import ROOT, Service, descendants_of, serving, wait_for
from tests.vllm.conftest import MODEL
from tests.vllm.pair import (
    BOTH,
    PATH,
    STREAM,
    TIMEOUT,
    Pair,
    Stream,
    completion,
    fleet,
    is_complete,
    metric_sum,
    until,
)
from tests.vllm.transcript import ask

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

HANG_TIMEOUT = 10.0  # seconds
ON_DEMAND, BROKEN = "pebble-base", "pebble-instruct"
ON_DEMAND_ORDER, BROKEN_ORDER = 2, 3  # the startup order of their engines


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The pair, and two models on demand: one that can start, and one whose weights are truncated."""
    folder = tmp_path_factory.mktemp("faults")
    shutil.copytree(ROOT / "models/pebble" / BROKEN, folder / "broken")
    weights = folder / "broken/model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    others: dict[str, dict[str, Any]] = {
        ON_DEMAND: {"min_replicas": 0, "scale_down_after": 1},
        BROKEN: {
            "min_replicas": 0,
            "scale_down_after": 1,
            "weights": str(folder / "broken"),
            "timeouts": {"activation": 1},
        },
    }
    with serving(fleet(folder, **others), folder / "run", hang_timeout=HANG_TIMEOUT, drain_timeout=60) as started:
        yield started


@pytest.fixture
async def pair(service: Service) -> AsyncIterator[Pair]:
    # The gateway closes a connection that is idle for 5 s; on a busy machine a client would reuse it at that moment.
    limits = httpx.Limits(max_connections=None, keepalive_expiry=2.0)
    # Otherwise httpx reads the system's certificates for each test.
    options: dict[str, Any] = {"trust_env": False, "verify": False}
    async with httpx.AsyncClient(base_url=service.url, timeout=TIMEOUT, limits=limits, **options) as http:
        yield Pair(service, http)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


async def by_engine(first: Stream, second: Stream) -> tuple[Stream, Stream]:
    """Two running streams of both engines, in the order of the engines."""
    for stream in (first, second):
        await stream.read_events(5)
    assert {first.replica, second.replica} == set(BOTH)
    return (first, second) if first.replica == 0 else (second, first)


# Crashes


async def test_an_api_server_is_killed(pair: Pair) -> None:
    """Its stream ends with an error, the other engine's does not, and later requests succeed."""
    await pair.until_healthy()
    async with pair.stream("kill, one") as one, pair.stream("kill, two") as two:
        lost, kept = await by_engine(one, two)
        before = pair.processes(lost.replica)
        before[0].send_signal(signal.SIGKILL)
        later = await asyncio.gather(*(pair.ask(f"next {number}") for number in range(6)))
        assert all(is_complete(answer, 8) for answer in later)
        await lost.read_to_end()
        assert lost.error_code == "upstream_error"
        await kept.read_to_end()
        assert kept.is_complete(STREAM)
    await pair.until_printed(f"{MODEL}-{lost.replica}  failed, starts again in 1 s, the engine was killed by signal 9")
    assert not alive(before)


async def test_a_request_activates_a_model_that_then_scales_to_zero(pair: Pair) -> None:
    """Meanwhile the engine that was killed restarts."""
    async with pair.stream("activate", 100, ON_DEMAND, sse_heartbeat_interval="1") as stream:
        await stream.read_events(1)
        processes = pair.processes(ON_DEMAND_ORDER)
        await stream.read_to_end()
    assert stream.comments[0].startswith(f": waiting for {ON_DEMAND}: ")
    assert stream.is_complete(100)
    assert len(alive(processes)) > 1
    await pair.until_state(ON_DEMAND_ORDER, lambda state: state.condition == "scaled_to_zero")
    assert not alive(processes)


async def test_an_engine_core_is_stopped_and_then_killed(pair: Pair) -> None:
    """The API server goes on. While the core stops it ends requests with status 200 and finish_reason `abort`.

    After the core's death it ends them with an error event and [DONE]. The gateway treats both as failures.
    """
    await pair.until_healthy()
    async with pair.stream("stop, one", 1000) as one, pair.stream("stop, two", 1000) as two:
        lost, kept = await by_engine(one, two)
        socket, core = pair.service.socket_of(lost.replica), pair.core(lost.replica)
        core.terminate()
        aborted = await ask(socket, "POST", PATH, completion("not through the gateway", 8))
        assert (aborted.status, aborted.body["choices"][0]["finish_reason"]) == (200, "abort")
        before = len(pair.request_logs())
        for number in range(4):
            assert is_complete(await pair.ask(f"whole {number}"), 8)
            async with pair.stream(f"stream {number}", 8) as answer:
                await answer.read_to_end()
                assert answer.is_complete(8)
        assert max(line["attempts"] for line in pair.request_logs()[before:]) == 2, "at least one was retried"
        with suppress(psutil.NoSuchProcess):  # it may have ended by itself by now
            core.kill()
        await lost.read_to_end()
        assert lost.error_code == "upstream_error"
        assert all([is_complete(await pair.ask(f"dead {number}"), 8) for number in range(8)])
        await kept.read_to_end()
        assert kept.is_complete(1000)
    await pair.until_printed("the engine ended with exit status 0: EngineDeadError")


# While that engine restarts


async def test_truncated_weights(pair: Pair) -> None:
    """The reason is reported, the engine is not started again without demand, and the other models serve."""
    answer = await pair.http.post(PATH, json=completion("x", 8) | {"model": BROKEN})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_loading")
    assert int(answer.headers["retry-after"]) >= 1
    failed = asyncio.create_task(pair.until_printed(f"{BROKEN}-0  failed, starts again in 1 s, "))
    while not failed.done():
        assert is_complete(await pair.ask("meanwhile"), 8)
        await asyncio.sleep(0.5)
    await failed
    await pair.until_printed("SafetensorError: Error while deserializing header")
    assert (await pair.until_state(BROKEN_ORDER, lambda state: state.condition == "scaled_to_zero")).restarts == 1


# Clients that disconnect


async def test_clients_that_disconnect_free_the_engine(pair: Pair) -> None:
    made = await pair.until_idle()
    async with pair.stream("disconnect", 900) as stream:
        await stream.read_events(5)
    response = asyncio.create_task(pair.ask("disconnect", 900))
    await until(partial(pair.metric, "roundhouse_requests_in_flight"), 1.0)
    response.cancel()
    assert await pair.until_idle() < made + 2 * 900


async def test_clients_that_disconnect_leave_the_queue(pair: Pair) -> None:
    """However high the limits are by now: clients come until more than ten are queued."""
    await pair.until_idle()
    requests: list[asyncio.Task[httpx.Response]] = []
    before = await pair.metric("roundhouse_requests_arrived_total")

    async def more_are_queued() -> bool:
        return await pair.metric("roundhouse_requests_queued") > 10

    async def all_have_come() -> bool:
        """Or so many that one may have been refused, which does not count."""
        arrived = await pair.metric("roundhouse_requests_arrived_total") - before
        return arrived == len(requests) or await more_are_queued()

    while not await more_are_queued():
        sent = range(len(requests), len(requests) + 30)
        requests += [asyncio.create_task(pair.ask(f"queue {number}", 900)) for number in sent]
        await until(all_have_come, True)
    for request in requests:
        request.cancel()
    await pair.until_idle()
    assert is_complete(await pair.ask("after"), 8)


async def test_a_hundred_clients_disconnect_at_any_time(pair: Pair) -> None:
    """While queued, before the first byte, in the middle, or after the end; streamed or not."""
    await pair.until_idle()
    before, rng = len(pair.request_logs()), random.Random(4)

    async def client(number: int, limit: float, streamed: bool) -> None:
        try:
            async with asyncio.timeout(limit):
                if not streamed:
                    await pair.ask(f"client {number}", 200)
                    return
                async with pair.stream(f"client {number}", 200) as stream:
                    await stream.read_to_end()
        except TimeoutError:
            return

    await asyncio.gather(*(client(number, rng.uniform(0.05, 5.0), number % 2 > 0) for number in range(100)))
    await pair.until_idle()
    outcomes = {line["outcome"] for line in pair.request_logs()[before:]}
    assert "cancelled" in outcomes
    assert outcomes <= {"cancelled", "complete"}


async def test_a_deadline_frees_the_engine(pair: Pair) -> None:
    made = await pair.until_idle()
    response = await pair.ask("not streamed", 1000, timeout="0.5")
    assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
    async with pair.stream("streamed", 1000, timeout="1") as stream:
        await stream.read_to_end()
    assert stream.error_code == "timeout"
    assert await pair.until_idle() < made + 2 * 1000


# Overload


async def test_requests_for_ten_times_the_engines_capacity(pair: Pair) -> None:
    """The queue is in the gateway, the engines are kept busy, and every request is answered.

    The limits may still be high: they grow where requests leave before an engine has read them. So each client asks
    again until the limits have fallen.
    """
    await pair.until_healthy()
    seen = asyncio.Event()

    async def client(number: int) -> None:
        for count in itertools.count():
            assert is_complete(await pair.ask(f"overload {number}, {count}", 40), 40)
            if seen.is_set():
                return

    async with asyncio.TaskGroup() as clients:
        for number in range(80):
            clients.create_task(client(number))
        queued, running, waiting = 0.0, deque[float](maxlen=20), deque[float](maxlen=20)
        while queued < 60 or len(running) < 20 or mean(running) <= 3 or mean(waiting) >= 3:
            queued = await pair.metric("roundhouse_requests_queued")
            pages = [await pair.engine_metrics(number) for number in BOTH]
            running += [metric_sum(page, "vllm:num_requests_running") for page in pages]
            waiting += [metric_sum(page, "vllm:num_requests_waiting") for page in pages]
        seen.set()
    await pair.until_idle()


async def test_prefix_affinity_raises_the_cache_hit_rate(pair: Pair) -> None:
    """The same conversations under both policies, switched by reloading the fleet file."""
    await pair.until_healthy()
    _, round_robin = await converse(pair, "round_robin")
    file = pair.service.run_dir.parent / "fleet.yaml"
    file.write_text(file.read_text().replace("round_robin", "prefix_affinity"))
    await pair.until_printed('"outcome": "in use"')
    engines, prefix_affinity = await converse(pair, "prefix_affinity")
    file.write_text(file.read_text().replace("prefix_affinity", "round_robin"))
    await pair.until_printed('"outcome": "in use"', times=2)
    assert all(len(replicas) == 1 for replicas in engines)
    assert set.union(*engines) == {f"{MODEL}-{number}" for number in BOTH}
    assert prefix_affinity > round_robin


async def converse(pair: Pair, name: str) -> tuple[list[set[str]], float]:
    """Seven conversations of four turns: the replicas that answered each, and the cached fraction of prompt tokens."""
    conversations: list[list[dict[str, str]]] = [[] for _ in range(7)]
    engines: list[set[str]] = [set() for _ in conversations]
    prompts = cached = 0
    for turn in range(4):
        for number, messages in enumerate(conversations):
            text = f"{name} {number}, {turn}: " + "all of it is said once more, " * 5
            messages.append({"role": "user", "content": text})
            fields = {"model": MODEL, "messages": messages, "max_tokens": 8, "temperature": 0}
            answer = await pair.http.post("/v1/chat/completions", json=fields)
            assert answer.status_code == 200, answer.text
            usage, content = answer.json()["usage"], answer.json()["choices"][0]["message"]["content"]
            messages.append({"role": "assistant", "content": content})
            engines[number].add(answer.headers["x-roundhouse-replica"])
            prompts += usage["prompt_tokens"]
            cached += usage["prompt_tokens_details"]["cached_tokens"]
    return engines, cached / prompts


# Restarts


async def test_a_restart_under_load(pair: Pair) -> None:
    """The BentoML worker of an engine gets SIGTERM and is respawned; no request fails.

    `tests/end_to_end/test_lifecycle.py` restarts one engine after the other, with stand-ins.
    """
    await pair.until_healthy()
    stopped = asyncio.Event()

    async def client(number: int) -> int:
        """Sends requests until stopped, every other one streamed; returns how many were answered."""
        count = 0
        while not stopped.is_set():
            count += 1
            prompt = f"client {number}, {count}"
            if count % 2:
                assert is_complete(await pair.ask(prompt, 40), 40)
            else:
                async with pair.stream(prompt, 40) as stream:
                    await stream.read_to_end()
                    assert stream.is_complete(40), stream.events[-1]
            await asyncio.sleep(1.0)
        return count

    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(client(number)) for number in range(3)]
        before, worker = pair.engine_state(1).pid, worker_of(pair.service, 1)
        worker.terminate()
        await pair.until_state(1, lambda state: state.condition == "stopping")
        await pair.until_state(1, lambda state: state.condition == "stopped")
        after = await pair.until_state(1, lambda state: state.condition == "ready")
        assert after.pid != before
        await until(pair.ready_engines, list(BOTH))
        stopped.set()
    assert all(client.result() for client in clients)


def worker_of(service: Service, number: int) -> psutil.Process:
    """The BentoML worker of an engine service."""
    name = f"engine-{MODEL}-{number}"
    found = psutil.Process(service.process.pid).children(recursive=True)
    return next(process for process in found if name in process.cmdline())


# Hang and shutdown


def check_evidence_of_a_hang(folder: Path, replica: str, core: int) -> None:
    """A bundle with the stacks of the core, which was stopped, in vLLM's own code; and nothing of what was said."""
    found = [
        one for one in bundles.read(folder) if one.summary["replica"] == replica and one.summary["cause"] == "hang"
    ]
    about, kept = found[-1].summary, {file.name: file.read_text() for file in found[-1].path.iterdir()}
    assert {one["pid"]: one["state"] for one in about["processes"]}[core] == "stopped"
    assert about["main_thread"]["pid"] == core
    assert about["main_thread"]["frames"]
    assert "vllm/v1/engine/core.py" in kept["stacks.txt"]
    assert [one for one in json.loads(kept["requests.json"]) if one], "the shapes of what ran there"
    assert not [name for name, text in kept.items() if "freeze, " in text or "meanwhile " in text]


async def test_an_engine_core_hangs(pair: Pair) -> None:
    """`/health` answers 200 all the while; the watchdog detects it and has the engine restarted."""
    await pair.until_healthy()
    async with pair.stream("freeze, one") as one, pair.stream("freeze, two") as two:
        lost, kept = await by_engine(one, two)
        before, socket = pair.processes(lost.replica), pair.service.socket_of(lost.replica)
        restarts = pair.engine_state(lost.replica).restarts
        core = pair.core(lost.replica).pid
        psutil.Process(core).suspend()
        meanwhile = [asyncio.create_task(pair.ask(f"meanwhile {number}")) for number in range(4)]
        assert (await ask(socket, "GET", "/health")).status == 200
        await kept.read_to_end()
        assert kept.is_complete(STREAM)
        await pair.until_printed(f"it hangs: no progress for {HANG_TIMEOUT:g} s (probe request: no byte for ")
        await lost.read_to_end()
        assert lost.error_code == "upstream_error"
        assert not alive(before)
        assert all(is_complete(answer, 8) for answer in await asyncio.gather(*meanwhile))
    await pair.until_state(lost.replica, lambda state: state.condition == "starting" and state.restarts == restarts + 1)
    check_evidence_of_a_hang(pair.service.run_dir / bundles.FOLDER, f"{MODEL}-{lost.replica}", core)


async def test_every_request_is_logged_and_counted_once(pair: Pair) -> None:
    """The log lines and the metrics agree on the outcomes."""
    await pair.until_idle()
    lines = [line for line in pair.request_logs() if line["endpoint"] == PATH]
    assert len({line["request_id"] for line in lines}) == len(lines)
    for outcome in {line["outcome"] for line in lines}:
        count = await pair.metric("roundhouse_requests_total", f'endpoint="{PATH}"', f'outcome="{outcome}"')
        assert count == sum(line["outcome"] == outcome for line in lines)
    printed = (line for line in pair.service.log.read_text().splitlines() if '"event": "engine"' not in line)
    assert "Traceback" not in "\n".join(printed)


async def test_a_shutdown_in_the_middle_of_a_stream(pair: Pair) -> None:
    """While one engine still starts: the stream finishes, the service exits with 0, and no process is left."""
    async with pair.stream("the end", 400) as stream:
        await stream.read_events(5)
        pair.service.process.terminate()
        await stream.read_to_end()
        assert stream.is_complete(400)
    assert await asyncio.to_thread(pair.service.process.wait, 60) == 0
    await asyncio.to_thread(wait_for, lambda: not descendants_of(pair.service.run_dir), 30, "every process gone")
