"""The usage ledger as the gateway writes it: behind the requests, in batches, by a thread of its own."""

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from service.observability.ledger_file import LedgerFile, Line
from service.observability.record import Record

log = logging.getLogger("roundhouse")

INTERVAL = 0.1  # seconds between two batches: what a killed gateway may lose
RETRY = 1.0  # seconds until a batch that failed is tried again
CLEAN = 600.0  # seconds between two times of rolling up
CLOSE_TIMEOUT = 5.0  # seconds for the last batch at the end
MAX_WAITING = 100_000  # lines that wait for the file; about 50 MB


class Ledger:
    """Writes a line for each request when it begins to cost, and its final one when it has ended.

    Nothing of it can fail or delay a request. `on_failure` is called for each batch that could not be written, which
    is tried again, and `on_drop` for each line that is lost because too many wait.
    """

    def __init__(
        self, file: LedgerFile, on_failure: Callable[[], None], on_drop: Callable[[], None],
        interval: float = INTERVAL, max_waiting: int = MAX_WAITING,
    ) -> None:  # fmt: skip
        self._file, self._on_failure, self._on_drop = file, on_failure, on_drop
        self._interval, self._max_waiting = interval, max_waiting
        self._waiting: deque[Line] = deque()
        self._batch: dict[str, Line] = {}  # by request: its last line counts
        self._stirred, self._failing, self._clean_at = asyncio.Event(), False, 0.0
        self._worker = ThreadPoolExecutor(1, "usage-ledger")

    async def watch(self) -> None:
        """For ever: writes what waits, ends what killed gateways left, and rolls up what is old."""
        loop = asyncio.get_running_loop()
        while True:
            await loop.run_in_executor(self._worker, self._write)
            self._stirred.clear()
            if not (self._waiting or self._batch):
                with suppress(TimeoutError):
                    async with asyncio.timeout(CLEAN):
                        await self._stirred.wait()
            await asyncio.sleep(RETRY if self._failing else self._interval)

    def begin(self, record: Record, prompt: float, completion: float) -> None:
        """A request goes to an engine, with these estimates of its tokens: they count if this process is killed."""
        self._put(
            Line(
                record.request_id, time.time(), record.tenant, record.key, record.model, record.endpoint, int(prompt),
                0, int(completion), True, True, 0, "running",
            )
        )  # fmt: skip

    def end(self, record: Record) -> None:
        """A request has ended."""
        prompt, completion, estimate = record.prompt_tokens, record.completion_tokens, record.estimate
        if estimate:
            prompt, completion = estimate
        self._put(
            Line(
                record.request_id, time.time(), record.tenant, record.key, record.model, record.endpoint, prompt,
                record.cached_tokens, completion, estimate is not None, record.admitted is not None, record.status,
                record.outcome,
            )
        )  # fmt: skip

    async def used_on(self, day: int) -> dict[str, tuple[int, int]]:
        """The requests and tokens of each tenant on that day; none where the file cannot be read, which is logged."""
        found: dict[str, tuple[int, int]] = {}
        read = partial(self._guard, lambda: found.update(self._file.used_on(day)))
        await asyncio.get_running_loop().run_in_executor(self._worker, read)
        return found

    async def close(self) -> None:
        """Writes what waits, as far as that is possible in CLOSE_TIMEOUT seconds."""
        loop = asyncio.get_running_loop()
        last = asyncio.gather(*(loop.run_in_executor(self._worker, one) for one in (self._write, self._close)))
        with suppress(TimeoutError):
            await asyncio.wait_for(last, CLOSE_TIMEOUT)
        if waiting := len(self._waiting) + len(self._batch):
            log.warning("the usage ledger lacks %d lines that could not be written before the end.", waiting)
        self._worker.shutdown(wait=False)

    def _put(self, line: Line) -> None:
        waiting = self._waiting
        if len(waiting) >= self._max_waiting:
            self._on_drop()
            return
        waiting.append(line)
        if len(waiting) == 1:
            self._stirred.set()

    def _write(self) -> None:
        while self._waiting and len(self._batch) < self._max_waiting:
            line = self._waiting.popleft()
            self._batch[line.id] = line
        if self._batch and self._guard(partial(self._file.write, self._batch.values())):
            self._batch = {}
        if not self._batch and self._clean_at <= time.monotonic():
            self._clean_at = time.monotonic() + CLEAN
            self._guard(self._file.clean)

    def _close(self) -> None:
        self._guard(self._file.close)

    def _guard(self, operation: Callable[[], None]) -> bool:
        """Whether it worked. The first of several failures is logged, and the end of them."""
        try:
            operation()
        except (sqlite3.Error, OSError) as error:
            self._on_failure()
            if not self._failing:
                log.warning("the usage ledger cannot be used: %s. Requests go on, and it is tried again.", error)
            self._failing = True
            return False
        if self._failing:
            log.warning("the usage ledger can be used again.")
        self._failing = False
        return True
