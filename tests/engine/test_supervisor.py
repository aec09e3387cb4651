"""The life of a replica, with a small program in place of vLLM: start, readiness, death, restart, drain, turns."""

import asyncio
import errno
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from service.config.settings import Settings
from service.engine import demand, engine_stats, gateway_registry, memory_check, readiness, state, supervisor
from service.engine.command import child_environment
from service.engine.engine_stats import Reading
from service.engine.probe import probe
from service.engine.state import Condition, EngineState
from service.engine.supervisor import Supervisor
from service.transport.pool import Deadlines, Transport, get, post
from service.weights import manifest
from service.weights.digests import sha256
from service.weights.manifest import File, Manifest
from tests.support import fleets
from tests.support.exchanges import CHAT, EMBEDDING
from tests.support.fleets import ROOT
from tests.support.gateways import ONE
from tests.support.waiting import until

PROGRAM = f"/usr/bin/env PYTHONPATH={ROOT} {sys.executable} -m tests.support.stand_in"
PATIENT = Deadlines(connect=5, first_byte=10, idle=10, total=10)
# Seconds after which what must not happen would have happened: several looks of a supervisor, or knocks at an engine.
LOOKS, KNOCKS = 0.25, 0.6


class House:
    """The supervisors of a fleet, and all that they said."""

    def __init__(self, folder: Path, text: str, **settings: Any) -> None:
        self.run_dir = folder / "run"
        self.run_dir.mkdir(exist_ok=True)
        fleet = fleets.load(folder, text)
        self.said: list[str] = []
        configured = Settings(run_dir=self.run_dir, **{"engine_program": PROGRAM, "drain_timeout": 5.0, **settings})
        self.supervisors = [
            Supervisor(served, number, order, fleet, configured, self.said.append)
            for order, (served, number) in enumerate(fleet.replicas())
        ]

    def state(self, order: int = 0) -> EngineState:
        found = state.read(self.run_dir, order)
        assert found
        return found

    def conditions(self) -> list[Condition]:
        return [self.state(order).condition for order in range(len(self.supervisors))]

    async def until(self, condition: Condition, order: int = 0) -> EngineState:
        await until(lambda: self.state(order).condition == condition, f"{condition} (it said: {self.said})")
        return self.state(order)

    def processes(self) -> list[psutil.Process]:
        """Every process that was started for an engine of this house, its keeper among them."""
        found = []
        for process in psutil.process_iter():
            try:
                if str(self.run_dir) in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    async def until_nothing_runs(self) -> None:
        await until(lambda: not self.processes(), "the end of all processes")

    def phases(self, order: int = 0) -> list[str]:
        """What was said of the engine, without the times."""
        name = self.state(order).replica
        said = [line.removeprefix(f"{name}  ") for line in self.said if line.startswith(name)]
        return [line.partition(" after ")[0] for line in said]

    def log(self) -> str:
        """What the first engine's log says."""
        return (self.run_dir / "pebble-chat-0.log").read_text()

    def speak(self) -> None:
        (self.run_dir / "speak").touch()


Open = Callable[..., House]


@pytest.fixture
async def open_house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    """Starts the supervisors of a fleet; afterwards they have stopped, and nothing of them is left."""
    monkeypatch.setattr(supervisor, "BACKOFF", (0.05, 0.1))
    monkeypatch.setattr(readiness, "KNOCK", Deadlines(connect=1, first_byte=0.25, idle=0.25, total=0.25))
    monkeypatch.setattr(memory_check, "need", lambda served: 1)
    monkeypatch.setattr(supervisor, "POLL", 0.05)
    monkeypatch.setattr(readiness, "POLL", 0.05)
    monkeypatch.setattr(supervisor, "LOOK", 0.05)
    monkeypatch.setattr(supervisor, "SEEN", 0.1)
    houses: list[House] = []

    def begin(text: str = ONE, **settings: Any) -> House:
        houses.append(House(tmp_path, text, **settings))
        for one in houses[-1].supervisors:
            one.start()
        return houses[-1]

    yield begin
    for house in houses:
        await asyncio.gather(*(one.stop() for one in house.supervisors))
        await house.until_nothing_runs()
        assert set(house.conditions()) == {"stopped"}
    await asyncio.sleep(0.05)


