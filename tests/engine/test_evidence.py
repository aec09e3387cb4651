"""What is kept of engines that hang, crash or do not start, with a stand-in for vLLM."""

import asyncio
import json
import os
import signal
import stat
from pathlib import Path
from typing import Any

import psutil
import pytest

from service.engine import bundles, evidence, watchdog
from service.engine.bundles import Bundle
from service.engine.evidence import without_secrets
from service.engine.log_end import redacted
from service.transport.pool import post_request
from tests.engine.test_supervisor import HURRIED, StartedFleet, StartFleet, ask, fleet_text, start_fleet
from tests.support.exchanges import CHAT
from tests.support.waiting import PATIENCE, until

__all__ = ["start_fleet"]

CANARY = "lapwing"
ON: dict[str, Any] = {"evidence": True, "hang_timeout": 1.0}


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that starts slowly on a busy machine is not given up."""
    monkeypatch.setattr(evidence, "LIMIT", PATIENCE)


def kept(fleet: StartedFleet) -> list[Bundle]:
    return bundles.read(fleet.run_dir / "evidence")


async def restarted(fleet: StartedFleet) -> Bundle:
    """The bundle of the first failure, once the engine is ready again."""
    await until(
        lambda: fleet.state().restarts == 1 and fleet.state().condition == "ready",
        f"a restart (output: {fleet.output})",
    )
    (bundle,) = kept(fleet)
    return bundle


@pytest.mark.parametrize(("fault", "number"), [("spin", signal.SIGUSR1), ("", signal.SIGSTOP)])
async def test_a_hung_engine_leaves_its_stacks(
    fault: str, number: signal.Signals, start_fleet: StartFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its process spins, holding the GIL, or is stopped; and nothing of what it was asked."""
    monkeypatch.setenv("VLLM_OF_THE_SHELL", CANARY)
    monkeypatch.setattr(watchdog, "SCRAPE", HURRIED)
    fleet = start_fleet(fleet_text(fault), **ON)
    first = await fleet.until("ready")
    assert first.pid
    body = CHAT.body() | {"messages": [{"role": "user", "content": f"{CANARY} {CANARY}"}]}
    assert (await ask(fleet, post_request(CHAT.path, json.dumps(body).encode())))[0] == 200
    os.kill(first.pid, number)
    bundle = await restarted(fleet)
    about = bundle.summary
    assert (about["cause"], about["replica"], about["exit_status"], about["complete"]) == (
        "hang", "pebble-chat-0", None, True,
    )  # fmt: skip
    assert about["reason"].startswith("it hangs: no progress for 1 s")
    assert about["took_s"] < evidence.LIMIT
    (process,) = about["processes"]
    assert (process["pid"], process["state"]) == (first.pid, "running" if fault else "stopped")
    assert "in run_forever" in (bundle.path / "stacks.txt").read_text()
    assert ("spin_for_ever" in about["main_thread"]["frames"][0]) == bool(fault)
    figures = json.loads((bundle.path / "figures.json").read_text())
    assert figures[-1]["tokens"] > 0
    log = (bundle.path / "log.txt").read_text()
    assert "Starting vLLM server" in log
    assert ("TemplateError" in log) == bool(fault)
    assert (bundle.path / "card.txt").read_text()
    assert "--uds" in about["argv"]
    assert about["environment"]["PYTHONUNBUFFERED"] == "1"
    assert about["environment"]["PATH"] is None
    assert "VLLM_OF_THE_SHELL" in about["environment"]
    assert not [file.name for file in bundle.path.iterdir() if CANARY in file.read_text()]
    assert {stat.S_IMODE(file.stat().st_mode) for file in bundle.path.iterdir()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (bundle.path, bundle.path.parent)} == {0o700}
    failed = next(line for line in fleet.output if "failed, starts again" in line)
    assert f"(evidence {bundle.id})" in failed
    assert fleet.state().evidence
    assert any(line.endswith(f"its evidence is in {bundle.path}") for line in fleet.output)


async def test_a_crash_by_a_signal_leaves_the_stack_of_the_thread(start_fleet: StartFleet) -> None:
    fleet = start_fleet(fleet_text(""), **ON)
    first = await fleet.until("ready")
    assert first.pid
    os.kill(first.pid, signal.SIGSEGV)
    bundle = await restarted(fleet)
    assert (bundle.summary["cause"], bundle.summary["exit_status"]) == ("crash", -signal.SIGSEGV)
    assert bundle.summary["main_thread"]["pid"] == first.pid
    assert bundle.summary["main_thread"]["frames"]
    assert "no process of the engine was left to look at" in bundle.summary["notes"]
    assert "Fatal Python error: Segmentation fault" in (bundle.path / "stacks.txt").read_text()


