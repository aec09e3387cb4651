"""`roundhouse evidence`: what was kept is listed and shown."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from service.cli.__main__ import main
from service.engine import bundles
from service.engine.collect import Collection, Task
from tests.support.waiting import PATIENCE

ID = "20261128T034512123-pebble-chat-0-hang"
FIGURE = {"age_s": 1.5, "running": 2, "waiting": 0, "kv_usage": 0.25, "tokens": 12.0, "deferred": 0, "finished": 1}
STACK = """Thread 0x00007f0000000001 (most recent call first):
  File "/x/threading.py", line 5 in _bootstrap

Current thread 0x00007f0000000002 (most recent call first):
  File "/x/core.py", line 12 in step
  File "/x/core.py", line 3 in run_engine_core
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one bundle, of an engine whose processes have ended."""
    monkeypatch.setenv("ROUNDHOUSE_EVIDENCE_DIR", str(tmp_path / "evidence"))
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "stacks").mkdir()
    (tmp_path / "stacks/7.stack").write_text(f"Fatal Python error: Aborted\n\n{STACK}")
    summary = {
        "id": ID, "cause": "hang", "reason": "it hangs: \x1b[2J no progress", "replica": "pebble-chat-0",
        "time": "2026-11-28T03:45:12Z", "age_s": 70.5, "versions": {"vllm": "0.32.0"},
    }  # fmt: skip
    task = Task(
        ID, PATIENCE, str(tmp_path / "evidence"), 20, 2**20, str(tmp_path), 0, 0, str(tmp_path / "stacks"), [], summary,
        ["the last line"], [FIGURE],
    )  # fmt: skip
    Collection(task).run()
    return tmp_path / "evidence"


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["evidence", *words])


def test_a_bundle_is_listed_and_shown(folder: Path) -> None:
    listed, shown = run("list"), run("show", ID)
    assert listed.exit_code == shown.exit_code == 0
    assert [word in listed.output for word in (ID, "hang", "core.py:12 step")] == [True] * 3
    lines = shown.output.splitlines()
    assert lines[3].startswith("cause        it hung: it hangs: ")
    assert lines[4] == "when         2026-11-28T03:45:12Z, 70.5 s after its start began"
    assert lines[5:7] == ["main thread  core.py:12 step", "             core.py:3 run_engine_core"]
    for part in ("running 2, waiting 0, kv_usage 0.25", "  the last line", "Requests at the engine: 0", "Fatal Python"):
        assert part in shown.output
    assert "\x1b" not in listed.output + shown.output, "nothing that a terminal acts upon"


def test_all_of_it_as_json(folder: Path) -> None:
    (row,) = json.loads(run("list", "--json").output)
    assert (row["id"], row["cause"], row["path"]) == (ID, "hang", str(folder / ID))
    shown: dict[str, Any] = json.loads(run("show", ID, "--json").output)
    assert shown["summary"]["main_thread"] == {"pid": 7, "frames": ["core.py:12 step", "core.py:3 run_engine_core"]}
    assert (shown["figures"], shown["requests"], shown["log"]) == ([FIGURE], [], "the last line\n")


def test_no_such_bundle(folder: Path) -> None:
    for name in ("other", "../evidence", str(folder / ID)):
        result = run("show", name)
        assert result.exit_code == 1
        assert f"there is no evidence '{name}'; `roundhouse evidence list` shows what there is" in result.output


def test_a_bundle_that_is_broken_off_is_shown_all_the_same(folder: Path) -> None:
    (folder / ID / bundles.SUMMARY).write_text('{"id": ')
    (folder / ID / "figures.json").unlink()
    result = run("show", ID)
    assert result.exit_code == 0
    assert "it is not complete" in result.output
    assert ID in run("list").output


def test_without_a_setting_it_is_that_of_the_services_that_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROUNDHOUSE_EVIDENCE_DIR")
    (folder.parent / "roundhouse-x").mkdir()
    os.rename(folder, folder.parent / "roundhouse-x/evidence")  # noqa: PTH104
    monkeypatch.setattr("tempfile.tempdir", str(folder.parent))
    assert ID in run("list").output
