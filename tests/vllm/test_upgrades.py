"""`roundhouse upgrade` on real engines, with requests that keep coming: the same model again passes and gets all of the
traffic, a changed template is refused, and one whose engine dies gives everything back."""

import json
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from models.pebble import skills
from service.cli.__main__ import main
from service.engine import state
from tests.support.fleets import ROOT
from tests.support.services import Service, serving, wait_for

pytestmark = pytest.mark.engine

OLD, SAME, OTHER = "pebble-chat", "pebble-chat-again", "pebble-chat-other"
ON_DEMAND = f"aliases: [support], weight: 0, min_replicas: 0, fallback: [{OLD}]"
FLEET = f"""\
models:
  - {{model: {OLD}, aliases: [support], weight: 100}}
  - {{model: {OLD}, id: {SAME}, {ON_DEMAND}}}
  - {{model: {OLD}, id: {OTHER}, chat_template: ./other.jinja, {ON_DEMAND}}}
engine:{(ROOT / "deploy/fleets/pebble.yaml").read_text().partition("engine:")[2]}"""
# As a release of a model may change it: one line break less.
TEMPLATE = (ROOT / "models/pebble" / OLD / "chat_template.jinja").read_text()
CASES = skills.held_out("chat", 60)
SHORT = ("--steps", "50,100", "--watch", "2", "--least", "6", "--slower", "20", "--golden")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("upgrades")
    (folder / "other.jinja").write_text(TEMPLATE.replace(r"\n", "", 1))
    golden = [{"messages": [one.json() for one in case.messages], "max_tokens": 16} for case in CASES[:3]]
    (folder / "golden.jsonl").write_text("".join(json.dumps(one) + "\n" for one in golden))
    (folder / "fleet.yaml").write_text(FLEET)
    return folder / "fleet.yaml"


@pytest.fixture(scope="module")
def service(fleet: Path) -> Iterator[Service]:
    with serving(fleet, fleet.parent / "run", log_format="json") as one:
        yield one


class Load:
    """Conversations by the alias, each another one, every other one streamed: what came of them, and who answered."""

    def __init__(self, service: Service) -> None:
        self._service, self._ended = service, threading.Event()
        self.outcomes: Counter[str] = Counter()
        self.models: Counter[str] = Counter()

    def _send(self) -> None:
        number = 0
        with httpx.Client(base_url=self._service.url, timeout=300, verify=False) as client:
            while not self._ended.wait(0.1):
                number += 1
                messages = [one.json() for one in CASES[number % len(CASES)].messages]
                body = {"model": "support", "messages": messages, "max_tokens": 12, "stream": number % 2 == 0}
                answer = client.post("/v1/chat/completions", json=body)
                whole = number % 2 or answer.text.rstrip().endswith("[DONE]")
                self.outcomes["whole" if answer.status_code == 200 and whole else answer.text] += 1
                self.models[answer.headers.get("x-roundhouse-model", "")] += 1

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._send) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()


def upgrade(service: Service, fleet: Path, new: str, *words: str) -> tuple[int, str]:
    """The command from `OLD` to the new model: its exit status, and what it says."""
    options = [*SHORT, str(fleet.with_name("golden.jsonl")), *words]
    line = ["upgrade", OLD, new, "--fleet", str(fleet), "--url", service.url, *options]
    result = CliRunner().invoke(main, line)
    return result.exit_code, result.output


def weights(fleet: Path) -> list[int]:
    return [int(weight) for weight in re.findall(r"weight: (\d+)", fleet.read_text())]


def events(service: Service, name: str) -> Sequence[dict[str, object]]:
    lines = [line for line in service.log.read_text().splitlines() if line.startswith("{")]
    return [row for row in map(json.loads, lines) if row.get("event") == name]


def test_a_model_is_upgraded_refused_and_taken_back_and_no_request_is_lost(service: Service, fleet: Path) -> None:
    load = Load(service)
    with load.running():
        code, output = upgrade(service, fleet, OTHER)
        assert (code, weights(fleet)) == (3, [100, 0, 0]), output
        assert "golden.jsonl:1 is rendered otherwise; --allow-template lets it pass" in " ".join(output.split())
        assert load.models.keys() <= {OLD}, "a refused model gets nothing"

        code, output = upgrade(service, fleet, SAME)
        assert (code, weights(fleet)) == (0, [0, 100, 0]), output
        rows = service.models()
        assert [rows[id]["weight"] for id in (OLD, SAME)] == [0, 100]
        assert rows["support"]["weights"] == {OLD: 0, SAME: 100, OTHER: 0}
        assert [row["weights"] for row in events(service, "weights")] == [
            {OLD: 50, SAME: 50, OTHER: 0}, {OLD: 0, SAME: 100, OTHER: 0},
        ]  # fmt: skip

        fleet.write_text(FLEET)
        wait_for(lambda: service.models()[OLD]["weight"] == 100, 60, "the weights of the start")
        ended = threading.Event()
        killer = threading.Thread(target=kill_at_its_first_step, args=(service, fleet, ended))
        killer.start()
        code, output = upgrade(service, fleet, SAME, "--watch", "120", "--log", str(service.log), "--sample", "4")
        ended.set()
        killer.join()
        assert (code, weights(fleet)) == (3, [100, 0, 0]), output
        assert "4 requests with shapes of live ones" in output and "alarm at 50 %" in output
    assert load.models[OLD] and load.models[SAME] and not load.models[OTHER]
    broken = {what for what in load.outcomes if what != "whole"}
    assert all("data: " in what for what in broken), f"only streams that had begun broke off: {broken}"
    assert sum(load.outcomes[what] for what in broken) <= 2, load.outcomes


def kill_at_its_first_step(service: Service, fleet: Path, ended: threading.Event) -> None:
    while weights(fleet)[:2] != [50, 50] and not ended.wait(0.1):
        pass
    found = state.read(service.run_dir, 1)
    if found and found.pid and not ended.is_set():
        os.kill(found.pid, signal.SIGKILL)