async def test_a_failed_start_leaves_its_log(start_fleet: StartFleet) -> None:
    fleet = start_fleet(fleet_text("broken"), **ON | {"evidence_bundles": 2})
    await until(lambda: fleet.state().restarts >= 4)
    for bundle in kept(fleet):
        assert bundle.summary["cause"] == "failed_start"
        assert bundle.summary["reason"].endswith("ValueError: the weights are broken")
        assert "ValueError: the weights are broken" in (bundle.path / "log.txt").read_text()
    assert 1 <= len(kept(fleet)) <= 2


@pytest.mark.parametrize("why", ["no folder", "no time"])
async def test_an_engine_restarts_though_nothing_can_be_kept(
    why: str, start_fleet: StartFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    (tmp_path / "file").touch()
    if why == "no time":
        monkeypatch.setattr(evidence, "LIMIT", 0.0)
    folder = {"evidence_dir": tmp_path / "file/evidence"} if why == "no folder" else {}
    fleet = start_fleet(fleet_text("broken"), **ON | folder)
    await until(lambda: fleet.state().restarts >= 3)
    (line,) = [line for line in fleet.output if "no evidence could be kept" in line]
    assert ("it took longer than 0 s" if why == "no time" else "Not a directory") in line
    assert not [line for line in fleet.output if "(evidence " in line]
    await until(lambda: bool((found := fleet.state().evidence) and found.kept is False))


async def test_a_stop_waits_for_the_program_that_took_too_long(
    start_fleet: StartFleet, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Its pipe would stay open. The program is stopped here instead of killed, so that it has not gone meanwhile."""
    monkeypatch.setattr(evidence, "LIMIT", 0.0)
    monkeypatch.setattr(evidence, "END_LIMIT", PATIENCE)
    slow: list[psutil.Process] = []

    def stopped(group: int, _: int) -> None:
        slow.append(psutil.Process(group))
        slow[0].suspend()

    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", stopped)
        fleet = start_fleet(fleet_text("broken"), **ON)
        await until(lambda: bool(slow))
    stop = asyncio.create_task(fleet.supervisors[0].stop())
    await until(lambda: fleet.state().phase == "draining", "the beginning of the stop")
    for _ in range(20):  # iterations of the loop, in any of which a stop that waits for nothing ends
        await asyncio.sleep(0.01)
    assert not stop.done()
    slow[0].kill()
    await stop
    assert not slow[0].is_running()


BUNDLES = [
    Bundle(f"20261128T03000000{number}-{series}", Path(), 10, {})
    for number, series in enumerate(
        ["a-0-hang", "a-0-failed_start", "b-0-crash", "a-0-failed_start", "b-0-failed_start"]
    )
]


@pytest.mark.parametrize(
    ("most", "most_bytes", "dropped"),
    [(5, 50, []), (4, 50, [1]), (3, 50, [1, 0]), (5, 25, [1, 0, 2]), (0, 50, [1, 0, 2, 3, 4])],
)
def test_what_is_dropped(most: int, most_bytes: int, dropped: list[int]) -> None:
    """The oldest first, but for failed starts of which a newer one is there: they would push out what began it all."""
    assert bundles.surplus(BUNDLES, most, most_bytes) == [BUNDLES[number] for number in dropped]


LINES = {
    "ValidationError: lapwing": "ValidationError: …",
    "  Input is wrong [type=x, input_value='lapwing', input_type=str]": "  Input is wrong [type=x, input_value= …",
    "prompt: lapwing, params: None": "prompt: …",
    "cannot read 'lapwing' here": "cannot read … here",
    'cannot read "lapwing': "cannot read …",
    "ids [11, 12, 13, 14, 15]": "ids [ …",
    "RuntimeError: CUDA error: an illegal memory access was encountered": None,
    '  File "/x/core.py", line 12, in step': None,
    "Engine 000: Avg prompt throughput: 0.5 tokens/s, Running: 1 reqs": None,
    "x" * 400: "x" * 300,
}


def test_the_log_quotes_nothing() -> None:
    assert list(redacted(LINES)) == [line if shown is None else shown for line, shown in LINES.items()]


def test_the_command_line_has_no_secrets() -> None:
    argv = ["x", "--api-key", "s1", "--hf-token=s2", "--tokenizer", "t", "--max-num-batched-tokens", "5"]
    shown = ["x", "--api-key", "…", "--hf-token=…", "--tokenizer", "t", "--max-num-batched-tokens", "5"]
    assert list(without_secrets(argv)) == shown
