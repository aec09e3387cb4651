"""The BentoML service of one replica, and its name."""

import re
from pathlib import Path

import pytest

from service.config.settings import Settings
from service.engine import worker
from service.engine.service import engine_service
from service.engine.worker import service_name
from tests.support import fleets
from tests.support.gateways import ONE


async def test_the_last_progress_line_is_written_before_the_process_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleets.load(tmp_path, ONE)
    with (tmp_path / "log").open("wb") as log:
        monkeypatch.setattr(worker, "STANDARD_ERROR", log.fileno())
        engine = engine_service(fleet.served[0], 0, 0, fleet, Settings(run_dir=tmp_path)).inner()
        await engine.stop()
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines == ["roundhouse  pebble-chat-0  stopping, draining", "roundhouse  pebble-chat-0  stopped"]


def test_an_ordinary_id_is_a_part_of_the_name() -> None:
    assert service_name("llama-2-13b_chat.v1", 1, 7) == "engine-llama-2-13b_chat.v1-1"


@pytest.mark.parametrize("model", ["qwen3:8b", "x@1", "claude[1m]", "模型", "größe"])
def test_other_ids_have_a_name_that_fits_into_a_command_line(model: str) -> None:
    names = {service_name(model, number, number) for number in range(3)} | {service_name("模x", 0, 3)}
    assert len(names) == 4
    assert all(re.fullmatch(r"engine-\d-[a-z0-9.-]+-\d", name) for name in names)
