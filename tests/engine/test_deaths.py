"""The ways in which an engine ends, and what its clients see: the same from the fake as from the real one."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from service.engine import demand, state
from service.engine.state import Condition, EngineState
from service.engine.supervisor import Supervisor
from service.settings import Settings
from tests import fleets
from tests.engine.conftest import MODEL, START_LIMIT, running
from tests.engine.test_contract import BODIES
from tests.engine.transcript import Talk, Transcript, ask
from tests.fake_engine import FakeEngine, Fault

pytestmark = pytest.mark.engine

PATH = "/v1/completions"
SHORT = {"model": MODEL, "prompt": "one two", "max_tokens": 100, "temperature": 0, "ignore_eos": True}
LONG = SHORT | {"max_tokens": 1000}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "one"}], "max_tokens": 4}
Act = Callable[[], Any]


async def templates(socket: Path) -> list[Transcript]:
    """What a model without a chat template answers where it needs one."""
    paths = ("/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens")
    answers = [await ask(socket, "POST", path, CHAT | {"stream": False}) for path in paths]
    answers.append(await ask(socket, "POST", "/v1/chat/completions", CHAT | {"stream": True}))
    answers.append(await ask(socket, "POST", "/v1/responses", {"model": MODEL, "input": "one"}))
    return answers


async def drained_then_killed(socket: Path, drain: Act, kill: Act) -> list[Transcript]:
    """Two streams run; the engine is asked to drain; one ends by itself; then the process is killed."""
    short = await Talk.start(socket, "POST", PATH, SHORT | {"stream": True})
    long = await Talk.start(socket, "POST", PATH, LONG | {"stream": True})
    await short.wait(b"data: ", 3)
    await long.wait(b"data: ", 3)
    drain()
    await asyncio.sleep(0.3)
    during = [await ask(socket, "GET", "/health")]
    during += [await ask(socket, "POST", PATH, SHORT | {"stream": stream}) for stream in (False, True)]
    ended = await short.finish()
    kill()
    cut = await long.finish()
    await asyncio.sleep(1)
    return [*during, ended, cut, await ask(socket, "GET", "/health")]


async def core_stopped_then_killed(socket: Path, stop: Act, kill: Act) -> list[Transcript]:
    """The engine core, but not the API server, is asked to stop; later it is killed while it answers two requests."""
    stream = await Talk.start(socket, "POST", PATH, LONG | {"stream": True})
    whole = await Talk.start(socket, "POST", PATH, LONG)
    await stream.wait(b"data: ", 3)
    stop()
    await asyncio.sleep(0.3)
    aborted = [
        await ask(socket, "POST", path, body | {"stream": stream})
        for path, body in BODIES.items()
        for stream in (False, True)
    ]
    kill()
    answers = [*aborted, await stream.finish(), await whole.finish()]
    await asyncio.sleep(1)
    return [*answers, await ask(socket, "GET", "/health")]


def same(fake: list[Transcript], real: list[Transcript]) -> None:
    """Compares one by one, so that a failure shows the two that differ."""
    assert len(fake) == len(real)
    for mine, theirs in zip(fake, real, strict=True):
        assert mine == theirs


async def test_no_template_then_drain_then_kill(tmp_path: Path) -> None:
    """Three matters, since every real engine takes half a minute to start."""
    fake = FakeEngine(MODEL, "base", gap=0.01)
    async with fake.listen(tmp_path / "fake.sock"):
        refused = await templates(tmp_path / "fake.sock")
        ended = await drained_then_killed(tmp_path / "fake.sock", lambda: fake.die("drain"), lambda: fake.die("kill"))
    with running("pebble-base", tmp_path) as real:
        same(refused, await templates(real.socket))
        actual = await drained_then_killed(
            real.socket,
            lambda: os.kill(real.pid, signal.SIGTERM),
            lambda: os.kill(real.pid, signal.SIGKILL),
        )
    same(ended, actual)


async def test_core_stopped_then_killed(tmp_path: Path) -> None:
    fake = FakeEngine(MODEL, gap=0.01)

    def stop() -> None:
        fake.always = Fault(finish="abort")

    async with fake.listen(tmp_path / "fake.sock"):
        ended = await core_stopped_then_killed(tmp_path / "fake.sock", stop, lambda: fake.die("core"))
    with running(MODEL, tmp_path) as real:
        core = real.core()
        actual = await core_stopped_then_killed(
            real.socket, lambda: os.kill(core, signal.SIGTERM), lambda: os.kill(core, signal.SIGKILL)
        )
    same(ended, actual)


@dataclass
class Kept:
    """An engine that a supervisor keeps in `folder`, and every state it went through."""

    folder: Path
    seen: list[EngineState] = field(default_factory=list)

    async def until(self, condition: Condition) -> EngineState:
        """Waits for the state file to say so, which it did not at the last call."""
        async with asyncio.timeout(START_LIMIT):
            while True:
                found = state.read(self.folder, 0)
                if found and found not in self.seen:
                    self.seen.append(found)
                    if found.condition == condition:
                        return found
                await asyncio.sleep(0.02)

    def want(self, *orders: int) -> None:
        demand.write(self.folder, os.getpid(), orders)

    def processes(self) -> list[psutil.Process]:
        """The API server and all that it started."""
        server = psutil.Process(self.seen[-1].pid)
        return [server, *server.children(recursive=True)]


@asynccontextmanager
async def kept(folder: Path, **settings: Any) -> AsyncIterator[Kept]:
    """A real engine on demand, kept by a supervisor."""
    env = {"VLLM_CPU_KVCACHE_SPACE": 1, "TORCHDYNAMO_DISABLE": 1, "OMP_NUM_THREADS": 1}
    engine = {"enforce_eager": True, "max_model_len": 1024, "max_num_seqs": 8}
    text = json.dumps({"models": [{"model": MODEL, "min": 0}], "engine": engine, "env": env})
    run_dir = folder / "run"
    run_dir.mkdir()
    fleet = fleets.load(folder, text)
    supervisor = Supervisor(fleet[MODEL], 0, 0, fleet, Settings(run_dir=run_dir, **settings), print)
    supervisor.start()
    try:
        yield Kept(run_dir)
    finally:
        await supervisor.stop()


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


async def test_a_core_that_stands_still_and_an_engine_that_sleeps(tmp_path: Path) -> None:
    """It is healthy by its own account, found out by its progress, killed, started again; it sleeps and wakes."""
    async with kept(tmp_path, hang_timeout=6.0) as engine:
        await engine.until("asleep")
        engine.want(0)
        await engine.until("ready")
        socket = state.socket_path(engine.folder, 0)
        talk = await Talk.start(socket, "POST", PATH, LONG | {"stream": True})
        await talk.wait(b"data: ", 3)
        before = engine.processes()
        (core,) = (one for one in before if "EngineCore" in " ".join(one.cmdline()))
        core.suspend()
        health = await ask(socket, "GET", "/health")
        assert health.status == 200
        failed = await engine.until("failed")
        assert failed.reason
        assert failed.reason.startswith("it hangs: no progress for 6 s (a request for one token: no byte for ")
        assert failed.reason.endswith("its metrics stand still)")
        assert not alive(before)
        await talk.finish()
        assert (await engine.until("ready")).restarts == 1
        answer = await ask(socket, "POST", PATH, SHORT)
        assert answer.status == 200
        before = engine.processes()
        assert len(before) > 1
        running = await Talk.start(socket, "POST", PATH, SHORT | {"stream": True})
        await running.wait(b"data: ", 3)
        engine.want()
        await engine.until("asleep")
        assert not alive(before)
        finished = await running.finish()
        assert finished.whole
        assert "length" in str(finished.body), "it finished what it ran"
        engine.want(0)
        assert (await engine.until("ready")).restarts == 1
        engine.want()
        await engine.until("asleep")
