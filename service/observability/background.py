"""Tasks that run for as long as their process: one that fails is logged, reported and started again."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

log = logging.getLogger("roundhouse")

BACKOFF = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)  # seconds before the first, second … restart in a row
STABLE_AFTER = 60.0  # seconds of running after which earlier failures no longer count
OnFailure = Callable[[str, BaseException], None]


async def keep_running(
    task: str, function: Callable[[], Awaitable[None]], on_failure: OnFailure, subject: str = ""
) -> None:
    """Awaits `function()` until it returns or this is cancelled; starts it again, with backoff, whenever it raises.

    `task` says what kind of task it is, in a metric's label, `subject` what it is about, in the log. `on_failure` is
    called with `task` and the exception; it must not raise.
    """
    failures = 0
    while True:
        started = time.monotonic()
        try:
            await function()
            return
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            failures = 1 if time.monotonic() - started > STABLE_AFTER else failures + 1
            delay = BACKOFF[min(failures, len(BACKOFF)) - 1]
            name = f"{task} ({subject})" if subject else task
            log.exception("background task %s failed; it starts again in %g s", name, delay)
            on_failure(task, error)
        await asyncio.sleep(delay)


def _is_cancelled() -> bool:
    """Whether somebody cancelled this task; else the cancelled future was one that it awaited."""
    current = asyncio.current_task()
    return current is not None and current.cancelling() > 0
