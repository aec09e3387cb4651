"""Tasks that must always run: restarted after each failure, with backoff, until they are cancelled."""

import asyncio
import logging

import pytest

from service.observability import background
from service.observability.background import keep_running
from tests.support.waiting import until


class Task:
    """Fails as often as told, then runs on."""

    def __init__(self, failures: int, error: BaseException | None = None) -> None:
        self.failures, self.error = failures, error or ZeroDivisionError("broken")
        self.starts, self.reports = 0, list[tuple[str, BaseException]]()

    async def run(self) -> None:
        self.starts += 1
        if self.starts <= self.failures:
            raise self.error
        await asyncio.Event().wait()

    def report(self, task: str, error: BaseException) -> None:
        self.reports.append((task, error))

    def keep(self) -> "asyncio.Task[None]":
        return asyncio.create_task(keep_running("watch", self.run, self.report, "pebble-chat-0"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "BACKOFF", (0.0, 0.001))


@pytest.mark.parametrize("error", [ValueError("odd"), RecursionError(), asyncio.CancelledError()], ids=repr)
async def test_a_failed_task_is_logged_reported_and_started_again(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    task = Task(3, error)
    kept = task.keep()
    await until(lambda: task.starts == 4)
    assert task.reports == [("watch", error)] * 3
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert lines == [
        f"background task watch (pebble-chat-0) failed; it starts again in {delay} s"
        for delay in ("0", "0.001", "0.001")
    ]
    assert all(record.exc_info and record.exc_info[1] is error for record in caplog.records)
    kept.cancel()
    await asyncio.wait([kept])
    assert kept.cancelled()
    caplog.clear()


async def test_a_cancelled_task_is_no_failure_and_one_that_returns_is_done() -> None:
    task = Task(0)
    kept = task.keep()
    await until(lambda: task.starts == 1)
    kept.cancel()
    await asyncio.wait([kept])
    assert (kept.cancelled(), task.reports) == (True, [])

    async def return_at_once() -> None:
        return

    await keep_running("once", return_at_once, task.report)
    assert task.reports == []


async def test_a_stable_run_starts_the_backoff_anew(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "STABLE_AFTER", -1.0)
    monkeypatch.setattr(background, "BACKOFF", (0.0, 3600.0))
    task = Task(5)
    kept = task.keep()
    await until(lambda: task.starts == 6)
    kept.cancel()
    caplog.clear()
