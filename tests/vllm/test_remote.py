"""A real engine that others started, as the gateway watches it: it starts, hangs, gets on again, and dies."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from service.config.settings import Settings
from service.transport.pool import ConnectionPool
from service.upstreams.remote import RemoteEngine
from service.upstreams.replica import Replica
from service.upstreams.upstream import Upstream
from tests.support import fleets
from tests.support.waiting import PATIENCE
from tests.vllm.conftest import MODEL, running

pytestmark = pytest.mark.engine

HANG = 6.0


async def test_an_engine_through_its_life(tmp_path: Path) -> None:
    with running(MODEL, tmp_path) as engine:
        upstream = Upstream(fleets.only(tmp_path, f"model: {MODEL}\naddresses: ['{engine.socket}']"))
        replica = Replica("chat", str(engine.socket))
        transport, settings = ConnectionPool(), Settings(hang_timeout=HANG)
        remote = RemoteEngine(replica, upstream, settings, transport, time.monotonic, lambda: None)

        async def until(condition: str, doubted: bool = False) -> str:
            """Looks every half second until the engine is in this condition; returns the reason that is given."""
            deadline = time.monotonic() + PATIENCE
            while not replica.state or replica.state.condition != condition:
                assert time.monotonic() < deadline, replica.state
                await remote.poll(doubted)
                await asyncio.sleep(0.5)
            return replica.state.reason or ""

        assert await until("ready") == ""
        await remote.poll(False)
        assert replica.stats and replica.stats.tokens > 0
        os.kill(core := engine.core(), signal.SIGSTOP)
        assert "it hangs" in await until("failed")
        os.kill(core, signal.SIGCONT)
        await until("ready")
        assert replica.state and replica.state.restarts == 1
        os.kill(core, signal.SIGKILL)
        assert await until("failed", doubted=True)
        transport.close()
