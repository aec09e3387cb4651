"""The store as the gateway uses it: never on the event loop, never for long, and with errors for clients."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

from service.errors import ApiError, ErrorCode
from service.stored.database import Database
from service.stored.response import TooLargeError

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("roundhouse")

TIMEOUT = 5.0  # seconds for one operation and those before it
RETRY_AFTER = 5.0  # seconds


class Store:
    """Runs the operations of a `Database` in a thread of their own, one after the other.

    `on_failure` is called for each that failed.
    """

    def __init__(self, database: Database, on_failure: Callable[[], None], timeout: float = TIMEOUT) -> None:
        self._database, self._on_failure, self._timeout = database, on_failure, timeout
        self._thread = ThreadPoolExecutor(1, "stored-responses")

    async def run(
        self, operation: Callable[Concatenate[Database, P], T], *arguments: P.args, **options: P.kwargs
    ) -> T:  # fmt: skip
        """The result of a method of Database. Raises the 503 `store_unavailable`."""
        job = partial(operation, self._database, *arguments, **options)
        try:
            async with asyncio.timeout(self._timeout):
                # One that has not begun in time is never run.
                return await asyncio.get_running_loop().run_in_executor(self._thread, job)
        except TooLargeError:
            reason = "the response is larger than ROUNDHOUSE_RESPONSES_MAX_BYTES"
        except TimeoutError:
            reason = f"it did not answer within {self._timeout:g} s"
        except sqlite3.Error as error:
            reason = str(error)
        except OSError as error:
            reason = error.strerror or type(error).__name__
        self._on_failure()
        log.warning("the store of responses cannot be used: %s", reason)
        message = f"The store of responses cannot be used: {reason}. A request with store: false does not need it."
        raise ApiError(ErrorCode.STORE_UNAVAILABLE, message, retry_after=RETRY_AFTER)

    async def close(self) -> None:
        """Closes the file once what runs has ended."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._database.close)
        self._thread.shutdown(wait=False)
