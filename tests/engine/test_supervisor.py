"""The supervisor, with a stand-in for vLLM: startup order, readiness, crashes, restarts, scaling, drain."""

import asyncio
import errno
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from service.config.settings import Settings
from service.engine import (
    adapters,
    demand,
    engine_stats,
    gateway_registry,
    memory_check,
    readiness,
    state,
    supervisor,
    watchdog,
)
from service.engine.command import child_environment
from service.engine.engine_stats import EngineStats
from service.engine.probe import probe_request
from service.engine.state import Condition, EngineState
from service.engine.supervisor import Supervisor
from service.sharing.parts import PROCESSES_BYTES
from service.transport.pool import ConnectionPool, Deadlines, get_request, post_request
from service.weights import manifest
from service.weights.digests import sha256
from service.weights.manifest import File, Manifest
from tests.support import fleets
from tests.support.adapters import write_adapter
from tests.support.children import noticed
from tests.support.exchanges import CHAT, EMBEDDING
from tests.support.fleets import ROOT
from tests.support.gateways import ONE
from tests.support.logs import log_to
from tests.support.waiting import PATIENCE, until

# The environment's own PYTHONPATH comes first: by it an engine tells where it stands.
PROGRAM = f"""sh -c 'PYTHONPATH="$PYTHONPATH:{ROOT}" exec "$0" "$@"' {sys.executable} -m tests.support.stand_in"""
DEADLINES = Deadlines(connect=PATIENCE, first_byte=PATIENCE, idle=PATIENCE, total=PATIENCE)
# For an engine that never answers.
HURRIED = Deadlines(connect=PATIENCE, first_byte=0.25, idle=0.25, total=0.25)
# Seconds after which what must not happen would have happened: several checks by a supervisor, or health checks.
CHECKS, HEALTH_CHECKS = 0.25, 0.6


class StartedFleet:
    """The supervisors of a fleet, the progress lines that they printed, and the lines that they logged."""

    def __init__(self, folder: Path, text: str, **settings: Any) -> None:
        self.run_dir = folder / "run"
        self.run_dir.mkdir(exist_ok=True)
        fleet = fleets.load(folder, text)
        self.output: list[str] = []
        self.logged: list[str] = []
        # tests/engine/test_evidence.py keeps some.
        usual = {"engine_program": PROGRAM, "drain_timeout": 5.0, "evidence": False}
        configured = Settings(run_dir=self.run_dir, **{**usual, **settings})
        self.supervisors = [
            Supervisor(served, number, order, fleet, configured, self.output.append, log_to(self.logged))
            for order, (served, number) in enumerate(fleet.replicas())
        ]

    def state(self, order: int = 0) -> EngineState:
        found = state.read(self.run_dir, order)
        assert found
        return found

    def conditions(self) -> list[Condition]:
        return [self.state(order).condition for order in range(len(self.supervisors))]

    async def until(self, condition: Condition, order: int = 0) -> EngineState:
        await until(lambda: self.state(order).condition == condition, f"{condition} (output: {self.output})")
        return self.state(order)

    def processes(self) -> list[psutil.Process]:
        """Every live process of these engines, their keepers included."""
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

    def shown(self, order: int = 0) -> list[str]:
        """The progress lines about one engine, without its name and the times."""
        name = self.state(order).replica
        lines = [line.removeprefix(f"{name}  ") for line in self.output if line.startswith(name)]
        return [line.partition(" after ")[0] for line in lines]

    def log(self) -> str:
        """The first engine's log."""
        return (self.run_dir / "pebble-chat-0.log").read_text()

    def unblock(self) -> None:
        """Lets every stand-in go on whose fault is `mute`, `early` or `patient`."""
        (self.run_dir / "speak").touch()

    def block(self) -> None:
        """Keeps those that start from now on."""
        (self.run_dir / "speak").unlink()


StartFleet = Callable[..., StartedFleet]


@pytest.fixture
async def start_fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StartFleet]:
    """Starts the supervisors of a fleet; afterwards stops them, and checks that no process is left."""
    monkeypatch.setattr(supervisor, "BACKOFF", (0.05, 0.1))
    monkeypatch.setattr(readiness, "HEALTH_CHECK", DEADLINES)
    monkeypatch.setattr(watchdog, "SCRAPE", DEADLINES)
    monkeypatch.setattr(memory_check, "required_memory", lambda served: 1)
    monkeypatch.setattr(supervisor, "PENDING_POLL", 0.05)
    monkeypatch.setattr(readiness, "POLL_INTERVAL", 0.05)
    monkeypatch.setattr(supervisor, "WATCH_INTERVAL", 0.05)
    monkeypatch.setattr(supervisor, "PROPAGATION", 0.1)
    started: list[StartedFleet] = []

    def start(text: str = ONE, **settings: Any) -> StartedFleet:
        started.append(StartedFleet(tmp_path, text, **settings))
        for one in started[-1].supervisors:
            one.start()
        return started[-1]

    async with noticed():
        yield start
        for fleet in started:
            await asyncio.gather(*(one.stop() for one in fleet.supervisors))
            await fleet.until_nothing_runs()
            assert set(fleet.conditions()) == {"stopped"}


