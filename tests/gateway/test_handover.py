"""What BentoML's command hands over to the supervisor: our workers, and no socket that nobody connects to."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from circus.sockets import CircusSocket
from circus.watcher import Watcher

from service.gateway import handover
from service.gateway.handover import Handover, plan
from service.gateway.worker import parsed

NAMES = ("gateway", "engine-pebble-chat-0")


def watcher(name: str, worker: str = "_bentoml_impl.worker.service") -> Any:
    words = [
        "-m",
        worker,
        "service.gateway.service:Gateway",
        "--service-name",
        name,
        "--fd",
        f"$(circus.sockets.{name})",
    ]
    words += [
        "--worker-id",
        "$(CIRCUS.WID)",
        "--args",
        "{}",
        "--ssl-version",
        "17",
        "--timeout-graceful-shutdown",
        "20",
    ]
    return Watcher(name=name, cmd=sys.executable, args=words, env={"A": "b"}, respawn=False, numprocesses=2)


@pytest.fixture
def sockets(tmp_path: Path) -> Any:
    found = [
        CircusSocket(name=NAMES[0], host="127.0.0.1", port=0, backlog=7),
        CircusSocket(name=NAMES[1], path=tmp_path / "x"),
    ]
    yield found
    for one in found:
        one.close()


def test_each_process_is_ours_as_bentoml_wants_it(sockets: Any, tmp_path: Path) -> None:
    found = json.loads(json.dumps(plan([watcher(name) for name in NAMES], sockets, tmp_path, [tmp_path])))
    assert [one["name"] for one in found["sockets"]] == ["gateway"] and found["sockets"][0]["backlog"] == 7
    for name, one in zip(NAMES, found["watchers"], strict=True):
        assert one["args"][:2] == ["-P", str(handover.WORKER)]
        assert (one["env"], one["respawn"], one["numprocesses"]) == ({"A": "b"}, False, 2)
        assert ("--fd" in one["args"]) == (name == "gateway")
        words = [{"$(circus.sockets.gateway)": "3", "$(CIRCUS.WID)": "2"}.get(word, word) for word in one["args"][2:]]
        options = parsed(words)
        assert (options.service_name, options.worker_id, options.timeout_graceful_shutdown) == (name, 2, 20)
        assert options.fd == (3 if name == "gateway" else None)
    assert found["arbiter"]["endpoint"] == f"ipc://{tmp_path}/ctl.sock", "nobody else may tell it what to run"
    assert found["remove"] == [str(tmp_path)]


def test_another_way_to_start_workers_is_refused(sockets: Any, tmp_path: Path) -> None:
    with pytest.raises(ImportError, match="starts its workers in another way"):
        plan([watcher("gateway", "bentoml.new")], sockets, tmp_path, [])


def test_an_option_that_bentoml_has_not_had_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(["x", "--service-name", "gateway", "--new", "y"])
    assert "unrecognized arguments: --new y" in capsys.readouterr().err


def test_the_command_becomes_the_supervisor(sockets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words: list[str] = []
    closed: list[str] = []
    monkeypatch.setattr(os, "execv", lambda program, argv: words.extend(argv))
    one = Handover([watcher("gateway")], sockets, tmp_path, [])
    one.exit_stack.callback(closed.append, "BentoML's folder")
    one.start(lambda _: closed.append("said that it starts"))
    assert closed == ["said that it starts", "BentoML's folder"]
    assert words[:3] == [sys.executable, "-P", str(handover.SUPERVISOR)]
    with os.fdopen(int(words[3]), "rb") as file:
        assert os.get_inheritable(file.fileno())
        assert [one["name"] for one in json.load(file)["watchers"]] == ["gateway"]
