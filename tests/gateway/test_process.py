"""A process of the gateway, from its start on."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from service.catalog import catalog
from service.config.paths import ROOT
from service.config.settings import Settings
from service.fleet import fleet
from service.gateway import process
from service.gateway.process import GatewayProcess
from tests.fake_engine import FakeEngine
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("restored_gc")


async def ready_after_start(folder: Path, addresses: list[str]) -> bool:
    """Whether the gateway has an engine to send the first request to."""
    (path := folder / "fleet.yaml").write_text(f"models: [{{model: pebble-chat, addresses: {addresses}}}]\n")
    settings, models = Settings(run_dir=folder, fleet=path), catalog.load(ROOT / "models")
    started = GatewayProcess(settings, models, fleet.load(path, models))
    await started.start()
    try:
        return started.is_ready()
    finally:
        await started.stop()


async def test_the_first_request_finds_engines_at_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another worker serves them already, this one does not refuse what it is asked."""
    monkeypatch.setattr(process, "FIRST_LOOK", PATIENCE)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(FakeEngine("pebble-chat").listen(tmp_path / "e.sock"))
        assert await ready_after_start(tmp_path, [str(tmp_path / "e.sock")])


async def test_engines_that_are_not_there_delay_no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "FIRST_LOOK", 0.1)
    assert not await ready_after_start(tmp_path, [str(tmp_path / "e.sock")])
