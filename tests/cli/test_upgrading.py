"""`roundhouse upgrade` against a running gateway that reads its fleet file, under load: who passes, who is refused."""

import asyncio
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from service.cli.__main__ import main
from service.config import file_watch
from service.fleet.reload import Reload
from service.upgrade import progress, rollout
from service.upgrade.comparison import Timing
from service.upgrade.progress import Progress
from service.upgrade.service import Json, Service
from service.upgrade.weights_file import WeightsFile
from tests.conftest import Start
from tests.fake_engine import Call, Fault, Script
from tests.support import fleets
from tests.support.exchanges import CHAT
from tests.support.gateways import RunningGateway
from tests.support.waiting import until

OLD, NEW = "pebble-chat", "pebble-instruct"
FLEET = f"""\
models:
  - {{model: {OLD}, aliases: [support], weight: 100}}
  - {{model: {NEW}, aliases: [support], weight: 0, fallback: [{OLD}]}}
"""
TUNED = """\
models:
  - model: pebble-instruct
    adapters:
      - {id: tone-v1, path: ./tone-v1, aliases: [support], weight: 100}
      - {id: tone-v2, path: ./tone-v2, aliases: [support], weight: 0, fallback: [tone-v1]}
"""
# Whatever the machine does meanwhile, no model is too slow.
FAST = ("--steps", "50,100", "--watch", "1", "--least", "5", "--slower", "1e9")
GOLDEN = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}


class Tool:
    """The command on a gateway that reads its fleet file, with requests that keep coming."""

    def __init__(self, gateway: RunningGateway, path: Path) -> None:
        self.gateway, self.path = gateway, path
        self.statuses: Counter[int] = Counter()
        self.models: Counter[str] = Counter()

    async def begin(self, *words: str) -> asyncio.subprocess.Process:
        """The command in a process of its own."""
        url = f"http://127.0.0.1:{self.gateway.port}"
        command = ["-m", "service.cli", "upgrade", "--fleet", str(self.path), "--url", url, *words]
        return await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "COLUMNS": "200"},
        )  # fmt: skip

    async def run(self, *words: str) -> tuple[int, str]:
        """The command in a thread, which takes less time: its exit status, and what it says."""
        url = f"http://127.0.0.1:{self.gateway.port}"
        command = ["upgrade", "--fleet", str(self.path), "--url", url, *words]
        result = await asyncio.to_thread(CliRunner().invoke, main, command)
        return result.exit_code, result.output

    def short(self, prompt: object = GOLDEN) -> list[str]:
        """Options for a gate that is passed soon, with this golden prompt alone."""
        path = self.path.with_name("short.jsonl")
        path.write_text(json.dumps(prompt) + "\n")
        return [*FAST, "--golden", str(path)]

    @property
    def weights(self) -> list[int]:
        return [int(weight) for weight in re.findall(r"weight: (\d+)", self.path.read_text())]

    async def load(self) -> None:
        """Sends conversations by the alias until cancelled, streamed and whole, each another one."""
        number = 0
        while True:
            number += 1
            text = f"This is conversation number {number} of those that keep coming."
            body = CHAT.body(number % 2 == 0) | {"model": "support", "messages": [{"role": "user", "content": text}]}
            answer = await self.gateway.http.post(CHAT.path, json=body)
            whole = number % 2 or answer.text.rstrip().endswith("[DONE]")
            self.statuses[answer.status_code if whole else 0] += 1
            self.models[answer.headers.get("x-roundhouse-model", "")] += 1
            await asyncio.sleep(0.02)


@asynccontextmanager
async def tool(gateway: RunningGateway) -> AsyncIterator[Tool]:
    path = gateway.run_dir.parent / "fleet.yaml"
    reload = Reload(path, fleets.read(path), partial(fleets.read, path), gateway.gateway.apply, lambda _: None)
    one = Tool(gateway, path)
    tasks = [asyncio.create_task(reload.watch()), *(asyncio.create_task(one.load()) for _ in range(2))]
    try:
        yield one
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@pytest.fixture(autouse=True)
def soon_or_late(monkeypatch: pytest.MonkeyPatch, read_once: None) -> None:
    """The fleet file is read again soon, and a step waits for its requests however late they come."""
    monkeypatch.setattr(file_watch, "POLL_INTERVAL", 0.02)
    monkeypatch.setattr(rollout, "EXTENSIONS", 600)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
