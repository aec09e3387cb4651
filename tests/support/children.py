"""The child processes of a test, whose event loop must have noticed their ends before it closes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil

from tests.support.waiting import until


@asynccontextmanager
async def noticed() -> AsyncIterator[None]:
    """Waits in the end until the loop has noticed the end of each child process that was started meanwhile.

    A process that was killed is there for a while, and longer on a busy machine; a task that is cancelled while it
    starts one does not wait for that.
    """
    others = set(psutil.Process().children())
    yield
    await until(lambda: set(psutil.Process().children()) <= others, "the ends of all child processes")
    for _ in range(3):  # iterations, in which their transports close
        await asyncio.sleep(0)
