"""Background tasks in tests: where none may fail, and how to make any of them fail."""

import asyncio
from typing import Any


class KilledError(Exception):
    """What a killed task raises where it stood."""


def unexpected(task: str, error: BaseException) -> None:
    """For `on_failure`, where no background task may fail."""
    raise AssertionError(f"background task {task} failed") from error


def running(function: str) -> list["asyncio.Task[Any]"]:
    """The tasks that run a coroutine function now, by its qualified name, directly or through `keep_running`."""
    return [task for task in asyncio.all_tasks() if function in names(task)]


def names(task: "asyncio.Task[Any]") -> list[str]:
    """The qualified names of the coroutine functions that a task is in, outermost first."""
    return [coroutine.__qualname__ for coroutine in coroutines(task)]


def coroutines(task: "asyncio.Task[Any]") -> list[Any]:
    """The coroutines that a task is in, outermost first."""
    found: list[Any] = []
    current: Any = task.get_coro()
    while current is not None and hasattr(current, "cr_await"):
        found.append(current)
        current = current.cr_await
    return found


def kill(task: "asyncio.Task[Any]") -> None:
    """Lets the task raise KilledError from what it awaits: the outermost future or task in the chain of awaits."""
    waiter: Any = task._fut_waiter  # type: ignore[attr-defined]
    if isinstance(waiter, asyncio.Task):
        kill(waiter)
        return
    assert awaited(task), f"{task} does not wait"
    if timer := coroutines(task)[-1].cr_frame.f_locals.get("h"):  # that of asyncio.sleep, which may be due by now
        timer.cancel()
    waiter.set_exception(KilledError("killed by a test"))


def awaited(task: "asyncio.Task[Any]") -> "asyncio.Future[Any] | None":
    """The innermost future that the task waits for; None where it goes on in this turn of the loop."""
    waiter: asyncio.Future[Any] | None = task._fut_waiter  # type: ignore[attr-defined]
    if isinstance(waiter, asyncio.Task):
        return awaited(waiter)
    return waiter if waiter and not waiter.done() else None
