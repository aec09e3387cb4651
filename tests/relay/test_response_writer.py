"""The headers that a client's answer begins with."""

import pytest

from tests.conftest import Start
from tests.support.exchanges import CHAT, EXCHANGES, Case, label
from tests.support.gateways import HOUSE


@pytest.mark.parametrize(("case", "stream"), EXCHANGES, ids=label)
async def test_nothing_on_the_way_keeps_a_stream_for_others(case: Case, stream: bool, start: Start) -> None:
    gateway = await start(HOUSE)
    response = await gateway.post(case.path, case.body(stream))
    assert response.status_code == 200
    assert response.headers.get("cache-control") == ("no-cache" if stream else None)
    assert response.headers.get("x-accel-buffering") == ("no" if stream else None)
    assert response.headers["content-type"].startswith("text/event-stream" if stream else "application/json")


async def test_a_stream_that_begins_while_it_waits_says_so_too(start: Start) -> None:
    gateway = await start("models: [{model: pebble-chat, min_replicas: 0}]", sse_heartbeat_interval=0.01)
    gateway.show(0, "scaled_to_zero")
    async with gateway.http.stream("POST", CHAT.path, json=CHAT.body(stream=True)) as response:
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        gateway.show(0, "ready")
        assert b"data: [DONE]" in await response.aread()
