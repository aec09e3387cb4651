"""How long a start may say nothing: for as long as its processes do something."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from service.engine import readiness
from service.engine.readiness import LEAST_CPU, MAX_SILENCE, Readiness
from service.transport.pool import ConnectionPool
from tests.support import fleets


@dataclass
class Start:
    """A start that answers nothing. Each look at the clock is a minute later; until `idle_at` it uses CPU time."""

    use: float
    idle_at: float
    last_output: float = 0.0
    now: float = 0.0

    def clock(self) -> float:
        self.now += 60.0
        return self.now

    @property
    def cpu_time(self) -> float:
        return self.use * min(self.now, self.idle_at)


@pytest.mark.parametrize(("use", "silent_since"), [(2 * LEAST_CPU, 400.0), (LEAST_CPU / 2, 0.0)])
async def test_a_start_that_says_nothing_goes_on_while_it_uses_cpu(
    use: float, silent_since: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Start(use, idle_at=400.0)
    monkeypatch.setattr(readiness, "time", SimpleNamespace(monotonic=start.clock))
    monkeypatch.setattr(readiness, "POLL_INTERVAL", 0.0)
    served = fleets.load(tmp_path, "models: [{model: pebble-chat}]")["pebble-chat"]
    limit = 3 * MAX_SILENCE
    reason = await Readiness(str(tmp_path / "nobody.sock"), served, ConnectionPool(), limit, start, lambda: None).wait()
    assert reason and reason.startswith(f"its start hangs: no log output and no use of CPU for {MAX_SILENCE:g} s")
    assert silent_since + MAX_SILENCE < start.now < silent_since + MAX_SILENCE + 180