def fleet(wrong: str, **more: Any) -> str:
    return json.dumps({"models": [{"model": "pebble-chat", "env": {"STAND_IN": wrong}, **more}]})


async def ask(house: House, request: bytes, order: int = 0) -> tuple[int, bytes]:
    exchange = await Transport().send(str(state.socket_path(house.run_dir, order)), request, PATIENT)
    try:
        return await exchange.head(), await exchange.read_all(2**20)
    finally:
        exchange.close()


async def stats(house: House) -> Reading:
    """The figures of the first engine."""
    found = engine_stats.read((await ask(house, get("/metrics")))[1], 0.0)
    assert found
    return found


async def asked_for_long(house: House) -> "asyncio.Task[tuple[int, bytes]]":
    """A long request that runs at the first engine."""
    asking = asyncio.create_task(ask(house, post(CHAT.path, json.dumps(LONG).encode())))
    await until_running(house)
    return asking


async def until_running(house: House) -> None:
    async def runs() -> bool:
        return (await stats(house)).running == 1

    await until(runs, "the request to run")


async def test_from_the_start_to_the_first_token(open_house: Open) -> None:
    house = open_house()
    assert house.state().condition == "waiting"
    ready = await house.until("ready")
    assert house.phases() == [
        "waiting, its turn to start",
        "starting, importing vLLM",
        "starting, reading the model's configuration",
        "starting, starting the engine core",
        "starting, loading weights",
        "starting, sizing the KV cache",
        "starting, waiting for its first token",
        "ready",
    ]
    assert (ready.replica, ready.model, ready.order, ready.restarts) == ("pebble-chat-0", "pebble-chat", 0, 0)
    assert ready.reason is None
    assert ready.pid
    assert "--uds" in psutil.Process(ready.pid).cmdline()
    assert (await ask(house, get("/health")))[0] == 200
    log = (house.run_dir / "pebble-chat-0.log").read_text()
    assert "non-default args" in log
    assert "Starting vLLM server" in log


async def test_it_is_ready_when_it_has_answered_and_not_before(open_house: Open) -> None:
    house = open_house(fleet("mute"))
    await until(lambda: house.state().phase == "waiting for its first token")
    assert (await ask(house, get("/health")))[0] == 200
    await asyncio.sleep(KNOCKS)
    assert house.state().condition == "starting"
    house.speak()
    await house.until("ready")


async def test_a_socket_where_nobody_answers_yet(open_house: Open) -> None:
    house = open_house(fleet("early"))
    await until(lambda: state.socket_path(house.run_dir, 0).exists())
    await asyncio.sleep(KNOCKS)
    assert house.state().condition == "starting"
    house.speak()
    await house.until("ready")


async def test_no_token_in_time(open_house: Open) -> None:
    house = open_house(fleet("mute"), start_timeout=5.0)
    await until(lambda: house.state().restarts == 1, f"a restart (it said: {house.said})")
    (reason,) = {line for line in house.phases() if line.startswith("failed")}
    assert "no token within 5 s of its start: its answer to a first request has status 500" in reason
    house.speak()
    assert (await house.until("ready")).restarts >= 1


async def test_a_start_that_fails(open_house: Open) -> None:
    house = open_house(fleet("broken"))
    await until(lambda: house.state().restarts >= 3)
    why = "the engine ended with exit status 1: ValueError: the weights are broken"
    failed = [line for line in house.phases() if line.startswith("failed")]
    assert failed[:3] == [f"failed, starts again in {pause} s, {why}" for pause in ("0.05", "0.1", "0.1")]
    assert "ready" not in house.phases()
    (reason,) = {one.reason for one in (house.state(), house.state()) if one.condition == "failed"} or {why}
    assert reason == why


