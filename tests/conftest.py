"""What every test may use: the event loop of production, and gateways that are checked and stopped afterwards."""

import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import settings

from service.admission.budgets import until_midnight
from service.catalog import catalog
from tests.support import gateways
from tests.support.fleets import CATALOG
from tests.support.gateways import ONE, RunningGateway
from tests.support.services import ROOT, Service, serving

pytest_plugins = (
    "tests.support.event_loop",
    "tests.support.pauses",
    "tests.support.scheduling",
    "tests.support.time_limits",
)

A_TEST = 30.0  # seconds that one may take, but for a machine that stands still

# How long an example takes says nothing on a machine that is busy.
settings.register_profile("untimed", deadline=None)
settings.register_profile("quick", settings.get_profile("untimed"), max_examples=20)  # `make test-fast`
settings.load_profile("untimed")


@pytest.fixture
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that run in this process do not read the catalogue that comes with the house again: it takes 0.3 s."""
    load = catalog.load
    monkeypatch.setattr(catalog, "load", lambda folder: CATALOG if folder == CATALOG.folder else load(folder))


@pytest.fixture
def within_a_day() -> None:
    """What a test uses of a budget of a day is still used at its end: midnight UTC is not near."""
    left = until_midnight(time.time())
    if left < A_TEST:
        time.sleep(left + 0.1)


class Start(Protocol):
    """Starts a gateway for a fleet, given as YAML; `limits` are settings of the gateway, or its API keys as `keys`."""

    def __call__(self, text: str = ONE, **limits: Any) -> Awaitable[RunningGateway]: ...


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def begin(text: str = ONE, **limits: Any) -> RunningGateway:
            return await stack.enter_async_context(gateways.running(tmp_path, text, **limits))

        yield begin


@pytest.fixture(scope="session")
def pebble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The default fleet on real vLLM, all four models ready: started once for every test that needs an engine."""
    with serving(ROOT / "deploy/fleets/pebble.yaml", tmp_path_factory.mktemp("pebble")) as service:
        yield service
