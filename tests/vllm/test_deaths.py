"""How engines end, and what their clients see: the fake engine must end as vLLM does."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import FakeEngine, Fault
from tests.support.waiting import accepts, until
from tests.vllm.conftest import MODEL, running
from tests.vllm.test_contract import BODIES
from tests.vllm.transcript import RawExchange, Transcript, ask

pytestmark = pytest.mark.engine

PATH = "/v1/completions"
SHORT = {"model": MODEL, "prompt": "one two", "max_tokens": 100, "temperature": 0, "ignore_eos": True}
ONE = SHORT | {"max_tokens": 1}
LONG = SHORT | {"max_tokens": 1000}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "one"}], "max_tokens": 4}
Act = Callable[[], Any]


async def without_template(socket: Path) -> list[Transcript]:
    """The responses of a model without a chat template to requests that need one."""
    paths = ("/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens")
    answers = [await ask(socket, "POST", path, CHAT | {"stream": False}) for path in paths]
    answers.append(await ask(socket, "POST", "/v1/chat/completions", CHAT | {"stream": True}))
    answers.append(await ask(socket, "POST", "/v1/responses", {"model": MODEL, "input": "one"}))
    return answers


async def refuses(socket: Path) -> bool:
    """Whether a new request is not taken any more."""
    return (await ask(socket, "POST", PATH, ONE)).status != 200


async def aborts(socket: Path) -> bool:
    """Whether a new request is answered at once, with nothing."""
    return "abort" in str((await ask(socket, "POST", PATH, ONE)).body)


async def drained_then_killed(socket: Path, drain: Act, kill: Act) -> list[Transcript]:
    """Two streams run; the engine starts to drain; one stream ends regularly; then the API server is killed."""
    short = await RawExchange.start(socket, "POST", PATH, SHORT | {"stream": True})
    long = await RawExchange.start(socket, "POST", PATH, LONG | {"stream": True})
    await short.wait(b"data: ", 3)
    await long.wait(b"data: ", 3)
    drain()
    await until(lambda: refuses(socket), "the beginning of the drain")
    during = [await ask(socket, "GET", "/health")]
    during += [await ask(socket, "POST", PATH, SHORT | {"stream": stream}) for stream in (False, True)]
    complete = await short.finish()
    kill()
    cut = await long.finish()
    await until(lambda: not accepts(socket), "the end of the API server")
    return [*during, complete, cut, await ask(socket, "GET", "/health")]


async def core_stopped_then_killed(socket: Path, stop: Act, kill: Act) -> list[Transcript]:
    """The engine core alone gets SIGTERM, and SIGKILL later, while two requests run."""
    streamed = await RawExchange.start(socket, "POST", PATH, LONG | {"stream": True})
    plain = await RawExchange.start(socket, "POST", PATH, LONG)
    await streamed.wait(b"data: ", 3)
    stop()
    await until(lambda: aborts(socket), "the end of the engine core's work")
    aborted = [
        await ask(socket, "POST", path, body | {"stream": stream})
        for path, body in BODIES.items()
        for stream in (False, True)
    ]
    kill()
    answers = [*aborted, await streamed.finish(), await plain.finish()]
    await until(lambda: not accepts(socket), "the end of the API server")
    return [*answers, await ask(socket, "GET", "/health")]


def same(fake: list[Transcript], real: list[Transcript]) -> None:
    """Compares pairs one by one, so that a failure shows the two that differ."""
    assert len(fake) == len(real)
    for one, other in zip(fake, real, strict=True):
        assert one == other


async def test_no_template_then_drain_then_kill(tmp_path: Path) -> None:
    """Three cases in one test, since every real engine takes half a minute to start."""
    fake = FakeEngine(MODEL, "base", gap=0.01)
    async with fake.listen(tmp_path / "fake.sock"):
        refused = await without_template(tmp_path / "fake.sock")
        ended = await drained_then_killed(tmp_path / "fake.sock", lambda: fake.die("drain"), lambda: fake.die("kill"))
    with running("pebble-base", tmp_path) as real:
        same(refused, await without_template(real.socket))
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
