"""What tests know of tasks that run in the background."""

import asyncio
import time

import pytest

from tests.support.background import KilledError, awaited, kill


async def test_a_task_that_is_about_to_go_on_waits_for_nothing() -> None:
    """Its wait has ended, and its code has not run yet: there is nothing that could fail in place of that."""
    event = asyncio.Event()
    outer = asyncio.create_task(asyncio.wait_for(event.wait(), None))
    await asyncio.sleep(0)
    assert awaited(outer)
    event.set()
    assert awaited(outer) is None
    await outer


async def test_a_sleep_that_is_due_can_be_killed(caplog: pytest.LogCaptureFixture) -> None:
    task = asyncio.create_task(asyncio.sleep(0.01))
    await asyncio.sleep(0)
    time.sleep(0.02)  # noqa: ASYNC251  the loop learns only now that it is
    kill(task)
    with pytest.raises(KilledError):
        await task
    assert not caplog.records
