"""Compares a directory of pulled weights with its manifest, in a thread that ends when the engine is to stop."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from service.engine.state import Condition
from service.weights import manifest


class _StoppedError(Exception):
    pass


async def differences(directory: Path, is_stopping: Callable[[], bool]) -> str | None:
    """How the directory differs from its manifest; None where it does not, has none, or the engine is to stop."""
    if not manifest.exists(directory):
        return None

    def abort_if_stopping(_: int) -> None:
        if is_stopping():  # a thread cannot be cancelled
            raise _StoppedError

    try:
        problems = await asyncio.to_thread(manifest.verify, directory, advance=abort_if_stopping)
    except _StoppedError:
        return None
    if not problems:
        return None
    more = f", and {len(problems) - 1} more differ" if len(problems) > 1 else ""
    return f"{directory / problems[0].file} {problems[0].what}{more}"


async def weights_problem(
    directory: Path, show: Callable[[Condition, str], None], is_stopping: Callable[[], bool]
) -> str | None:
    """How an engine's weights differ from their manifest, if they have one and do; shows that they are compared."""
    if not manifest.exists(directory):
        return None
    show("starting", "verifying the weights")
    problem = await differences(directory, is_stopping)
    return f"its weights are not what was pulled: {problem}" if problem else None
