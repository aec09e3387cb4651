"""A process that is paused is stopped, goes on, and leaves nothing behind."""

import asyncio
import sys
from contextlib import suppress

import psutil

from tests.support import pauses
from tests.support.waiting import until

PAUSED = f"import os, subprocess, sys; subprocess.run([sys.executable, {pauses.__file__!r}, str(os.getpid())])"


async def test_a_process_is_stopped_and_goes_on() -> None:
    started = await asyncio.create_subprocess_exec(sys.executable, "-c", PAUSED)
    process = psutil.Process(started.pid)
    for _ in range(2):
        await until(lambda: process.status() == psutil.STATUS_STOPPED, "a pause")
        await until(lambda: process.status() != psutil.STATUS_STOPPED, "its end")
    (pauser,) = process.children()
    started.kill()
    await started.wait()
    await until(lambda: has_ended(pauser), "the end of what made the pauses")


def has_ended(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return True
