"""What tests know of tasks that run in the background."""

import asyncio

from tests.support.background import awaited


async def test_a_task_that_is_about_to_go_on_waits_for_nothing() -> None:
    """Its wait has ended, and its code has not run yet: there is nothing that could fail in place of that."""
    event = asyncio.Event()
    outer = asyncio.create_task(asyncio.wait_for(event.wait(), None))
    await asyncio.sleep(0)
    assert awaited(outer)
    event.set()
    assert awaited(outer) is None
    await outer