async def upgrade(start: Start, request: pytest.FixtureRequest) -> AsyncIterator[Tool]:
    """The command on a gateway of this fleet, or of the one that a test is given."""
    gateway = await start(getattr(request, "param", FLEET))
    gateway.expected_unseen = None
    for engine in gateway.engines:
        engine.gap = 0.001
    async with tool(gateway) as one:
        yield one


@pytest.mark.slow
async def test_a_model_that_answers_alike_gets_all_of_the_traffic_in_steps(upgrade: Tool) -> None:
    log = upgrade.path.with_name("log")
    await until(lambda: upgrade.statuses[200] >= 5, "some requests in the log")
    log.write_text("\n".join(upgrade.gateway.output))
    code, output = await upgrade.run(OLD, NEW, *FAST, "--log", str(log), "--sample", "3")
    assert code == 0, output
    assert upgrade.weights == [0, 100]
    for step in (
        "3 requests with shapes of live ones",
        "50 %: in use",
        "100 %: in use",
        f"done: '{NEW}' has the traffic of '{OLD}'",
    ):
        assert step in output
    assert progress.read(upgrade.path) is None
    assert set(upgrade.statuses) == {200}, "no request is lost"
    row = (await upgrade.gateway.http.get(f"/v1/models/{NEW}")).json()
    assert row["weight"] == 100
    steps = [line["weights"] for line in map(json.loads, upgrade.gateway.output) if line["event"] == "weights"]
    assert steps == [{OLD: 50, NEW: 50}, {OLD: 0, NEW: 100}]


@pytest.mark.parametrize("upgrade", [TUNED], indirect=True, ids=["adapters"])
async def test_an_adapter_takes_the_traffic_of_another_on_one_engine_and_gives_it_back(upgrade: Tool) -> None:
    code, output = await upgrade.run("tone-v1", "tone-v2", *upgrade.short())
    assert (code, upgrade.weights) == (0, [0, 100]), output
    assert upgrade.models.keys() == {"tone-v1", "tone-v2"}
    upgrade.path.write_text(TUNED)
    await until(lambda: [line["weights"] for line in map(json.loads, upgrade.gateway.output)
                         if line["event"] == "weights"][-1]["tone-v1"] == 100, "the weights of the start")  # fmt: skip
    running = asyncio.create_task(upgrade.run("tone-v1", "tone-v2", *upgrade.short(), "--watch", "60"))
    await until(lambda: upgrade.weights == [50, 50], "the first step")
    upgrade.gateway.show(0, "ready", adapters={"tone-v1": None, "tone-v2": "the engine refused it"})
    code, output = await running
    assert (code, upgrade.weights) == (3, [100, 0]), output
    assert "alarm at 50 %: it is failed: the engine refused it" in output
    assert set(upgrade.statuses) == {200}, "no request is lost"


async def test_another_template_is_refused_and_nothing_moves(upgrade: Tool) -> None:
    other = Fault(status=200, body=b'{"count": 2, "max_model_len": 1024, "tokens": [7, 8]}')
    upgrade.gateway.engines[1].script(*[other] * 10, path="/tokenize")
    code, output = await upgrade.run(OLD, NEW, *FAST)
    assert code == 3, output
    assert "chat.jsonl:1 is rendered otherwise; --allow-template lets it pass" in output
    assert (upgrade.weights, progress.read(upgrade.path)) == ([100, 0], None)
    assert set(upgrade.statuses) == {200} and set(upgrade.models) == {OLD}
    upgrade.gateway.engines[1].script(*[other] * 10, path="/tokenize")
    code, output = await upgrade.run(OLD, NEW, *FAST, "--allow-template", "--gate-only")
    assert (code, upgrade.weights) == (0, [100, 0]), output


async def test_an_alarm_takes_the_traffic_back_and_no_request_is_lost(upgrade: Tool) -> None:
    running = asyncio.create_task(upgrade.run(OLD, NEW, *upgrade.short()))
    await until(lambda: upgrade.weights == [50, 50], "the first step")
    upgrade.gateway.engines[1].die("kill")
    code, output = await running
    assert code == 3, output
    assert "alarm at 50 %" in output and f"rolled back: '{OLD}' has all of its traffic again" in output
    assert (upgrade.weights, progress.read(upgrade.path)) == ([100, 0], None)
    assert set(upgrade.statuses) <= {200, 0}, "an answer that had begun may have broken off"
    assert upgrade.statuses[0] <= 2


