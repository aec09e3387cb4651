"""A gateway with a scripted engine, and a desk for the program that uses it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.programs import Desk
from tests.conftest import Start
from tests.fake_engine import FakeEngine
from tests.support.gateways import RunningGateway

FLEET = """
models: [{model: qwen3-8b}]
aliases: {claude-sonnet-5: qwen3-8b, gpt-5: qwen3-8b, gpt-5.5: qwen3-8b}
"""
CONTEXT = 40_960  # tokens, as the catalogue says


@pytest.fixture
async def gateway(start: Start) -> RunningGateway:
    running = await start(FLEET)
    running.engines[0].context = CONTEXT
    return running


@pytest.fixture
def engine(gateway: RunningGateway) -> FakeEngine:
    return gateway.engines[0]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    own = Desk.at(tmp_path)
    yield own
    own.clear()
