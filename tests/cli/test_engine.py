"""`roundhouse engine`: one engine in the foreground, with a stand-in for vLLM, and a gateway's view of it."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from bench.processes import free_port
from service.cli.__main__ import main
from service.config.settings import VARIABLES
from tests.support.each import each
from tests.support.fleets import ROOT
from tests.support.services import wait_for
from tests.support.waiting import PATIENCE

KEY = "engine-key-0123456789"
SLOW = {"model": "pebble-chat", "max_tokens": 60, "messages": [{"role": "user", "content": "Hello " * 40}]}


class Engine:
    """A started command, its output, and the address that it was told."""

    def __init__(self, folder: Path, entry: dict[str, object], **environment: str) -> None:
        self.port, self.log = free_port(), folder / "log"
        fleet = folder / "fleet.yaml"
        # As the gateway has it, whose machine has none of the weights.
        elsewhere = {"model": "./nowhere", "variant": "base", "id": "other", "addresses": ["other:8000"]}
        fleet.write_text(json.dumps({"models": [elsewhere, {"model": "pebble-chat", **entry}]}))
        command = [sys.executable, "-m", "service.cli", "engine", "--fleet", str(fleet), "--model", "pebble-chat"]
        command += ["--host", "0.0.0.0", "--port", str(self.port)]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("ROUNDHOUSE_")}
        program = f"/usr/bin/env PYTHONPATH={ROOT} {sys.executable} -m tests.support.stand_in"
        given = {"ROUNDHOUSE_ENGINE_PROGRAM": program, "ROUNDHOUSE_ENGINE_KEY": KEY, "TMPDIR": str(folder)}
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=kept | given | environment, stdout=out, stderr=subprocess.STDOUT
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def until_ready(self) -> None:
        wait_for(lambda: "  ready after " in self.log.read_text() or self.process.poll() is not None, PATIENCE, "ready")
        assert self.process.poll() is None, self.log.read_text()

    def models(self, key: str) -> int:
        headers = {"authorization": f"Bearer {key}"}
        return httpx.get(f"{self.url}/v1/models", headers=headers, timeout=PATIENCE).status_code


Start = Callable[..., Engine]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Engine] = []

    def one(entry: dict[str, object] | None = None, **environment: str) -> Engine:
        started.append(Engine(tmp_path, {"addresses": ["pebble-chat:8000"], **(entry or {})}, **environment))
        return started[-1]

    yield one
    for engine in started:
        engine.process.kill()
        engine.process.wait()


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that is in use, so that nothing is started."""
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_it_serves_with_its_key_shows_the_engine_s_log_and_drains_on_sigterm(start: Start, tmp_path: Path) -> None:
    engine = start({
        "optional_flags": ["disable_custom_all_reduce"], "engine": {"disable_custom_all_reduce": True},
        "env": {"LACKS": "--disable-custom-all-reduce", "STAND_IN": "patient"},
    })  # fmt: skip
    engine.until_ready()
    assert httpx.get(f"{engine.url}/health", timeout=PATIENCE).status_code == 200
    assert [engine.models(key) for key in ("none", "another-key-0123456", KEY)] == [401, 401, 200]
    with httpx.stream(
        "POST", f"{engine.url}/v1/chat/completions", json={**SLOW, "stream": True}, timeout=PATIENCE,
        headers={"authorization": f"Bearer {KEY}"},
    ) as stream:  # fmt: skip
        lines = stream.iter_lines()
        next(lines)
        engine.process.send_signal(signal.SIGTERM)
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert engine.process.wait(PATIENCE) == 0
    log = engine.log.read_text()
    assert "non-default args" in log and "draining 1" in log
    assert "again without --disable-custom-all-reduce" in log
    assert KEY not in log
    assert not list(tmp_path.glob("roundhouse-*"))


def test_it_ends_with_1_when_the_engine_fails(start: Start) -> None:
    engine = start({"env": {"STAND_IN": "broken"}})
    assert engine.process.wait(PATIENCE) == 1
    assert (
        "pebble-chat-0  failed, the engine ended with exit status 1: ValueError: the weights" in engine.log.read_text()
    )


@each(
    ("entry", "environment", "message"),
    [
        ({}, {"ENGINE_KEY": ""}, "0.0.0.0 can be reached from other machines, and the engine has no key"),
        ({}, {"ENGINE_KEY_FILE": "/nowhere"}, "ROUNDHOUSE_ENGINE_KEY_FILE: ROUNDHOUSE_ENGINE_KEY is set as well"),
        ({"id": "mine"}, {}, "there is no model 'pebble-chat', only mine"),
        ({"weights": "/nowhere"}, {}, "models[0].weights: /nowhere does not exist"),
        ({}, {}, "cannot listen on 0.0.0.0"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(
    entry: dict[str, object], environment: dict[str, str], message: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken_port: int,
) -> None:  # fmt: skip
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in {"ENGINE_KEY": KEY, **environment}.items():
        monkeypatch.setenv(f"ROUNDHOUSE_{name}", value)
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(json.dumps({"models": [{"model": "pebble-chat", "addresses": ["other:80"], **entry}]}))
    words = ["engine", "--fleet", str(fleet), "--model", "pebble-chat", "--host", "0.0.0.0"]
    result = CliRunner().invoke(main, [*words, "--port", str(taken_port)])
    assert result.exit_code == (1 if "cannot" in message else 2), result.output
    assert message in result.stderr
