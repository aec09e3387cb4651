"""Waiting for a condition, however slow the machine is."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from inspect import isawaitable
from pathlib import Path

PATIENCE = 60.0  # seconds that a test waits for what should come at once: machines are shared
TEARDOWN = 10.0  # seconds that the end of a test waits for it: after one that has failed it often does not come
EARLY = 0.9  # of a time of 10 ms or more: after so much of it a timer may end, for uvloop's have steps of 1 ms
SHARE = 0.05  # of the time that has passed: the pause until the next look, from 2 ms to 50 ms


def patience() -> float:
    """Seconds to wait for what should come at once, in the phase of the test that runs now."""
    return TEARDOWN if os.environ.get("PYTEST_CURRENT_TEST", "").endswith("(teardown)") else PATIENCE


async def until(holds: Callable[[], bool | Awaitable[bool]], what: str = "what the test waits for") -> None:
    """Waits until it holds."""
    clock, limit = asyncio.get_running_loop().time, patience()
    began = clock()
    while not (await held if isawaitable(held := holds()) else held):
        waited = clock() - began
        assert waited < limit, f"{what} did not happen within {limit:g} s"
        await asyncio.sleep(min(0.05, max(0.002, waited * SHARE)))


def accepts(path: Path) -> bool:
    """Whether a server accepts connections at a Unix socket: its file is there since it was bound, before `listen`."""
    with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
        client.connect(str(path))
        return True
    return False
