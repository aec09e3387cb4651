"""An event loop with virtual time: it jumps to the next timer instead of sleeping. Fast and deterministic."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any


class _SkippingSelector(selectors.DefaultSelector):
    """A selector that advances the clock by the timeout instead of waiting for it."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "deadlock: no timer and nothing ready"
        self.now += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual seconds."""

    def __init__(self) -> None:
        self._clock = _SkippingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def simulate(scenario: Callable[[Callable[[], float]], Coroutine[Any, Any, None]]) -> None:
    """Runs `scenario`, which is called with the clock, to its end."""
    loop = VirtualLoop()
    try:
        loop.run_until_complete(scenario(loop.time))
    finally:
        loop.close()