def fleet_text(fault: str, **entry: Any) -> str:
    """A fleet of pebble-chat, whose stand-in has this fault; `entry` are more keys of the model."""
    return json.dumps({"models": [{"model": "pebble-chat", "env": {"STAND_IN": fault}, **entry}]})


async def ask(fleet: StartedFleet, request: bytes, order: int = 0) -> tuple[int, bytes]:
    exchange = await ConnectionPool().send(str(state.socket_path(fleet.run_dir, order)), request, DEADLINES)
    try:
        return await exchange.head(), await exchange.read_all(2**20)
    finally:
        exchange.close()


async def stats(fleet: StartedFleet) -> EngineStats:
    """The first engine's metrics."""
    found = engine_stats.parse((await ask(fleet, get_request("/metrics")))[1], 0.0)
    assert found
    return found


async def running_request(fleet: StartedFleet) -> "asyncio.Task[tuple[int, bytes]]":
    """A request that the first engine, a `patient` one, is generating for."""
    response = asyncio.create_task(ask(fleet, post_request(CHAT.path, json.dumps(LONG_CHAT).encode())))
    await until_running(fleet)
    return response


async def until_running(fleet: StartedFleet) -> None:
    async def runs() -> bool:
        return (await stats(fleet)).running == 1

    await until(runs, "the request to run")


