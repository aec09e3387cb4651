"""Three models in room for one on real vLLM, killed in the middle of swaps: each answers, and what waits is told so."""

import json
import os
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import msgspec
import pytest

from bench.skills import request
from models.pebble.skills import Case, Variant, held_out
from service.engine.state import EngineState, StateFile, state_path
from tests.support.services import serving, wait_for

FLEET = """
shares: {ram: {memory: 2.5GiB}}
models:
  - {model: pebble-chat, share: ram, memory: 2GiB}
  - {model: pebble-instruct, share: ram, memory: 2GiB}
  - {model: pebble-code, share: ram, memory: 2GiB}
engine: {enforce_eager: true, max_num_seqs: 8}
env: {VLLM_CPU_OMP_THREADS_BIND: nobind, OMP_NUM_THREADS: 1, TORCHDYNAMO_DISABLE: 1}
"""
ASKED: tuple[Variant, ...] = ("chat", "instruct", "chat", "chat", "code", "chat", "instruct")  # A B A A C A B
LIMIT = 800.0  # seconds for an answer, two loads before its own included


def ask(url: str, case: Case) -> tuple[str, list[str], float]:
    """The text that was streamed, the comments before it, and when it had ended."""
    path, body = request(case)
    headers = {"x-roundhouse-sse-heartbeat-interval": "1"}
    text, comments = "", []
    with httpx.stream(
        "POST", f"{url}/v1/{path}", json=body | {"stream": True}, headers=headers, timeout=LIMIT
    ) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if line.startswith(":"):
                comments.append(line[1:].strip())
            elif line.startswith("data: {"):
                event = json.loads(line[6:])
                assert "choices" in event, (event, comments)
                for choice in event["choices"]:
                    text += (choice["delta"].get("content") or "") if "delta" in choice else choice["text"]
    return text, comments, time.monotonic()


def arrived(url: str) -> int:
    """How many requests the gateway has admitted to a queue or to an engine."""
    page = httpx.get(f"{url}/metrics", timeout=LIMIT).text
    return int(sum(map(float, re.findall(r"^roundhouse_requests_arrived_total\{.*\} (\S+)$", page, re.MULTILINE))))


def kill_while_loading(run_dir: Path) -> None:
    """Kills the engine of the second model while it loads, then the supervisor of the third one while that does."""
    loading(run_dir, 1, lambda pid, state: pid == state.pid)
    loading(run_dir, 2, lambda pid, state: pid != state.pid)


def loading(run_dir: Path, order: int, which: Callable[[int, EngineState], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        with suppress(OSError, msgspec.DecodeError):
            file = msgspec.json.decode(state_path(run_dir, order).read_bytes(), type=StateFile)
            if file.state.condition == "starting" and len(file.processes) == 2:
                os.kill(next(pid for pid in file.processes if which(pid, file.state)), signal.SIGKILL)
                return
        time.sleep(0.05)
    raise TimeoutError(f"engine {order} never began to load")


@pytest.mark.engine
@pytest.mark.timeout(2 * LIMIT)
def test_three_models_in_room_for_one(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(FLEET)
    cases = {variant: iter(held_out(variant, 8, 7)) for variant in ASKED}
    with serving(fleet, tmp_path / "run", start_times=tmp_path / "start-times.json") as service:
        with ThreadPoolExecutor(len(ASKED) + 1) as pool:
            asked, answers = [], []
            killing = pool.submit(kill_while_loading, tmp_path / "run")
            for variant in ASKED:
                asked.append(next(cases[variant]))
                answers.append(pool.submit(ask, service.url, asked[-1]))
                wait_for(lambda: arrived(service.url) == len(asked), LIMIT, "the arrival of a request before the next")
            found = [answer.result() for answer in answers]
            killing.result()
        log = service.log.read_text()
    assert [text for text, _, _ in found] == [case.answer for case in asked]
    # Seven requests, three loads but for those that were killed: those for one model were answered together, in the
    # order in which the models waited. One that was killed waits anew.
    starts = re.findall(r"(pebble-\w+)-0  ready", log)
    assert starts == ["pebble-chat", "pebble-instruct", "pebble-code"]
    told = found[4][1]
    assert any(
        re.search(r"waiting for pebble-code: .*room in the memory that it shares, about \d+ s", one) for one in told
    )
    assert len(json.loads((tmp_path / "start-times.json").read_text())) == 1
