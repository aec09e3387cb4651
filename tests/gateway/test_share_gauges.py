"""The metrics of memory that engines share."""

import os
import time

from service.engine.process_files import start_time
from service.engine.seats import Seats
from tests.conftest import Start
from tests.gateway.test_share_wants import FLEET

GIB = 2**30


async def test_the_page_has_what_is_taken_who_changed_and_how_long_models_waited(start: Start) -> None:
    gateway = await start(FLEET.replace("memory: 3GiB", "memory: 5GiB"))
    now = time.monotonic()
    with Seats(gateway.run_dir, "ram", [1, 2]).locked(now) as seats:
        assert seats
        for seat in seats.values():
            seat.place, seat.owner = "in", (os.getpid(), start_time(os.getpid()))
        seats[1].changes, seats[1].waited = {"loaded": 3, "stopped": 2}, 40.0
        seats[2].waits_since = now - 100
    page = (await gateway.http.get("/metrics")).text
    lines = dict(line.rsplit(" ", 1) for line in page.splitlines() if line.startswith("roundhouse_share"))
    assert float(lines['roundhouse_share_memory_bytes{share="ram"}']) == 5 * GIB
    assert float(lines['roundhouse_share_taken_memory_bytes{share="ram"}']) == 4 * GIB
    changes = {change: lines[f'roundhouse_share_changes{{change="{change}",model="pebble-chat"}}']
               for change in ("loaded", "stopped", "slept", "woken")}  # fmt: skip
    assert changes == {"loaded": "3.0", "stopped": "2.0", "slept": "0.0", "woken": "0.0"}
    assert float(lines['roundhouse_share_wait_seconds{model="pebble-chat"}']) == 40
    assert 100 <= float(lines['roundhouse_share_wait_seconds{model="pebble-code"}']) < 400


async def test_without_shares_there_are_none(start: Start) -> None:
    gateway = await start("models: [{model: pebble-chat}]")
    assert "\nroundhouse_share" not in (await gateway.http.get("/metrics")).text
