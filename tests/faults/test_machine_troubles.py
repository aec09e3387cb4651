"""What the machine does to a gateway: disks that are full, files that run out, clocks that jump, configuration."""

import ast
import asyncio
import errno
import json
import os
import random
import resource
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from service.engine import process_files, state
from service.fleet.reload import Reload
from service.gateway import app
from service.observability import log_writer
from service.observability.log_lines import Line, encoded, text_of
from service.observability.log_writer import LogWriter
from tests.conftest import Start
from tests.fake_engine import FakeEngine, Fault
from tests.observability.test_log_writer import fill
from tests.support import fleets
from tests.support.exchanges import CHAT
from tests.support.gateways import ONE
from tests.support.waiting import PATIENCE, until

HOUR = 3600.0
WRITE = LogWriter.write  # which gateways in tests are without


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# Disks


def test_a_log_that_cannot_be_written_fails_nothing() -> None:
    dropped: list[int] = []
    with Path("/dev/full").open("wb") as full_disk:
        writer = LogWriter(full_disk.fileno(), dropped.append)
        for _ in range(3):
            writer.write("{}")
        writer.close()
    assert sum(dropped) == 3


async def test_a_log_that_nobody_reads_delays_no_request_and_its_losses_are_counted(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "MAX_QUEUED_LINES", 20)
    gateway = await start(ONE)
    reader, descriptor = os.pipe()
    fill(descriptor)
    writer = LogWriter(descriptor, gateway.gateway.metrics.log_lines_dropped.inc, encoded)

    def write(line: Line) -> None:
        gateway.output.append(text_of(line))
        WRITE(writer, line)

    monkeypatch.setattr(gateway.gateway.log, "_write", write)
    try:
        for _ in range(60):
            assert (await gateway.http.post(CHAT.path, json=CHAT.body())).status_code == 200
        assert len(writer._queued) <= 20
        page = (await gateway.http.get("/metrics")).text
        (lost,) = [line for line in page.splitlines() if line.startswith("roundhouse_log_lines_dropped_total ")]
        assert float(lost.split()[1]) >= 60 - 20 - 20, "what waits, and what the stalled write has"
    finally:
        os.close(reader)  # upon which the writer's thread goes on
        assert writer._worker
        writer.close()
        os.close(descriptor)


async def test_notes_that_cannot_be_written_keep_no_request(start: Start) -> None:
    gateway = await start("models: [{model: pebble-chat, min_replicas: 0, scale_down_after: 3600}]")
    tries: list[int] = []

    def failing(*_: Any) -> None:
        tries.append(1)
        full()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process_files, "write", failing)
        gateway.engines[0].script(Fault(gap=3600))
        line = await gateway.connect()
        await line.post(CHAT.path, json.dumps(CHAT.body()).encode())
        await until(lambda: len(tries) > 1)  # it is tried again
        assert (await gateway.post(CHAT.path, CHAT.body())).status_code == 200
    await until(lambda: gateway.wanted() == [0])
    line.leave()


def test_a_state_that_cannot_be_written_leaves_the_old_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = state.EngineState("pebble-chat-0", "pebble-chat", 0, "ready")
    state.write(tmp_path, old)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        state.write(tmp_path, state.EngineState("pebble-chat-0", "pebble-chat", 0, "failed"))
    assert state.read(tmp_path, 0) == old


# File descriptors

PROGRAM = """
import asyncio, resource, socket, sys
import uvloop
from pathlib import Path
from service.gateway.app import Gateway
from service.gateway.lifespan import with_lifespan
from service.config.settings import Settings
from tests.support import fleets, gateways

async def main():
    folder, limit = Path(sys.argv[1]), int(sys.argv[2])
    gateway = Gateway(Settings(run_dir=folder), fleets.CATALOG, fleets.read(folder / "fleet.yaml"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with gateways.serving(with_lifespan(gateway), listener):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            print(listener.getsockname()[1], flush=True)
            await asyncio.Event().wait()

uvloop.run(main())
"""


@asynccontextmanager
async def elsewhere(folder: Path, limit: int) -> AsyncIterator[tuple[int, psutil.Process, Path]]:
    """A gateway in a process of its own that may open so many files: its port, and what it complains of."""
    errors = folder / "errors"
    with errors.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, str(folder), str(limit), cwd=fleets.ROOT, stderr=sink,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
    assert process.stdout
    try:
        async with asyncio.timeout(PATIENCE):
            port = int(await process.stdout.readline())
        draining = asyncio.create_task(process.stdout.read())
        yield port, psutil.Process(process.pid), errors
    finally:
        process.kill()
        await process.wait()
    await draining