async def test_a_program_that_is_not_there(open_house: Open) -> None:
    house = open_house(engine_program="/no/such/program")
    await until(lambda: house.state().restarts >= 1)
    failed = next(line for line in house.phases() if line.startswith("failed"))
    assert failed.endswith("the engine ended with exit status 127: /no/such/program: No such file or directory")


async def test_an_engine_that_dies_is_started_again(open_house: Open) -> None:
    house = open_house()
    first = await house.until("ready")
    assert first.pid
    os.kill(first.pid, signal.SIGKILL)
    await until(lambda: house.state().restarts == 1 and house.state().condition == "ready")
    second = house.state()
    assert second.pid != first.pid
    assert second.reason is None
    failed = next(line for line in house.phases() if line.startswith("failed"))
    assert failed.startswith("failed, starts again in 0.05 s, the engine was killed by signal 9 (out of memory?)")
    assert (await ask(house, post(CHAT.path, json.dumps(CHAT.body()).encode())))[0] == 200


async def test_an_engine_that_ends_by_itself_has_not_been_asked_to(open_house: Open) -> None:
    """vLLM ends with exit status 0 when its core has died."""
    house = open_house()
    pid = (await house.until("ready")).pid
    assert pid
    os.kill(pid, signal.SIGTERM)
    await until(lambda: house.state().restarts == 1 and house.state().condition == "ready")
    assert any("exit status 0" in line for line in house.phases())