async def test_phases_from_start_to_ready(start_fleet: StartFleet) -> None:
    fleet = start_fleet()
    assert fleet.state().condition == "waiting"
    ready = await fleet.until("ready")
    assert fleet.shown() == [
        "waiting, queued for startup",
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
    assert (await ask(fleet, get_request("/health")))[0] == 200
    log = (fleet.run_dir / "pebble-chat-0.log").read_text()
    assert "non-default args" in log
    assert "Starting vLLM server" in log


async def test_the_choice_of_parsers_is_printed_once_for_all_replicas(start_fleet: StartFleet, tmp_path: Path) -> None:
    text = json.dumps({"models": [{"model": "./tune-chat", "min_replicas": 0, "max_replicas": 2}]})
    (tmp_path / "tune-chat").mkdir()
    fleet = start_fleet(text)
    (line,) = [line for line in fleet.output if "tool_call_parser" in line]
    assert line.startswith(
        "tune-chat-0  no tool_call_parser and no reasoning_parser, for no chat template of it is here"
    )


async def test_it_is_ready_only_after_a_successful_probe(start_fleet: StartFleet) -> None:
    fleet = start_fleet(fleet_text("mute"))
    await until(lambda: fleet.state().phase == "waiting for its first token")
    assert (await ask(fleet, get_request("/health")))[0] == 200
    await asyncio.sleep(HEALTH_CHECKS)
    assert fleet.state().condition == "starting"
    fleet.unblock()
    await fleet.until("ready")


async def test_a_bound_socket_alone_is_not_ready(start_fleet: StartFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "HEALTH_CHECK", HURRIED)
    fleet = start_fleet(fleet_text("early"))
    await until(lambda: state.socket_path(fleet.run_dir, 0).exists())
    await asyncio.sleep(HEALTH_CHECKS)
    assert fleet.state().condition == "starting"
    fleet.unblock()
    await fleet.until("ready")


async def test_a_start_beyond_the_start_timeout_fails(start_fleet: StartFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = [0.0]  # seconds by which the clock of the readiness check is
    monkeypatch.setattr(readiness, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead[0]))
    fleet = start_fleet(fleet_text("mute"), start_timeout=600.0)
    await until(lambda: fleet.state().phase == "waiting for its first token")
    ahead[0] = 601.0
    await until(lambda: fleet.state().restarts == 1, f"a restart (output: {fleet.output})")
    (reason,) = {line for line in fleet.shown() if line.startswith("failed")}
    assert "not ready within 600 s of its start: the probe request got status 500" in reason
    fleet.unblock()
    assert (await fleet.until("ready")).restarts >= 1


async def test_a_failing_start_is_retried_with_backoff(start_fleet: StartFleet) -> None:
    fleet = start_fleet(fleet_text("broken"))
    await until(lambda: fleet.state().restarts >= 3)
    why = "the engine ended with exit status 1: ValueError: the weights are broken"
    failed = [line for line in fleet.shown() if line.startswith("failed")]
    assert failed[:3] == [f"failed, starts again in {pause} s, {why}" for pause in ("0.05", "0.1", "0.1")]
    assert "ready" not in fleet.shown()
    (reason,) = {one.reason for one in (fleet.state(), fleet.state()) if one.condition == "failed"} or {why}
    assert reason == why


async def test_a_start_after_a_crash_is_not_logged_as_an_error(start_fleet: StartFleet, tmp_path: Path) -> None:
    script = tmp_path / "engine.sh"
    script.write_text("echo 'begins without a level'; echo 'Traceback (most recent call last):'; exit 1")
    fleet = start_fleet(engine_program=f"sh {script}")
    await until(lambda: fleet.state().restarts >= 2)
    found = [json.loads(line) for line in fleet.logged]
    assert {(one["level"], one["message"]) for one in found} == {("error", "Traceback (most recent call last):")}


async def test_what_a_killed_engine_left_half_written_is_removed(
    start_fleet: StartFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here by one that was killed while it compiled: every later start tries to load it."""
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
    (tmp_path / "half.so").touch()
    script = tmp_path / "engine.sh"
    script.write_text(f"[ -e {tmp_path}/half.so ] && echo 'ImportError: {tmp_path}/half.so: file too short'; exit 1")
    fleet = start_fleet(engine_program=f"sh {script}")
    await until(lambda: fleet.state().restarts >= 1)
    assert any(f"; removed {tmp_path}/half.so, which is compiled again" in line for line in fleet.shown())
    assert not (tmp_path / "half.so").exists()


async def test_a_missing_program(start_fleet: StartFleet) -> None:
    fleet = start_fleet(engine_program="/no/such/program")
    await until(lambda: fleet.state().restarts >= 1)
    failed = next(line for line in fleet.shown() if line.startswith("failed"))
    assert failed.endswith("the engine ended with exit status 127: /no/such/program: No such file or directory")


async def test_a_killed_engine_is_restarted(start_fleet: StartFleet) -> None:
    fleet = start_fleet()
    first = await fleet.until("ready")
    assert first.pid
    os.kill(first.pid, signal.SIGKILL)
    await until(lambda: fleet.state().restarts == 1 and fleet.state().condition == "ready")
    second = fleet.state()
    assert second.pid != first.pid
    assert second.reason is None
    failed = next(line for line in fleet.shown() if line.startswith("failed"))
    assert failed.startswith("failed, starts again in 0.05 s, the engine was killed by signal 9 (out of memory?)")
    assert (await ask(fleet, post_request(CHAT.path, json.dumps(CHAT.body()).encode())))[0] == 200


async def test_adapters_are_loaded_before_it_is_ready_also_after_a_crash_and_one_that_fails_stops_nothing(
    start_fleet: StartFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tone, gone = (write_adapter(tmp_path / name, "pebble-chat") for name in ("tone", "gone"))
    monkeypatch.setattr(adapters, "POLL_INTERVAL", 0.05)
    monkeypatch.setattr(adapters, "RETRY_INTERVAL", 0.05)
    entries = [{"id": path.name, "path": str(path)} for path in (tone, gone)]
    fleet = start_fleet(fleet_text("", adapters=entries))
    (gone / "adapter_config.json").rename(tmp_path / "kept.json")
    found = (await fleet.until("ready")).adapters
    assert found == {"tone": None, "gone": f"the engine refused it: No adapter found for {gone}"}
    (tmp_path / "kept.json").rename(gone / "adapter_config.json")
    await until(lambda: fleet.state().adapters == {"tone": None, "gone": None}, "another attempt")
    _, listed = await ask(fleet, get_request("/v1/models"))
    assert [row["id"] for row in json.loads(listed)["data"]] == ["pebble-chat", "tone", "gone"]
    os.kill(fleet.state().pid or 0, signal.SIGKILL)
    await until(lambda: fleet.state().restarts == 1 and fleet.state().condition == "ready", "a restart")
    assert fleet.state().adapters == {"tone": None, "gone": None}
    assert "adapter tone loaded" in fleet.shown()


async def test_an_unrequested_exit_with_status_0_is_a_crash(start_fleet: StartFleet) -> None:
    """vLLM ends with exit status 0 when its core has died."""
    fleet = start_fleet()
    pid = (await fleet.until("ready")).pid
    assert pid
    os.kill(pid, signal.SIGTERM)
    await until(lambda: fleet.state().restarts == 1 and fleet.state().condition == "ready")
    assert any("exit status 0" in line for line in fleet.shown())


async def test_backoff_starts_anew_after_a_stable_run(start_fleet: StartFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STABLE_AFTER", 0.0)
    fleet = start_fleet(fleet_text("broken"))
    await until(lambda: fleet.state().restarts >= 3)
    assert not any("again in 0.1 s" in line for line in fleet.output)


async def test_too_little_memory(start_fleet: StartFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "required_memory", lambda served: 2**62)
    fleet = start_fleet()
    failed = await fleet.until("failed")
    assert failed.reason
    assert failed.reason.startswith("not enough memory for another engine: it needs about 4294967296.0 GiB and ")
    assert "VLLM_CPU_KVCACHE_SPACE" in failed.reason
    assert not fleet.processes()
    monkeypatch.setattr(memory_check, "required_memory", lambda served: 1)
    await fleet.until("ready")


@pytest.fixture
def pulled(tmp_path: Path) -> Path:
    """A directory of weights with a manifest that matches them."""
    directory = tmp_path / "pulled"
    shutil.copytree(ROOT / "models/pebble/pebble-chat", directory)
    files = {
        name: File(size=(directory / name).stat().st_size, sha256=sha256(directory / name))
        for name in manifest.files(directory)
    }
    manifest.write(directory, Manifest(model="x", repository="a/b", revision=None, source="", made_by="", files=files))
    return directory


async def test_weights_that_match_their_manifest_are_served(start_fleet: StartFleet, pulled: Path) -> None:
    fleet = start_fleet(fleet_text("", weights=str(pulled)))
    await fleet.until("ready")
    assert fleet.shown()[1:3] == ["starting, verifying the weights", "starting, importing vLLM"]


async def test_weights_that_differ_from_their_manifest_are_not_served(start_fleet: StartFleet, pulled: Path) -> None:
    weights = pulled / "model.safetensors"
    original = weights.read_bytes()
    weights.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    (pulled / "tokenizer.json").unlink()
    fleet = start_fleet(fleet_text("", weights=str(pulled)))
    await until(lambda: fleet.state().restarts >= 2, "two attempts")
    failed = next(line for line in fleet.shown() if line.startswith("failed"))
    assert f"its weights are not what was pulled: {weights} has SHA-256 " in failed
    assert failed.endswith(", and 1 more differ")
    assert not any("importing vLLM" in line for line in fleet.output)
    assert not fleet.processes()
    shutil.copy(ROOT / "models/pebble/pebble-chat/tokenizer.json", pulled)
    weights.write_bytes(original)
    await fleet.until("ready")


async def test_stopping_aborts_the_verification(
    start_fleet: StartFleet, pulled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, ended = threading.Event(), threading.Event()

    def endless(directory: Path, advance: Callable[[int], None]) -> list[manifest.Problem]:
        started.set()
        try:
            while True:
                advance(1)
        finally:
            ended.set()

    monkeypatch.setattr(manifest, "verify", endless)
    fleet = start_fleet(fleet_text("", weights=str(pulled)))
    await until(started.is_set)
    await fleet.supervisors[0].stop()
    await until(ended.is_set, "the end of the thread")
    assert not any("importing vLLM" in line for line in fleet.output)


async def test_memory_is_not_checked_for_an_engine_on_a_gpu(
    start_fleet: StartFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_check, "required_memory", lambda served: 2**62)
    await start_fleet(fleet_text("", gpus=1)).until("ready")


LONG_CHAT = CHAT.body(stream=True) | {"messages": [{"role": "user", "content": "word " * 9}]}


@pytest.mark.parametrize("stream", [True, False])
async def test_stopping_lets_running_requests_finish(stream: bool, start_fleet: StartFleet) -> None:
    fleet = start_fleet(fleet_text("patient"))
    await fleet.until("ready")
    response = asyncio.create_task(
        ask(fleet, post_request(CHAT.path, json.dumps(LONG_CHAT | {"stream": stream}).encode()))
    )
    await until_running(fleet)
    await fleet.supervisors[0].stop()
    status, body = await response
    assert status == 200
    assert body.count(b"word") >= 9
    assert body.endswith(b"data: [DONE]\n\n") == stream
    assert "draining 1" in (fleet.run_dir / "pebble-chat-0.log").read_text()
    assert fleet.shown()[-2:] == ["stopping, draining", "stopped"]
    assert not any("failed" in line for line in fleet.output)


async def test_an_engine_that_ignores_sigterm_is_killed(
    start_fleet: StartFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "EXIT_TIMEOUT", 0.1)
    fleet = start_fleet(fleet_text("stubborn"), drain_timeout=0.1)
    await fleet.until("ready")
    await fleet.supervisors[0].stop()
    await fleet.until_nothing_runs()
    assert fleet.state().condition == "stopped"


@pytest.mark.parametrize("moment", ["at once", "starting", "mute", "pausing"])
async def test_stopping_at_any_moment(moment: str, start_fleet: StartFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF", (60.0,))
    fleet = start_fleet(fleet_text("broken" if moment == "pausing" else "mute"))
    if moment == "starting":
        await until(lambda: bool(fleet.processes()))
    if moment == "mute":
        await until(lambda: fleet.state().phase == "waiting for its first token")
    if moment == "pausing":
        await fleet.until("failed")
    await fleet.supervisors[0].stop()
    assert not fleet.processes()
    await asyncio.sleep(CHECKS)
    assert (fleet.state().condition, fleet.state().reason) == ("stopped", None)
    assert not fleet.processes()


THREE = """
models:
  - {model: pebble-chat, env: {STAND_IN: mute}}
  - {model: pebble-instruct, env: {STAND_IN: mute}}
  - {model: pebble-base, env: {STAND_IN: mute}}
"""


async def test_the_first_engine_starts_alone_where_cores_are_short(
    start_fleet: StartFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    fleet = start_fleet(THREE.replace("STAND_IN: mute", "", 1))
    await fleet.until("ready", 0)
    for order in (1, 2):
        await fleet.until("starting", order)
        name = fleet.state(order).replica
        start = next(number for number, line in enumerate(fleet.output) if line.startswith(f"{name}  starting"))
        assert any(line.startswith("pebble-chat-0  ready") for line in fleet.output[:start])
    fleet.unblock()
    for order in (1, 2):
        await fleet.until("ready", order)


async def test_the_others_wait_while_the_first_engine_starts(
    start_fleet: StartFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    fleet = start_fleet(THREE)
    await fleet.until("starting")
    await asyncio.sleep(CHECKS)
    assert fleet.conditions() == ["starting", "waiting", "waiting"]


@pytest.mark.parametrize("startup", ["parallel", "auto"])
async def test_all_engines_start_in_parallel_where_cores_suffice(
    startup: str, start_fleet: StartFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2 if startup == "parallel" else 8)
    fleet = start_fleet(f"{THREE}startup: {startup}\n")
    await until(lambda: fleet.conditions() == ["starting"] * 3)


async def test_sequential_startup(start_fleet: StartFleet) -> None:
    fleet = start_fleet(f"{THREE}startup: sequential\n")
    fleet.unblock()
    for order in range(3):
        await fleet.until("ready", order)
    events = [line.split()[:2] for line in fleet.output if "ready" in line or "importing" in line]
    names = ("pebble-chat-0", "pebble-instruct-0", "pebble-base-0")
    assert [name for name, _ in events] == [name for name in names for _ in range(2)]


async def test_a_failed_engine_does_not_hold_up_the_others(
    start_fleet: StartFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF", (60.0,))
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    fleet = start_fleet(THREE.replace("mute", "broken", 1))
    fleet.unblock()
    await fleet.until("failed", 0)
    for order in (1, 2):
        await fleet.until("ready", order)


SECRETS = dict.fromkeys((
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "ROUNDHOUSE_API_KEY", "ROUNDHOUSE_ENGINE_KEY", "ROUNDHOUSE_CACHE_SECRET",
    "VLLM_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID",
    "S3_SECRET_ACCESS_KEY", "NVIDIA_API_KEY", "OTEL_EXPORTER_OTLP_HEADERS", "HTTPS_PROXY", "https_proxy",
    "SSH_AUTH_SOCK", "BENTOML_HOME", "PROMETHEUS_MULTIPROC_DIR", "PYTHONOPTIMIZE", "DATABASE_URL",
), "x")  # fmt: skip
# Without these an engine computes otherwise, or not at all.
NEEDED = {
    "HOME": "/root", "LC_CTYPE": "C.UTF-8", "CUDA_VISIBLE_DEVICES": "3", "LD_PRELOAD": "", "OMP_NUM_THREADS": "1",
    "VLLM_ATTENTION_BACKEND": "FLASHINFER", "VLLM_MULTI_STREAM_GEMM_TOKEN_THRESHOLD": "9", "TORCHDYNAMO_DISABLE": "1",
    "HF_HOME": "/cache",
}  # fmt: skip


async def test_a_started_engine_has_what_it_needs_of_the_environment_and_no_secret(
    start_fleet: StartFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**SECRETS, **NEEDED}.items():
        if name != "PYTHONOPTIMIZE":  # which the stand-in's parents would heed
            monkeypatch.setenv(name, value)
    fleet = start_fleet(ONE + "\nenv: {MINE: 1}")
    inside = psutil.Process((await fleet.until("ready")).pid or 0).environ()
    assert not SECRETS.keys() & inside.keys()
    assert NEEDED.items() <= inside.items()
    assert (inside["MINE"], inside["HF_HUB_OFFLINE"], inside["TRANSFORMERS_OFFLINE"]) == ("1", "1", "1")


def test_an_engine_that_downloads_its_weights_has_the_hubs_token(tmp_path: Path) -> None:
    inside = child_environment(fleets.only(tmp_path, "model: llama-2-7b\nenv: {HOME: /other}"), {**SECRETS, **NEEDED})
    assert inside.keys() & SECRETS.keys() == {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTPS_PROXY", "https_proxy"}
    assert inside["HOME"] == "/other"
    assert "HF_HUB_OFFLINE" not in inside


def test_required_memory(tmp_path: Path) -> None:
    small = fleets.only(tmp_path, "model: pebble-chat\nenv: {VLLM_CPU_KVCACHE_SPACE: 1}")
    weights = (Path(small.weights) / "model.safetensors").stat().st_size
    assert memory_check.required_memory(small) == PROCESSES_BYTES + weights + 2**30
    other = fleets.only(tmp_path, "model: org/tune-chat")
    assert memory_check.required_memory(other) == PROCESSES_BYTES + 4 * 2**30


@pytest.mark.parametrize("space", ["", "0.5", "much", "-1", "1e3"])
def test_required_memory_where_the_cache_has_no_size(space: str, tmp_path: Path) -> None:
    served = fleets.only(tmp_path, "model: org/tune-chat")
    odd = replace(served, env={"VLLM_CPU_KVCACHE_SPACE": space})
    assert memory_check.required_memory(odd) == memory_check.required_memory(served)


@pytest.mark.parametrize(("entry", "path"), [("model: pebble-base", "/v1/completions"),
                                             ("model: acme/tiny-embedding", EMBEDDING.path)])  # fmt: skip
def test_the_probe_request_of_a_variant(entry: str, path: str, tmp_path: Path) -> None:
    served = fleets.only(tmp_path, entry)
    found, body = probe_request(served)
    assert found == path
    assert json.loads(body)["model"] == served.id


MISSING_FLAGS = (
    "models: [{{model: pebble-chat, env: {{LACKS: '{lacks}'}}, engine: {{new_one: 1}}, optional_flags: [{optional}]}}]"
)


async def test_unknown_optional_flags_are_left_out(start_fleet: StartFleet) -> None:
    text = MISSING_FLAGS.format(lacks="--max-num-queued-reqs --new-one", optional="new_one")
    fleet = start_fleet(text)
    ready = await fleet.until("ready")
    assert (ready.restarts, ready.reason) == (0, None), "it does not count as a crash"
    phase = "again without --max-num-queued-reqs, --new-one, unknown to this vLLM"
    assert [line for line in fleet.output if phase in line]
    assert phase in (fleet.run_dir / "pebble-chat-0.log").read_text()


async def test_an_unknown_required_flag_is_an_error(start_fleet: StartFleet) -> None:
    text = MISSING_FLAGS.format(lacks="--max-num-queued-reqs --new-one", optional="")
    fleet = start_fleet(text)
    failed = await fleet.until("failed")
    assert failed.reason
    assert failed.reason.startswith("this vLLM does not know --new-one:")
    assert "list it in 'optional_flags'" in failed.reason


HUNG = "it hangs: no progress for 1 s (probe request: no byte for "


@pytest.mark.parametrize(
    ("number", "metrics"), [(signal.SIGUSR1, "metrics unchanged)"), (signal.SIGSTOP, "metrics: no byte for ")]
)
async def test_a_hung_engine_is_restarted(
    number: signal.Signals, metrics: str, start_fleet: StartFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either its core alone hangs, and `/health` still answers 200, or all of it."""
    if number == signal.SIGSTOP:
        monkeypatch.setattr(watchdog, "SCRAPE", HURRIED)
    fleet = start_fleet(hang_timeout=1.0)
    first = await fleet.until("ready")
    assert first.pid
    os.kill(first.pid, number)
    if number == signal.SIGUSR1:
        await until(lambda: "frozen" in fleet.log())
        assert (await ask(fleet, get_request("/health")))[0] == 200
        assert fleet.state().condition == "ready"
    await until(
        lambda: fleet.state().restarts == 1 and fleet.state().condition == "ready",
        f"a restart (output: {fleet.output})",
    )
    failed = next(line for line in fleet.shown() if line.startswith("failed"))
    assert failed.startswith(f"failed, starts again in 0.05 s, {HUNG}")
    assert metrics in failed
    assert fleet.state().pid != first.pid
    assert not psutil.pid_exists(first.pid)


async def test_an_idle_engine_is_not_restarted(start_fleet: StartFleet) -> None:
    fleet = start_fleet(hang_timeout=0.4)
    await fleet.until("ready")
    before = (await stats(fleet)).tokens

    async def answered_probes() -> bool:
        return (await stats(fleet)).tokens >= before + 10

    await until(answered_probes, "answers to the probe requests of an idle engine")
    assert fleet.shown()[-1] == "ready"


async def test_a_hung_start_is_retried(start_fleet: StartFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = [0.0]  # seconds by which the clock of the readiness check is
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + ahead[0])
    monkeypatch.setattr(readiness, "time", clock)
    monkeypatch.setattr(readiness, "HEALTH_CHECK", HURRIED)
    fleet = start_fleet(fleet_text("early"))
    address = str(state.socket_path(fleet.run_dir, 0))

    async def listens() -> bool:
        return not await ConnectionPool().refuses(address)

    await until(listens, f"the engine's socket (output: {fleet.output})")
    ahead[0] = readiness.MAX_SILENCE + 1
    await until(lambda: fleet.state().restarts == 1, f"a restart (output: {fleet.output})")
    (reason,) = {line for line in fleet.shown() if line.startswith("failed")}
    assert (
        f"its start hangs: no log output and no use of CPU for {readiness.MAX_SILENCE:g} s, and no byte for 0.25 s"
        in reason
    )
    fleet.unblock()
    await fleet.until("ready")


ON_DEMAND = {"min_replicas": 1, "max_replicas": 2}
GATEWAY_PID = os.getpid()  # some live process


async def test_a_replica_on_demand_starts_and_stops_with_demand(start_fleet: StartFleet) -> None:
    fleet = start_fleet(fleet_text("", **ON_DEMAND))
    assert fleet.conditions() == ["waiting", "scaled_to_zero"]
    await fleet.until("ready", 0)
    await asyncio.sleep(CHECKS)
    assert fleet.state(1).condition == "scaled_to_zero"
    assert not [process for process in fleet.processes() if "e1.sock" in " ".join(process.cmdline())]
    demand.write(fleet.run_dir, GATEWAY_PID, [1])
    await fleet.until("ready", 1)
    assert (await ask(fleet, get_request("/health"), 1))[0] == 200
    demand.write(fleet.run_dir, GATEWAY_PID, [])
    await fleet.until("scaled_to_zero", 1)
    assert not [process for process in fleet.processes() if "e1.sock" in " ".join(process.cmdline())]
    assert fleet.state(0).condition == "ready"
    conditions = [line for line in fleet.shown(1) if not line.startswith("starting")]
    assert conditions == [
        "scaled to zero, starts on demand", "waiting, queued for startup", "ready", "stopping, scaling down: no demand",
        "scaled to zero, starts on demand",
    ]  # fmt: skip
    demand.write(fleet.run_dir, GATEWAY_PID, [1])
    assert (await fleet.until("ready", 1)).restarts == 0


async def test_a_replica_scaled_to_zero_does_not_hold_up_the_others(start_fleet: StartFleet) -> None:
    entries = [{"model": "pebble-chat", "min_replicas": 0}, {"model": "pebble-base"}]
    fleet = start_fleet(json.dumps({"models": entries, "startup": "sequential"}))
    await fleet.until("ready", 1)
    assert fleet.state(0).condition == "scaled_to_zero"


async def test_two_replicas_activated_at_once_start_sequentially(start_fleet: StartFleet) -> None:
    entries = [
        {"model": model, "min_replicas": 0, "env": {"STAND_IN": "mute"}} for model in ("pebble-chat", "pebble-base")
    ]
    fleet = start_fleet(json.dumps({"models": entries, "startup": "sequential"}))
    demand.write(fleet.run_dir, GATEWAY_PID, [0, 1])
    await fleet.until("starting", 0)
    await asyncio.sleep(CHECKS)
    assert fleet.conditions() == ["starting", "waiting"]
    fleet.unblock()
    await fleet.until("ready", 1)


async def test_scaling_down_lets_running_requests_finish(start_fleet: StartFleet) -> None:
    fleet = start_fleet(fleet_text("patient", min_replicas=0))
    demand.write(fleet.run_dir, GATEWAY_PID, [0])
    await fleet.until("ready")
    response = await running_request(fleet)
    demand.write(fleet.run_dir, GATEWAY_PID, [])
    status, body = await response
    assert (status, body.count(b"word") >= 9, body.endswith(b"data: [DONE]\n\n")) == (200, True, True)
    await fleet.until("scaled_to_zero")
    assert "draining 1" in (fleet.run_dir / "pebble-chat-0.log").read_text()


async def test_demand_that_returns_at_once_cancels_scaling_down(
    start_fleet: StartFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = start_fleet(fleet_text("", min_replicas=0))
    demand.write(fleet.run_dir, GATEWAY_PID, [0])
    pid = (await fleet.until("ready")).pid
    monkeypatch.setattr(supervisor, "PROPAGATION", 0.5)
    demand.write(fleet.run_dir, GATEWAY_PID, [])
    await fleet.until("stopping")
    demand.write(fleet.run_dir, GATEWAY_PID, [0])
    assert (await fleet.until("ready")).pid == pid


async def test_stopping_while_scaling_down_lets_running_requests_finish(
    start_fleet: StartFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = start_fleet(fleet_text("patient", min_replicas=0))
    demand.write(fleet.run_dir, GATEWAY_PID, [0])
    await fleet.until("ready")
    response = await running_request(fleet)
    monkeypatch.setattr(supervisor, "EXIT_TIMEOUT", 0.1)
    demand.write(fleet.run_dir, GATEWAY_PID, [])
    await fleet.until("stopping")
    await fleet.supervisors[0].stop()
    _, body = await response
    assert body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("moment", ["scaled_to_zero", "scaling down"])
async def test_stopping_a_replica_on_demand(
    moment: str, start_fleet: StartFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = start_fleet(fleet_text("", min_replicas=0))
    if moment != "scaled_to_zero":
        demand.write(fleet.run_dir, GATEWAY_PID, [0])
        await fleet.until("ready")
        demand.write(fleet.run_dir, GATEWAY_PID, [])
        await fleet.until("stopping")
    await fleet.supervisors[0].stop()
    await asyncio.sleep(CHECKS)
    assert fleet.state().condition == "stopped"
    assert not fleet.processes()


async def test_draining_gateways_finish_before_the_engine_stops(start_fleet: StartFleet) -> None:
    fleet = start_fleet()
    await fleet.until("ready")
    gateway_registry.register(fleet.run_dir, GATEWAY_PID)
    gateway_registry.mark_draining(fleet.run_dir, GATEWAY_PID)
    stopping = asyncio.create_task(fleet.supervisors[0].stop())
    await asyncio.sleep(CHECKS)
    assert fleet.state().condition == "ready", "requests that the gateway has accepted may still arrive"
    assert (await ask(fleet, post_request(CHAT.path, json.dumps(CHAT.body()).encode())))[0] == 200
    gateway_registry.unregister(fleet.run_dir, GATEWAY_PID)
    await stopping
    assert fleet.shown()[-2:] == ["stopping, draining", "stopped"]


async def test_requests_are_answered_until_gateways_have_seen_the_engine_stop(
    start_fleet: StartFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = start_fleet()
    await fleet.until("ready")
    gateway_registry.register(fleet.run_dir, GATEWAY_PID)
    answered, slept = asyncio.Event(), list[tuple[str, float]]()

    async def sleep(seconds: float) -> None:
        slept.append((fleet.state().condition, seconds))
        if fleet.state().condition == "stopping":
            await answered.wait()

    monkeypatch.setattr(gateway_registry, "asyncio", SimpleNamespace(sleep=sleep))
    stopping = asyncio.create_task(fleet.supervisors[0].stop())
    await until(lambda: ("stopping", supervisor.PROPAGATION) in slept)
    status, _ = await ask(fleet, post_request(CHAT.path, json.dumps(CHAT.body()).encode()))
    assert status == 200, "a gateway may not have seen the new state yet"
    answered.set()
    await stopping


async def test_a_gateway_that_never_finishes_draining_does_not_block_the_stop(start_fleet: StartFleet) -> None:
    fleet = start_fleet(drain_timeout=0.5)
    await fleet.until("ready")
    gateway_registry.mark_draining(fleet.run_dir, GATEWAY_PID)
    await fleet.supervisors[0].stop()
    assert fleet.state().condition == "stopped"


async def test_a_full_disk_does_not_prevent_a_restart(start_fleet: StartFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = start_fleet()
    pid = (await fleet.until("ready")).pid
    assert pid
    write, full = state.write, True

    def fail(run_dir: Path, new: EngineState) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(run_dir, new)

    monkeypatch.setattr(state, "write", fail)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: fleet.shown()[-1] == "ready" and len(fleet.shown()) > 10, f"a restart (output: {fleet.output})")
    assert fleet.state().pid == pid, "the file could not be written"
    (line,) = (line for line in fleet.shown() if "cannot be written" in line)
    problem = "[Errno 28] No space left on device"
    assert line == f"its state file cannot be written, so the gateways do not see this state: {problem}"
    full = False
    await until(lambda: fleet.state().restarts == 1, "the state file to be written at last")
    assert fleet.state().condition == "ready"


async def test_phases_are_shown_though_the_log_file_cannot_be_written(start_fleet: StartFleet, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/pebble-chat-0.log").mkdir()
    fleet = start_fleet()
    await fleet.until("ready")
    assert "starting, loading weights" in fleet.shown()


async def test_a_socket_path_that_cannot_be_replaced(start_fleet: StartFleet, tmp_path: Path) -> None:
    (tmp_path / "run/e0.sock").mkdir(parents=True)
    fleet = start_fleet()
    failed = await fleet.until("failed")
    assert failed.reason
    assert failed.reason.startswith("it could not be started: [Errno 21] Is a directory: ")
    (fleet.run_dir / "e0.sock").rmdir()
    await fleet.until("ready")