async def test_a_gateway_without_file_descriptors_recovers(tmp_path: Path) -> None:
    limit = 48
    fleets.write(tmp_path, ONE)
    engine = FakeEngine("pebble-chat")
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 4 * limit
    async with engine.listen(state.socket_path(tmp_path, 0)):
        state.write(tmp_path, state.EngineState("pebble-chat-0", "pebble-chat", 0, "ready"))
        async with elsewhere(tmp_path, limit) as (port, process, errors):
            url = f"http://127.0.0.1:{port}{CHAT.path}"
            engine.always = Fault(gap=3600)
            body = json.dumps(CHAT.body(stream=True)).encode()
            head = (
                b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            )
            writers = []
            for _ in range(2 * limit):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(head % (CHAT.path.encode(), len(body)) + body)
                writers.append(writer)
            await until(lambda: process.num_fds() >= limit - 2, "the use of every descriptor")
            await until(lambda: engine.running > 0)
            for writer in writers:
                writer.transport.abort()
            await until(lambda: engine.running == 0, "the end of every request")
            engine.always = Fault()
            async with httpx.AsyncClient(trust_env=False, verify=False, timeout=PATIENCE) as client:
                for stream in (False, True):
                    assert (await client.post(url, json=CHAT.body(stream))).status_code == 200
            assert process.is_running()
        assert "Traceback" not in errors.read_text()


# Clocks


@pytest.mark.parametrize("jump", [HOUR, -HOUR, -50 * 365 * 24 * HOUR])
async def test_a_wall_clock_that_jumps_changes_no_duration_and_fills_no_budget(
    jump: float, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start("models: [{model: pebble-chat}]\ntenants: {acme: {requests_per_minute: 2}}")
    acme = {"x-roundhouse-tenant": "acme"}
    true = time.time
    gateway.engines[0].gap = 0.01
    statuses = []
    for number in range(5):
        monkeypatch.setattr(time, "time", lambda number=number: true() + jump * number)
        response = await gateway.http.post(CHAT.path, json=CHAT.body(stream=True), headers=acme)
        statuses.append(response.status_code)
    assert statuses == [200, 200, 429, 429, 429]
    await gateway.settle()
    for line in gateway.lines:
        assert 0 <= line["duration_s"] < 600
    assert 0 <= gateway.sample("roundhouse_request_duration_seconds_sum") < 600
    assert 0 <= gateway.sample("roundhouse_inter_token_latency_seconds_sum") < 600


async def test_a_gateway_that_stands_still_says_so(start: Start) -> None:
    gateway = await start(ONE)
    delay = "roundhouse_event_loop_lag_seconds"
    async with gateway.gateway.background_tasks():
        await until(lambda: gateway.sample(f"{delay}_count") >= 2)
        before = gateway.sample(f"{delay}_sum")
        # As long as it lasts, something is due within.
        time.sleep(2 * app.TICK)  # noqa: ASYNC251  to stand still is the test
        await until(lambda: gateway.sample(f"{delay}_sum") - before >= app.TICK)


# The wall clock is for people, and for days of budgets: what a file or a log line says of when something was.
DATES = {
    "service/cli/evaluating.py",
    "service/cli/keys.py",
    "service/cli/usage.py",
    "service/engine/evidence.py",
    "service/engine/status_writer.py",
    "service/gateway/app.py",
    "service/gateway/evidence.py",
    "service/gateway/usage.py",
    "service/observability/ledger.py",
    "service/observability/log.py",
    "service/observability/tracer.py",
    "service/relay/answer_headers.py",
    "service/relay/stored.py",
    "service/upstreams/remote.py",
}


def test_durations_come_from_a_clock_that_does_not_jump() -> None:
    found = set()
    for path in (fleets.ROOT / "service").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.time", "datetime.now", "time.time_ns"):
                found.add(str(path.relative_to(fleets.ROOT)))
    assert found == DATES


# A fleet file that changes again and again


@pytest.mark.parametrize("seed", range(3))
async def test_a_storm_of_good_and_bad_fleet_files_fails_no_request(
    seed: int, start: Start, tmp_path_factory: pytest.TempPathFactory
) -> None:
    gateway = await start(ONE)
    gateway.engines[0].gap = 0.002
    path = fleets.write(tmp_path_factory.mktemp("fleet"), ONE)
    chance = random.Random(seed)
    reports: list[list[str]] = []

    def reported(problems: list[str]) -> None:
        reports.append(problems)
        gateway.gateway.log_reload(problems)

    reload = Reload(path, fleets.read(path), lambda: fleets.read(path), gateway.gateway.apply, reported)
    good = [f"models: [{{model: pebble-chat, max_queued: {number}}}]" for number in (50, 60, 70)]
    bad = ["", "models: [", "models: [{model: nobody-knows}]", "models: [{model: pebble-chat, max_queued: x}]"]
    stop = asyncio.Event()

    async def ask() -> list[int]:
        statuses = []
        while not stop.is_set():
            statuses.append((await gateway.post(CHAT.path, CHAT.body(stream=chance.random() < 0.5))).status_code)
        return statuses

    clients = [asyncio.create_task(ask()) for _ in range(4)]
    expected = []
    for number in range(12):
        text = chance.choice(good if chance.random() < 0.5 else bad)
        path.write_text(text + "\n" * (number + 1))
        for _ in range(2):
            await reload.poll()
        expected.append(text in good)
        await asyncio.sleep(0.01)
    stop.set()
    assert {status for one in await asyncio.gather(*clients) for status in one} == {200}
    assert [not problems for problems in reports] == expected
    assert gateway.sample("roundhouse_config_last_reload_successful") == expected[-1]
    gateway.output[:] = [line for line in gateway.output if json.loads(line)["event"] == "request"]
