"""What the gateway does of itself while it runs."""

import pytest

from service.gateway import app
from service.transport import pool
from tests.conftest import Start
from tests.support.exchanges import CHAT
from tests.support.waiting import until


async def test_connections_that_nobody_uses_are_closed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = await start()
    assert (await gateway.post(CHAT.path, CHAT.body())).status_code == 200
    assert gateway.engines[0].connections > 0
    monkeypatch.setattr(app, "TICK", 0.01)
    monkeypatch.setattr(pool, "IDLE_TIMEOUT", 0.0)
    await until(lambda: gateway.engines[0].connections == 0, "the end of idle connections")