@pytest.mark.slow
async def test_an_upgrade_that_is_killed_can_be_taken_back_or_resumed(upgrade: Tool) -> None:
    process = await upgrade.begin(OLD, NEW, *upgrade.short(), "--watch", "600")
    try:
        await until(lambda: upgrade.weights == [50, 50] or process.returncode is not None, "the first step")
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        output, _ = await process.communicate()
    assert upgrade.weights == [50, 50], output.decode()
    code, text = await upgrade.run(OLD, NEW, *FAST)
    assert code == 1 and "has begun: --resume goes on, --abort takes it back" in text
    code, text = await upgrade.run("--abort")
    assert (code, upgrade.weights, progress.read(upgrade.path)) == (0, [100, 0], None), text
    # As it is left where the next one is killed.
    progress.write(upgrade.path, Progress(OLD, NEW, 100, (50, 100)))
    WeightsFile(upgrade.path, fleets.read).write({OLD: 50, NEW: 50})
    code, text = await upgrade.run("--resume", *FAST)
    assert (code, upgrade.weights, progress.read(upgrade.path)) == (0, [0, 100], None), text
    assert set(upgrade.statuses) == {200}


TOOLS = {
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "required": ["x"]}}}]
}


def said(logprob: float) -> Fault:
    """An answer with the log probability of its only token."""
    probabilities = {"content": [{"token": "Hi", "logprob": logprob}]}
    choice = {"index": 0, "message": {"content": "Hi"}, "logprobs": probabilities, "finish_reason": "stop"}
    return Fault(status=200, body=json.dumps({"choices": [choice], "usage": {"prompt_tokens": 1}}).encode())


def calling(arguments: str) -> Script:
    return Script((Call("f", arguments),), "Done.")


async def test_the_gate_refuses_what_answers_otherwise_or_later(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    both = "engine: {tool_call_parser: hermes}"
    gateway = await start(FLEET.replace(f"{{model: {OLD},", f"{{model: {OLD}, {both},").replace(
        f"{{model: {NEW},", f"{{model: {NEW}, {both},"))  # fmt: skip
    gateway.expected_unseen = None
    one, (old, new) = Tool(gateway, gateway.run_dir.parent / "fleet.yaml"), gateway.engines

    async def refused(prompt: dict[str, object], *words: str) -> str:
        code, output = await one.run(OLD, NEW, *one.short(prompt), "--slower", "2", "--gate-only", *words)
        assert code == 3 and "No traffic was moved" in output, output
        return output.partition("refused: ")[2].partition(":")[0]

    new.agent = Script((), "Something else.")
    assert await refused(GOLDEN) == "greedy answers alike"
    old.agent, new.agent = calling('{"x": 1}'), calling("{}")
    assert await refused(GOLDEN | TOOLS, "--agreement", "0") == "valid tool calls"
    old.agent = new.agent = None
    old.always, new.always = said(-0.1), said(-0.5)
    assert await refused(GOLDEN) == "log probability drift"
    old.always = new.always = Fault()
    new.gap, stream = 0.2, Service.stream

    def measured(service: Service, model: str, path: str, body: Json) -> Timing | None:
        found = stream(service, model, path, body)
        assert found and (model == OLD or found.ttft > 0.15)
        return replace(found, ttft=0.5 if model == NEW else 0.1)  # the old one may have had to wait as well

    monkeypatch.setattr(Service, "stream", measured)
    assert await refused(GOLDEN) == "median TTFT"


async def test_what_cannot_be_upgraded_is_refused_before_anything_is_asked(upgrade: Tool) -> None:
    path = upgrade.path.with_name("golden.jsonl")
    path.write_text('{"prompt": "' + "word " * 1100 + '"}\n')
    for words, why in (
        ([OLD], "name both models"),
        ([OLD, "nobody"], "'nobody' is not the id of a model of the fleet file"),
        ([NEW, OLD], f"'{OLD}' has the weight 100 already"),
        ([OLD, NEW, "--steps", "5,50"], "must be rising numbers"),
        (["--abort"], "no upgrade has begun in this fleet file"),
        ([OLD, NEW, "--golden", str(path)], f"{path}:1: prompt: its 1101 tokens and max_tokens 64 exceed the context"),
    ):
        code, output = await upgrade.run(*words)
        assert code in (1, 2) and why in " ".join(output.split()), output
        assert "Traceback" not in output
    assert upgrade.weights == [100, 0]
