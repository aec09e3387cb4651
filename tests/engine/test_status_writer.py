"""The state that a supervisor publishes: how long each phase of a start took."""

from pathlib import Path

import pytest

from service.engine import state
from service.engine.state import EngineState
from service.engine.status_writer import PHASES, StatusWriter


def test_a_start_notes_how_long_each_phase_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("service.engine.status_writer.time.monotonic", lambda: now[0])
    writer = StatusWriter(tmp_path, EngineState("m-0", "m", 0, "waiting"), lambda _: None)

    def shown() -> dict[str, float]:
        found = state.read(tmp_path, 0)
        assert found
        return found.start_phases

    for start in (1.0, 100.0):
        now[0] = start
        writer.show("starting", "importing vLLM")
        assert shown() == {}
        now[0] += 20
        for line, _ in PHASES[:2]:
            writer.log(f"INFO {line}: x")
        now[0] += 3
        writer.show("ready")
        took = {"importing vLLM": 20, "reading the model's configuration": 0, "starting the engine core": 3}
        assert shown() == took
        now[0] += 50
        writer.show("stopping", "draining")
        assert shown() == took
    writer.close()
