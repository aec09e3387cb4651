"""A real engine as an external one: it starts, hangs, recovers and dies."""

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

HANG_TIMEOUT = 6.0


async def test_an_engine_starts_hangs_recovers_and_dies(tmp_path: Path) -> None:
    with running(MODEL, tmp_path) as engine:
        upstream = Upstream(fleets.only(tmp_path, f"model: {MODEL}\naddresses: ['{engine.socket}']"))
        replica = Replica("chat", str(engine.socket))
        transport, settings = ConnectionPool(), Settings(hang_timeout=HANG_TIMEOUT)
        remote = RemoteEngine(replica, upstream, settings, transport, time.monotonic, lambda: None)

        async def until(condition: str, recheck: bool = False) -> str:
            """Polls every half second until the engine is in this condition; returns the reason."""
            deadline = time.monotonic() + PATIENCE
            while not replica.state or replica.state.condition != condition:
                assert time.monotonic() < deadline, replica.state
                await remote.poll(recheck)
                await asyncio.sleep(0.5)
            return replica.state.reason or ""

        assert await until("ready") == ""
        await remote.poll(recheck=False)
        assert replica.stats and replica.stats.tokens > 0
        os.kill(core := engine.core(), signal.SIGSTOP)
        assert "it hangs" in await until("failed")
        os.kill(core, signal.SIGCONT)
        await until("ready")
        assert replica.state and replica.state.restarts == 1
        os.kill(core, signal.SIGKILL)
        assert await until("failed", recheck=True)
        transport.close()
