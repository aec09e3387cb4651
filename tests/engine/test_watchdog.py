"""The watchdog: what counts as progress, when it sends a probe request, and when an engine counts as hung."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.engine.engine_stats import EngineStats
from service.engine.probe import probe_request
from service.engine.watchdog import ProgressMonitor, Watchdog
from service.transport.pool import ConnectionPool
from tests.fake_engine import FakeEngine, Fault
from tests.support import fleets
from tests.support.waiting import until

HANG_TIMEOUT = 1.0
NO_RESPONSE = Fault(raw=b"", end="hang")
PROBE_PATH = "/v1/completions"


class Clock:
    """A monotonic clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A fake engine and its watchdog, with a clock that only the test moves."""

    def __init__(self, folder: Path, engine: FakeEngine) -> None:
        self.clock, self.engine, self.transport = Clock(), engine, ConnectionPool()
        served = fleets.only(folder, "model: pebble-chat")
        self.watchdog = Watchdog(
            str(folder / "e.sock"), probe_request(served), self.transport, self.clock, HANG_TIMEOUT
        )

    async def poll_after(self, seconds: float) -> str | None:
        self.clock.now += seconds
        return await self.watchdog.poll()

    def probes(self) -> int:
        return sum(seen.path == PROBE_PATH for seen in self.engine.requests)


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    async with FakeEngine("pebble-chat").listen(tmp_path / "e.sock") as engine:
        found = Watched(tmp_path, engine)
        assert await found.poll_after(0) is None
        yield found
        found.transport.close()


async def test_an_engine_that_makes_progress_is_never_probed(watched: Watched) -> None:
    for _ in range(20):
        watched.engine.totals["said"] += 1
        assert await watched.poll_after(0.3) is None
        assert watched.watchdog.stats == EngineStats(watched.clock.now, 0, 0, 0.0, watched.engine.totals["said"])
    assert watched.probes() == 0


async def test_an_idle_engine_is_probed_once_per_half_timeout(watched: Watched) -> None:
    counts = []
    for _ in range(16):
        assert await watched.poll_after(0.125) is None
        counts.append(watched.probes())
    # The probe's own token shows in the metrics at the next poll, and counts as progress then.
    assert counts[3] == 1
    assert counts[-1] == 3


async def test_a_hung_engine_core_is_detected(watched: Watched) -> None:
    watched.engine.always = NO_RESPONSE
    assert await watched.poll_after(HANG_TIMEOUT * 0.4) is None
    assert watched.probes() == 0
    assert await watched.poll_after(HANG_TIMEOUT * 0.2) is None, "the hang timeout is not over"
    assert watched.probes() == 1
    reason = await watched.poll_after(HANG_TIMEOUT * 0.4)
    assert reason == "it hangs: no progress for 1 s (probe request: no byte for 0.25 s; metrics unchanged)"
    assert await watched.poll_after(0.1) is not None, "it stays hung"
    watched.engine.always = Fault()
    assert await watched.poll_after(0.1) is None, "it recovers with the first successful probe"


async def test_an_engine_that_answers_nothing_is_detected(watched: Watched) -> None:
    watched.engine.always = NO_RESPONSE
    watched.engine.script(Fault(status=500), path="/metrics")
    reason = await watched.poll_after(HANG_TIMEOUT)
    assert reason is not None, "it is probed once more, however long ago the last poll was"
    watched.engine.die("kill")
    reason = await watched.poll_after(HANG_TIMEOUT)
    assert reason
    assert "probe request: no connection: " in reason
    assert "metrics: no connection: " in reason


async def test_an_error_response_is_a_failed_probe(watched: Watched) -> None:
    watched.engine.always = Fault(status=500)
    assert await watched.poll_after(HANG_TIMEOUT * 0.6) is None
    reason = await watched.poll_after(HANG_TIMEOUT * 0.6)
    assert reason
    assert "probe request: status 500" in reason


async def test_successful_probes_suffice_without_metrics(watched: Watched) -> None:
    watched.engine.script(*[Fault(status=404)] * 4, path="/metrics")
    for _ in range(4):
        assert await watched.poll_after(HANG_TIMEOUT) is None
    assert watched.probes() == 4
    assert watched.watchdog.stats == EngineStats(100.0, 0, 0, 0.0, 0.0), "the last sample"


async def test_a_probe_may_time_out_while_other_requests_progress(watched: Watched) -> None:
    watched.engine.always = NO_RESPONSE

    async def work() -> None:
        await until(lambda: watched.probes() == 1)
        watched.engine.totals["said"] += 1

    working = asyncio.create_task(work())
    assert await watched.poll_after(HANG_TIMEOUT) is None
    await working
    assert await watched.poll_after(HANG_TIMEOUT * 0.4) is None
    assert watched.probes() == 1
    assert await watched.poll_after(HANG_TIMEOUT) is not None


def test_the_probe_timeout_shrinks_as_the_hang_timeout_approaches() -> None:
    monitor = ProgressMonitor(hang_timeout=60, last_progress=0)
    assert [monitor.probe_timeout(now) for now in (0, 29.9, 30, 40, 50, 1000)] == [None, None, 30, 20, 15, 15]
    assert [monitor.stalled(now) for now in (0, 59.9, 60)] == [False, False, True]
    monitor.probe_succeeded(100)
    assert monitor.probe_timeout(129) is None
    monitor.observe(EngineStats(140, 1, 0, 0.0, 5))
    assert monitor.last_progress == 140
    monitor.observe(EngineStats(150, 1, 0, 0.0, 5))
    assert monitor.last_progress == 140, "an unchanged sample"
    monitor.observe(EngineStats(160, 0, 0, 0.0, 0))
    assert monitor.last_progress == 160, "a restarted engine"