async def test_deaths_long_ago_are_forgiven(open_house: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STEADY", 0.0)
    house = open_house(fleet("broken"))
    await until(lambda: house.state().restarts >= 3)
    assert not any("again in 0.1 s" in line for line in house.said)


async def test_too_little_memory(open_house: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "need", lambda served: 2**62)
    house = open_house()
    failed = await house.until("failed")
    assert failed.reason
    assert failed.reason.startswith("no memory for another engine: it needs about 4294967296.0 GiB and ")
    assert "VLLM_CPU_KVCACHE_SPACE" in failed.reason
    assert not house.processes()
    monkeypatch.setattr(memory_check, "need", lambda served: 1)
    await house.until("ready")


@pytest.fixture
def pulled(tmp_path: Path) -> Path:
    """Weights with a manifest that is right."""
    place = tmp_path / "pulled"
    shutil.copytree(ROOT / "models/pebble/pebble-chat", place)
    files = {
        name: File(size=(place / name).stat().st_size, sha256=sha256(place / name)) for name in manifest.files(place)
    }
    manifest.write(place, Manifest(model="x", repository="a/b", revision=None, source="", made_by="", files=files))
    return place


async def test_weights_that_are_as_pulled_are_served(open_house: Open, pulled: Path) -> None:
    house = open_house(fleet("", weights=str(pulled)))
    await house.until("ready")
    assert house.phases()[1:3] == ["starting, verifying the weights", "starting, importing vLLM"]


async def test_weights_that_were_changed_are_not(open_house: Open, pulled: Path) -> None:
    weights = pulled / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (pulled / "tokenizer.json").unlink()
    house = open_house(fleet("", weights=str(pulled)))
    await until(lambda: house.state().restarts >= 2, "two attempts")
    failed = next(line for line in house.phases() if line.startswith("failed"))
    assert f"its weights are not what was pulled: {weights} has SHA-256 " in failed
    assert failed.endswith(", and 1 more differ")
    assert not any("importing vLLM" in line for line in house.said)
    assert not house.processes()
    shutil.copy(ROOT / "models/pebble/pebble-chat/tokenizer.json", pulled)
    weights.write_bytes(whole)
    await house.until("ready")


async def test_nobody_waits_for_a_verification_when_stopping(
    open_house: Open, pulled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def endless(directory: Path, advance: Callable[[int], None]) -> list[manifest.Problem]:
        begun.set()
        try:
            while True:
                advance(1)
        finally:
            ended.set()

    monkeypatch.setattr(manifest, "verify", endless)
    house = open_house(fleet("", weights=str(pulled)))
    await until(begun.is_set)
    await house.supervisors[0].stop()
    await until(ended.is_set, "the end of the thread")
    assert not any("importing vLLM" in line for line in house.said)


async def test_a_gpus_memory_is_not_counted(open_house: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "need", lambda served: 2**62)
    await open_house(fleet("", gpus=1)).until("ready")


LONG = CHAT.body(stream=True) | {"messages": [{"role": "user", "content": "word " * 40}]}


@pytest.mark.parametrize("stream", [True, False])
async def test_stopping_lets_running_requests_finish(stream: bool, open_house: Open) -> None:
    house = open_house()
    await house.until("ready")
    running = asyncio.create_task(ask(house, post(CHAT.path, json.dumps(LONG | {"stream": stream}).encode())))
    await until_running(house)
    await house.supervisors[0].stop()
    status, body = await running
    assert status == 200
    assert body.count(b"word") >= 40
    assert body.endswith(b"data: [DONE]\n\n") == stream
    assert "draining 1" in (house.run_dir / "pebble-chat-0.log").read_text()
    assert house.phases()[-2:] == ["stopping, draining", "stopped"]
    assert not any("failed" in line for line in house.said)


async def test_stopping_an_engine_that_will_not(open_house: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "TAKEDOWN", 0.1)
    house = open_house(fleet("stubborn"), drain_timeout=0.1)
    await house.until("ready")
    await house.supervisors[0].stop()
    await house.until_nothing_runs()
    assert house.state().condition == "stopped"


@pytest.mark.parametrize("moment", ["at once", "starting", "mute", "pausing"])
async def test_stopping_at_any_moment(moment: str, open_house: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF", (60.0,))
    house = open_house(fleet("broken" if moment == "pausing" else "mute"))
    if moment == "starting":
        await until(lambda: bool(house.processes()))
    if moment == "mute":
        await until(lambda: house.state().phase == "waiting for its first token")
    if moment == "pausing":
        await house.until("failed")
    await house.supervisors[0].stop()
    assert not house.processes()
    await asyncio.sleep(LOOKS)
    assert (house.state().condition, house.state().reason) == ("stopped", None)
    assert not house.processes()


THREE = """
models:
  - {model: pebble-chat, env: {STAND_IN: mute}}
  - {model: pebble-instruct, env: {STAND_IN: mute}}
  - {model: pebble-base, env: {STAND_IN: mute}}
"""


async def test_where_cores_are_short_the_first_starts_alone(open_house: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    house = open_house(THREE.replace("STAND_IN: mute", "", 1))
    await house.until("ready", 0)
    for order in (1, 2):
        await house.until("starting", order)
        name = house.state(order).replica
        beginning = next(number for number, line in enumerate(house.said) if line.startswith(f"{name}  starting"))
        assert any(line.startswith("pebble-chat-0  ready") for line in house.said[:beginning])
    house.speak()
    for order in (1, 2):
        await house.until("ready", order)


async def test_while_the_first_starts_the_others_wait(open_house: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    house = open_house(THREE)
    await house.until("starting")
    await asyncio.sleep(LOOKS)
    assert house.conditions() == ["starting", "waiting", "waiting"]


@pytest.mark.parametrize("start", ["together", "auto"])
async def test_where_cores_are_plenty_all_start(start: str, open_house: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2 if start == "together" else 8)
    house = open_house(f"{THREE}start: {start}\n")
    await until(lambda: house.conditions() == ["starting"] * 3)


async def test_in_turn(open_house: Open) -> None:
    house = open_house(f"{THREE}start: in_turn\n")
    house.speak()
    for order in range(3):
        await house.until("ready", order)
    events = [line.split()[:2] for line in house.said if "ready" in line or "importing" in line]
    names = ("pebble-chat-0", "pebble-instruct-0", "pebble-base-0")
    assert [name for name, _ in events] == [name for name in names for _ in range(2)]


async def test_one_that_fails_does_not_keep_the_others_waiting(
    open_house: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF", (60.0,))
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    house = open_house(THREE.replace("mute", "broken", 1))
    house.speak()
    await house.until("failed", 0)
    for order in (1, 2):
        await house.until("ready", order)


def test_what_reaches_an_engines_environment(tmp_path: Path) -> None:
    served = fleets.only(tmp_path, "model: pebble-chat\nenv: {MINE: 1, PATH: /other}")
    outside = {
        "PATH": "/bin",
        "HOME": "/root",
        "ROUNDHOUSE_PORT": "1",
        "BENTOML_HOME": "x",
        "PROMETHEUS_MULTIPROC_DIR": "x",
    }
    inside = child_environment(served, outside)
    assert {"HOME": "/root", "MINE": "1", "PATH": "/other"}.items() <= inside.items()
    assert not [key for key in inside if key.startswith(("ROUNDHOUSE_", "BENTO", "PROMETHEUS_"))]


def test_memory_that_an_engine_needs(tmp_path: Path) -> None:
    small = fleets.only(tmp_path, "model: pebble-chat\nenv: {VLLM_CPU_KVCACHE_SPACE: 1}")
    weights = (Path(small.weights) / "model.safetensors").stat().st_size
    assert memory_check.need(small) == memory_check.BASE_NEED + weights + 2**30
    other = fleets.only(tmp_path, "model: org/tune-chat")
    assert memory_check.need(other) == memory_check.BASE_NEED + 4 * 2**30


@pytest.mark.parametrize(("entry", "path"), [("model: pebble-base", "/v1/completions"),
                                             ("model: acme/tiny-embedding", EMBEDDING.path)])  # fmt: skip
def test_the_smallest_request(entry: str, path: str, tmp_path: Path) -> None:
    served = fleets.only(tmp_path, entry)
    where, body = probe(served)
    assert where == path
    assert json.loads(body)["model"] == served.id


LACKING = "models: [{{model: pebble-chat, env: {{LACKS: '{lacks}'}}, engine: {{new_one: 1}}, optional: [{optional}]}}]"


async def test_a_release_without_an_optional_flag_is_started_without_it(open_house: Open) -> None:
    text = LACKING.format(lacks="--max-num-queued-reqs --new-one", optional="new_one")
    house = open_house(text)
    ready = await house.until("ready")
    assert (ready.restarts, ready.reason) == (0, None), "that was no death"
    told = "without --max-num-queued-reqs, --new-one: this vLLM does not know it"
    assert [line for line in house.said if told in line]
    assert told in (house.run_dir / "pebble-chat-0.log").read_text()


async def test_a_flag_that_matters_is_not_left_out(open_house: Open) -> None:
    text = LACKING.format(lacks="--max-num-queued-reqs --new-one", optional="")
    house = open_house(text)
    failed = await house.until("failed")
    assert failed.reason
    assert failed.reason.startswith("this vLLM does not know --new-one:")
    assert "mark it 'optional'" in failed.reason


FROZEN = "it hangs: no progress for 1 s (a request for one token: no byte for "


@pytest.mark.parametrize(
    ("number", "metrics"), [(signal.SIGUSR1, "its metrics stand still)"), (signal.SIGSTOP, "its metrics: no byte for ")]
)
async def test_one_that_hangs_is_started_again(number: signal.Signals, metrics: str, open_house: Open) -> None:
    """Its core alone, so that it goes on saying that it is healthy, or all of it."""
    house = open_house(hang_timeout=1.0)
    first = await house.until("ready")
    assert first.pid
    os.kill(first.pid, number)
    if number == signal.SIGUSR1:
        await until(lambda: "frozen" in house.log())
        assert (await ask(house, get("/health")))[0] == 200
        assert house.state().condition == "ready"
    await until(lambda: house.state().restarts == 1 and house.state().condition == "ready", f"a restart {house.said}")
    failed = next(line for line in house.phases() if line.startswith("failed"))
    assert failed.startswith(f"failed, starts again in 0.05 s, {FROZEN}")
    assert metrics in failed
    assert house.state().pid != first.pid
    assert not psutil.pid_exists(first.pid)


async def test_an_idle_engine_is_left_in_peace(open_house: Open) -> None:
    house = open_house(hang_timeout=0.4)
    await house.until("ready")
    before = (await stats(house)).tokens

    async def was_asked_often() -> bool:
        return (await stats(house)).tokens >= before + 10

    await until(was_asked_often, "answers that show that it works")
    assert house.phases()[-1] == "ready"


async def test_a_start_that_hangs(open_house: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "QUIET", 1.5)
    house = open_house(fleet("early"), start_timeout=4.5)
    await until(lambda: house.state().restarts == 1, f"a restart (it said: {house.said})")
    (reason,) = {line for line in house.phases() if line.startswith("failed")}
    assert "it hangs in its start: no line of its log for 1.5 s, and no byte for 0.25 s" in reason
    house.speak()
    await house.until("ready")


ON_DEMAND = {"replicas": 2, "min": 1}
GATEWAY = os.getpid()  # for these tests


async def test_a_replica_on_demand_sleeps_until_it_is_wanted(open_house: Open) -> None:
    house = open_house(fleet("", **ON_DEMAND))
    assert house.conditions() == ["waiting", "asleep"]
    await house.until("ready", 0)
    await asyncio.sleep(LOOKS)
    assert house.state(1).condition == "asleep"
    assert not [process for process in house.processes() if "e1.sock" in " ".join(process.cmdline())]
    demand.write(house.run_dir, GATEWAY, [1])
    await house.until("ready", 1)
    assert (await ask(house, get("/health"), 1))[0] == 200
    demand.write(house.run_dir, GATEWAY, [])
    await house.until("asleep", 1)
    assert not [process for process in house.processes() if "e1.sock" in " ".join(process.cmdline())]
    assert house.state(0).condition == "ready"
    told = [line for line in house.phases(1) if not line.startswith("starting")]
    assert told == [
        "asleep, starts when it is asked for", "waiting, its turn to start", "ready", "stopping, nobody asks for it",
        "asleep, starts when it is asked for",
    ]  # fmt: skip
    demand.write(house.run_dir, GATEWAY, [1])
    assert (await house.until("ready", 1)).restarts == 0


async def test_the_sleeping_hold_nobody_up(open_house: Open) -> None:
    entries = [{"model": "pebble-chat", "min": 0}, {"model": "pebble-base"}]
    house = open_house(json.dumps({"models": entries, "start": "in_turn"}))
    await house.until("ready", 1)
    assert house.state(0).condition == "asleep"


async def test_two_that_wake_together_start_in_turn(open_house: Open) -> None:
    entries = [{"model": model, "min": 0, "env": {"STAND_IN": "mute"}} for model in ("pebble-chat", "pebble-base")]
    house = open_house(json.dumps({"models": entries, "start": "in_turn"}))
    demand.write(house.run_dir, GATEWAY, [0, 1])
    await house.until("starting", 0)
    await asyncio.sleep(LOOKS)
    assert house.conditions() == ["starting", "waiting"]
    house.speak()
    await house.until("ready", 1)


async def test_what_runs_when_nobody_wants_more_is_finished(open_house: Open) -> None:
    house = open_house(fleet("", min=0))
    demand.write(house.run_dir, GATEWAY, [0])
    await house.until("ready")
    running = await asked_for_long(house)
    demand.write(house.run_dir, GATEWAY, [])
    status, body = await running
    assert (status, body.count(b"word") >= 40, body.endswith(b"data: [DONE]\n\n")) == (200, True, True)
    await house.until("asleep")
    assert "draining 1" in (house.run_dir / "pebble-chat-0.log").read_text()


async def test_one_that_is_wanted_again_at_once_stays(open_house: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    house = open_house(fleet("", min=0))
    demand.write(house.run_dir, GATEWAY, [0])
    pid = (await house.until("ready")).pid
    monkeypatch.setattr(supervisor, "SEEN", 0.5)
    demand.write(house.run_dir, GATEWAY, [])
    await house.until("stopping")
    demand.write(house.run_dir, GATEWAY, [0])
    assert (await house.until("ready")).pid == pid


async def test_stopping_one_that_is_going_to_sleep_lets_requests_finish(
    open_house: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = open_house(fleet("", min=0))
    demand.write(house.run_dir, GATEWAY, [0])
    await house.until("ready")
    running = await asked_for_long(house)
    monkeypatch.setattr(supervisor, "TAKEDOWN", 0.1)
    demand.write(house.run_dir, GATEWAY, [])
    await house.until("stopping")
    await house.supervisors[0].stop()
    _, body = await running
    assert body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("moment", ["asleep", "going to sleep"])
async def test_stopping_one_on_demand(moment: str, open_house: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    house = open_house(fleet("", min=0))
    if moment != "asleep":
        demand.write(house.run_dir, GATEWAY, [0])
        await house.until("ready")
        demand.write(house.run_dir, GATEWAY, [])
        await house.until("stopping")
    await house.supervisors[0].stop()
    await asyncio.sleep(LOOKS)
    assert house.state().condition == "stopped"
    assert not house.processes()


async def test_gateways_that_stop_too_are_done_first(open_house: Open) -> None:
    house = open_house()
    await house.until("ready")
    gateway_registry.enter(house.run_dir, GATEWAY)
    gateway_registry.drain(house.run_dir, GATEWAY)
    stopping = asyncio.create_task(house.supervisors[0].stop())
    await asyncio.sleep(LOOKS)
    assert house.state().condition == "ready", "what the gateway has accepted may still come"
    assert (await ask(house, post(CHAT.path, json.dumps(CHAT.body()).encode())))[0] == 200
    gateway_registry.leave(house.run_dir, GATEWAY)
    await stopping
    assert house.phases()[-2:] == ["stopping, draining", "stopped"]


async def test_gateways_that_stay_see_it_before_it_ends(open_house: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    house = open_house()
    await house.until("ready")
    gateway_registry.enter(house.run_dir, GATEWAY)
    monkeypatch.setattr(supervisor, "SEEN", 1.0)
    stopping = asyncio.create_task(house.supervisors[0].stop())
    await house.until("stopping")
    answered, _ = await ask(house, post(CHAT.path, json.dumps(CHAT.body()).encode()))
    assert answered == 200, "who had not seen it yet is answered"
    await stopping


async def test_gateways_that_never_leave_are_not_waited_for(open_house: Open) -> None:
    house = open_house(drain_timeout=0.5)
    await house.until("ready")
    gateway_registry.drain(house.run_dir, GATEWAY)
    await house.supervisors[0].stop()
    assert house.state().condition == "stopped"


async def test_a_full_disk_stops_nothing(open_house: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    house = open_house()
    pid = (await house.until("ready")).pid
    assert pid
    write, full = state.write, True

    def fail(run_dir: Path, one: EngineState) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(run_dir, one)

    monkeypatch.setattr(state, "write", fail)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: house.phases()[-1] == "ready" and len(house.phases()) > 10, f"a restart (it said {house.said})")
    assert house.state().pid == pid, "the file could not be written"
    told = [line for line in house.phases() if "cannot be written" in line]
    assert told == ["its state cannot be written, and the gateways do not see it: [Errno 28] No space left on device"]
    full = False
    await until(lambda: house.state().restarts == 1, "the state to be written late")
    assert house.state().condition == "ready"


async def test_a_log_that_cannot_be_written_is_read_all_the_same(open_house: Open, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/pebble-chat-0.log").mkdir()
    house = open_house()
    await house.until("ready")
    assert "starting, loading weights" in house.phases()


async def test_a_folder_where_nothing_can_be_put(open_house: Open, tmp_path: Path) -> None:
    (tmp_path / "run/e0.sock").mkdir(parents=True)
    house = open_house()
    failed = await house.until("failed")
    assert failed.reason
    assert failed.reason.startswith("it could not be started: [Errno 21] Is a directory: ")
    (house.run_dir / "e0.sock").rmdir()
    await house.until("ready")
