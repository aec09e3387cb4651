"""The BentoML service of one replica."""

from pathlib import Path

import pytest

from service.config.settings import Settings
from service.engine import service
from service.engine.service import Progress, engine_service
from tests.support import fleets
from tests.support.gateways import ONE


async def test_the_last_progress_line_is_written_before_the_process_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleets.load(tmp_path, ONE)
    with (tmp_path / "log").open("wb") as log:
        monkeypatch.setattr(service, "STANDARD_ERROR", log.fileno())
        engine = engine_service(fleet.served[0], 0, 0, fleet, Settings(run_dir=tmp_path), Progress()).inner()
        await engine.stop()
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines == ["roundhouse  pebble-chat-0  stopping, draining", "roundhouse  pebble-chat-0  stopped"]
