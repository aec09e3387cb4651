"""Waiting for what must come, however slow the machine is."""

import asyncio
from collections.abc import Callable

PATIENCE = 60.0  # seconds that a test waits for what should come at once: machines are shared


async def until(holds: Callable[[], bool], what: str = "what the test waits for") -> None:
    """Waits until it holds."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not holds():
        assert asyncio.get_running_loop().time() < deadline, f"{what} did not happen within {PATIENCE:g} s"
        await asyncio.sleep(0.002)
