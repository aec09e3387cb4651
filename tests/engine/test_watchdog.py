"""The progress watchdog: what counts as life, when it asks for a token of its own, and when it gives up."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.engine.engine_stats import EngineStats
from service.engine.probe import probe
from service.engine.watchdog import ProgressMonitor, Watchdog
from service.transport.pool import ConnectionPool
from tests.fake_engine import FakeEngine, Fault
from tests.support import fleets
from tests.support.waiting import until

HANG = 1.0
DEAF = Fault(raw=b"", end="hang")
ASKED = "/v1/completions"


class Clock:
    """A monotonic clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Patient:
    """A fake engine and its pulse."""

    def __init__(self, folder: Path, engine: FakeEngine) -> None:
        self.clock, self.engine, self.transport = Clock(), engine, ConnectionPool()
        one = fleets.only(folder, "model: pebble-chat")
        self.pulse = Watchdog(str(folder / "e.sock"), probe(one), self.transport, self.clock, HANG)

    async def after(self, seconds: float) -> str | None:
        self.clock.now += seconds
        return await self.pulse.poll()

    def asked(self) -> int:
        return sum(seen.path == ASKED for seen in self.engine.requests)


@pytest.fixture
async def patient(tmp_path: Path) -> AsyncIterator[Patient]:
    async with FakeEngine("pebble-chat").listen(tmp_path / "e.sock") as engine:
        found = Patient(tmp_path, engine)
        assert await found.after(0) is None
        yield found
        found.transport.close()


async def test_one_that_works_is_never_asked(patient: Patient) -> None:
    for _ in range(20):
        patient.engine.totals["said"] += 1
        assert await patient.after(0.3) is None
        assert patient.pulse.stats == EngineStats(patient.clock.now, 0, 0, 0.0, patient.engine.totals["said"])
    assert patient.asked() == 0


async def test_an_idle_one_is_asked_once_in_each_half(patient: Patient) -> None:
    counts = []
    for _ in range(16):
        assert await patient.after(0.125) is None
        counts.append(patient.asked())
    # Its own token shows in the metrics at the next look, from which on it counts.
    assert counts[3] == 1
    assert counts[-1] == 3


async def test_a_core_that_stands_still_is_found(patient: Patient) -> None:
    patient.engine.always = DEAF
    assert await patient.after(HANG * 0.4) is None
    assert patient.asked() == 0
    assert await patient.after(HANG * 0.2) is None, "the time is not over"
    assert patient.asked() == 1
    reason = await patient.after(HANG * 0.4)
    assert reason == (
        "it hangs: no progress for 1 s (a request for one token: no byte for 0.25 s; its metrics stand still)"
    )
    assert await patient.after(0.1) is not None, "and it stays so"
    patient.engine.always = Fault()
    assert await patient.after(0.1) is None, "until it makes a token"


async def test_one_that_answers_nothing_is_found(patient: Patient) -> None:
    patient.engine.always = DEAF
    patient.engine.script(Fault(status=500), path="/metrics")
    reason = await patient.after(HANG)
    assert reason is not None, "asked once more, however long nobody looked"
    patient.engine.die("kill")
    reason = await patient.after(HANG)
    assert reason
    assert "a request for one token: no connection: " in reason
    assert "its metrics: no connection: " in reason


async def test_an_error_is_no_token(patient: Patient) -> None:
    patient.engine.always = Fault(status=500)
    assert await patient.after(HANG * 0.6) is None
    reason = await patient.after(HANG * 0.6)
    assert reason
    assert "a request for one token: status 500" in reason


async def test_a_token_suffices_where_there_are_no_metrics(patient: Patient) -> None:
    patient.engine.script(*[Fault(status=404)] * 4, path="/metrics")
    for _ in range(4):
        assert await patient.after(HANG) is None
    assert patient.asked() == 4
    assert patient.pulse.stats == EngineStats(100.0, 0, 0, 0.0, 0.0), "the last one that there was"


async def test_one_that_works_for_others_may_let_us_wait(patient: Patient) -> None:
    patient.engine.always = DEAF

    async def work() -> None:
        await until(lambda: patient.asked() == 1)
        patient.engine.totals["said"] += 1

    working = asyncio.create_task(work())
    assert await patient.after(HANG) is None
    await working
    assert await patient.after(HANG * 0.4) is None
    assert patient.asked() == 1
    assert await patient.after(HANG) is not None


def test_the_longer_the_silence_the_shorter_the_patience() -> None:
    silence = ProgressMonitor(hang=60, since=0)
    assert [silence.probe_timeout(now) for now in (0, 29.9, 30, 40, 50, 1000)] == [None, None, 30, 20, 15, 15]
    assert [silence.stalled(now) for now in (0, 59.9, 60)] == [False, False, True]
    silence.answered(100)
    assert silence.probe_timeout(129) is None
    silence.observe(EngineStats(140, 1, 0, 0.0, 5))
    assert silence.since == 140
    silence.observe(EngineStats(150, 1, 0, 0.0, 5))
    assert silence.since == 140, "the same figures again"
    silence.observe(EngineStats(160, 0, 0, 0.0, 0))
    assert silence.since == 160, "an engine that began anew"
