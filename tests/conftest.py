"""What every test may use: the event loop of production, and gateways that are checked and stopped afterwards."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import pytest
import uvloop
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from tests.support import gateways
from tests.support.gateways import ONE, RunningGateway
from tests.support.services import ROOT, Service, serving


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


# How long an example takes says nothing on a machine that is busy.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


class Shared(LoadScopeScheduling):  # type: ignore[misc]
    """Of several processes (`-n`) one gets all files that share the engines of `pebble`; no file is torn."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        text = source(ROOT / file)
        return "pebble" if "pebble: Service" in text or "real_engine: RealEngine" in text else file


@cache
def source(file: Path) -> str:
    """The text of a test file, which is looked at for each of its tests."""
    return file.read_text(encoding="utf-8")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Shared:
    return Shared(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Those that take longest go first.
    items.sort(key=lambda item: "mark.engine" not in source(item.path))


class Start(Protocol):
    """Starts a gateway for a fleet, given as YAML; `limits` are settings of the gateway."""

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
