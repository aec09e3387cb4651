"""Flags that a release of vLLM was found not to know are left out of later starts."""

from pathlib import Path
from typing import Any

import pytest

from service.config.settings import Settings
from service.engine import unknown_flags
from service.engine.command import Command, child_environment
from tests.support import fleets

FLAG = "--max-num-queued-reqs"


def command(folder: Path, **settings: Any) -> Command:
    served = fleets.only(folder, "model: pebble-chat")
    return Command(served, 0, folder, Settings(engine_cache=folder / "cache", **settings), folder / "e0.sock")


def test_they_are_remembered_for_the_installed_release_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unknown_flags, "installed_release", lambda: "1.0")
    first = command(tmp_path)
    assert FLAG in first.build()
    assert first.leave_out(frozenset({FLAG})) is None
    assert FLAG not in first.build()
    assert FLAG not in command(tmp_path).build(), "another engine, or the next service"
    assert FLAG in command(tmp_path, engine_program="other --vllm").build()
    monkeypatch.setattr(unknown_flags, "installed_release", lambda: "2.0")
    assert FLAG in command(tmp_path).build()


@pytest.mark.parametrize("content", ["", "{", '{"a": 1}', "[1, null]", "\udcff"])
def test_a_file_that_makes_no_sense_costs_a_start(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unknown_flags, "installed_release", lambda: "1.0")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/unknown-flags-1.0.json").write_text(content, errors="surrogateescape")
    found = command(tmp_path)
    assert FLAG in found.build()
    found.leave_out(frozenset({FLAG}))
    assert FLAG not in command(tmp_path).build()


def test_a_folder_that_cannot_be_written_costs_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unknown_flags, "installed_release", lambda: "1.0")
    (tmp_path / "cache").write_text("")
    assert command(tmp_path).leave_out(frozenset({FLAG})) is None
    assert FLAG in command(tmp_path).build()


def test_what_torch_compiles_is_kept_where_vllm_keeps_what_it_compiles(tmp_path: Path) -> None:
    served, name = fleets.only(tmp_path, "model: pebble-chat"), "TORCHINDUCTOR_CACHE_DIR"
    assert name not in child_environment(served, {})
    assert child_environment(served, {"HOME": "/home/x"})[name] == "/home/x/.cache/vllm/inductor"
    assert child_environment(served, {"HOME": "/home/x", "XDG_CACHE_HOME": "/c"})[name] == "/c/vllm/inductor"
    assert child_environment(served, {"VLLM_CACHE_ROOT": "/var/cache/vllm"})[name] == "/var/cache/vllm/inductor"
    assert child_environment(served, {"VLLM_CACHE_ROOT": "/a", name: "/b"})[name] == "/b"
