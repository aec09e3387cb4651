"""An event loop whose time passes only while everybody sleeps: hours of load in seconds, the same each time."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any


class _Sleepless(selectors.DefaultSelector):
    """Instead of waiting for a timer it sets the clock forward."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits for somebody else"
        self.now += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs what sleeps and waits in virtual seconds."""

    def __init__(self) -> None:
        self._clock = _Sleepless()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def simulate(story: Callable[[Callable[[], float]], Coroutine[Any, Any, None]]) -> None:
    """Runs `story`, which gets the clock, to its end."""
    loop = VirtualLoop()
    try:
        loop.run_until_complete(story(loop.time))
    finally:
        loop.close()
