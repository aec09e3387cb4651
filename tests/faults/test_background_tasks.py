"""Every task that must always run is killed in turn, and comes back; none of them runs without an owner."""

import asyncio
import importlib
import os
import signal
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from service.catalog import catalog
from service.config.paths import ROOT
from service.config.settings import Settings
from service.engine import state
from service.engine.state import EngineState
from service.fleet import fleet
from service.gateway import app, process
from service.observability import background
from tests.engine.test_supervisor import StartFleet, start_fleet
from tests.support.background import KilledError, awaited, kill, names, running
from tests.support.waiting import until

__all__ = ["start_fleet"]

# The tasks of a gateway process: what they are called in the metric, and the coroutine function that each runs.
GATEWAY = [
    ("upstreams", "Upstreams.watch"),
    ("replica", "Upstreams._check"),
    ("discovery", "Upstreams._find_replicas"),
    ("housekeeping", "Gateway._housekeeping"),
    ("reload", "FileWatch.watch"),
    ("progress", "GatewayProcess._print_readiness"),
]
FLEET = """
models:
  - model: pebble-chat
  - {model: pebble-base, addresses: [/tmp/no-such.sock, "name.invalid:80"]}
"""
PAUSES = ("sleep", "Event.wait")


@pytest.fixture
async def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_once: None) -> AsyncIterator[app.Gateway]:
    """The gateway as BentoML runs it, with all of its tasks."""
    monkeypatch.setattr(background, "BACKOFF", (0.0,))
    monkeypatch.setenv("ROUNDHOUSE_RUN_DIR", str(tmp_path))
    module: ModuleType = importlib.import_module("service.gateway.service")
    made: list[app.Gateway] = []
    make = app.Gateway

    def noted(*arguments: Any) -> app.Gateway:
        made.append(make(*arguments))
        return made[-1]

    monkeypatch.setattr(app, "Gateway", noted)
    monkeypatch.setattr(process, "tune_gc", lambda: None)
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET)
    state.write(tmp_path, EngineState("pebble-chat-0", "pebble-chat", 0, "starting"))
    models = catalog.load(ROOT / "models")
    service = module.build_service(Settings(run_dir=tmp_path, fleet=path), models, fleet.load(path, models))
    service.inject_config()
    bento = service.to_asgi()
    async with bento.router.lifespan_context(bento):
        yield made[0]


async def waiting(function: str, at: Collection[str] = ()) -> "asyncio.Task[Any]":
    """A task that runs this function, at a moment when it waits, in one of the functions `at` if there are some."""

    def found() -> list["asyncio.Task[Any]"]:
        return [task for task in running(function) if awaited(task) and (not at or names(task)[-1] in at)]

    await until(lambda: bool(found()), f"{function} to wait")
    return found()[0]


async def pausing(function: str) -> "asyncio.Task[Any]":
    """The same, at a moment when it waits for time to pass."""
    return await waiting(function, PAUSES)


def failures(gateway: app.Gateway, task: str) -> float:
    return gateway.metrics.registry.get_sample_value("roundhouse_background_task_failures_total", {"task": task}) or 0


@pytest.mark.parametrize(("task", "function"), GATEWAY)
async def test_a_task_of_the_gateway_comes_back(
    task: str, function: str, gateway: app.Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    kill(await pausing(function))
    await until(lambda: failures(gateway, task) == 1)
    await pausing(function)
    assert [record.getMessage().split(" ")[2] for record in caplog.records if record.exc_info] == [task]
    for other, _ in GATEWAY:
        assert failures(gateway, other) == (other == task)
    caplog.clear()


async def test_every_task_of_the_gateway_has_an_owner(gateway: app.Gateway) -> None:
    for _, function in GATEWAY:
        await pausing(function)
    await until(lambda: not running("Gateway.start_checking"), "the first process that checks")
    functions = {function for _, function in GATEWAY}
    tasks = [names(task) for task in asyncio.all_tasks() - {asyncio.current_task()}]
    assert [task for task in tasks if "keep_running" not in task] == []
    assert [task for task in tasks if not functions & set(task)] == [], "a new task belongs into the table above"


@pytest.mark.parametrize("function", ["Supervisor._supervise", "Supervisor._monitor"])
async def test_a_supervisor_that_fails_ends_its_engine_and_starts_it_again(
    function: str, start_fleet: StartFleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "BACKOFF", (0.3,))
    started = start_fleet()
    first = await started.until("ready")
    kill(await waiting(function, PAUSES if function == "Supervisor._monitor" else ()))
    await until(lambda: started.state().reason == "its supervisor failed: KilledError: killed by a test")
    assert first.pid
    assert not psutil.pid_exists(first.pid), "an engine that nobody watches does not run on"
    again = await started.until("ready")
    assert (again.restarts, again.pid == first.pid) == (1, False)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [KilledError]
    caplog.clear()


@pytest.mark.parametrize("killed", ["keeper", "engine"])
async def test_an_engine_comes_back_when_its_processes_are_killed(killed: str, start_fleet: StartFleet) -> None:
    started = start_fleet()
    first = await started.until("ready")
    assert first.pid
    os.kill(os.getsid(first.pid) if killed == "keeper" else first.pid, signal.SIGKILL)

    def restarted() -> bool:
        now = started.state()
        # Whatever was said before, no engine that is gone is ready.
        assert now.condition != "ready" or (now.pid and psutil.pid_exists(now.pid))
        return now.condition == "ready" and now.restarts == 1

    await until(restarted)


async def test_the_log_of_an_engine_is_read_on(start_fleet: StartFleet, caplog: pytest.LogCaptureFixture) -> None:
    started = start_fleet()
    first = await started.until("ready")
    kill(await waiting("EngineProcess._read_log"))
    await until(lambda: bool(caplog.records))
    assert first.pid
    os.kill(first.pid, signal.SIGUSR1)
    await until(lambda: "frozen" in started.log())
    caplog.clear()
