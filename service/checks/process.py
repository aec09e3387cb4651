"""One process that checks, from its start to its end: jobs to it and results from it."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Sequence
from typing import Any

from service.config.paths import PACKAGE

START_TIMEOUT = 60.0  # seconds; it takes half a second on an idle core
MOST_RESULT = 2**16  # bytes


class DiedError(Exception):
    """The process ended, or was killed because it took too long: `how` is one word that says which.

    `path` is that of the field which it was at.
    """

    def __init__(self, how: str, path: str = "") -> None:
        super().__init__(how)
        self.how, self.path = how, path


def command(max_bytes: int, max_seconds: float) -> Sequence[str]:
    """The program that checks, with its limits of memory in bytes and of CPU time in seconds for each job."""
    return sys.executable, "-s", "-P", "-m", "service.checks.worker", str(max_bytes), str(round(max_seconds) + 1)


class CheckProcess:
    """A running process; `found` says which compilers and decoders are installed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process, self._is_loaded = process, False
        self.found: Sequence[str] = ()
        self.jobs = 0

    @classmethod
    async def start(cls, arguments: Sequence[str]) -> "CheckProcess":
        """A new process, which has loaded nothing yet; raises OSError or DiedError if there can be none.

        One that is asked to end before it is there, as a process manager does with all at a stop, is started again:
        once it is there it goes on for the requests that still run.
        """
        while True:
            started = await cls._spawn(arguments)
            try:
                started.found = (await started._last_frame(START_TIMEOUT))["found"]
                return started
            except DiedError:
                if started._process.returncode != -signal.SIGTERM:
                    raise

    @classmethod
    async def _spawn(cls, arguments: Sequence[str]) -> "CheckProcess":
        # Nothing of our own environment, where keys may be, and a session of its own.
        process = await asyncio.create_subprocess_exec(
            *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL, start_new_session=True, cwd="/",
            env={"PYTHONPATH": str(PACKAGE.parent), "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        return cls(process)

    async def load(self) -> bool:
        """Has it load what it needs for jobs, if it has not; returns whether that is other than was `found` before.

        Raises DiedError if it cannot.
        """
        if self._is_loaded:
            return False
        self._write(b"")
        before, self.found = self.found, (await self._last_frame(START_TIMEOUT))["found"]
        self._is_loaded = True
        return before != self.found

    async def ask(self, job: bytes, seconds: float) -> dict[str, Any]:
        """The result of a job; raises DiedError if there is none within `seconds`. The process is gone then."""
        self.jobs += 1
        self._write(job)
        return await self._last_frame(seconds)

    def _write(self, job: bytes) -> None:
        assert self._process.stdin
        with contextlib.suppress(ConnectionError):  # it died before: then there is no result either
            self._process.stdin.write(len(job).to_bytes(4, "big"))
            self._process.stdin.write(job)

    async def _last_frame(self, seconds: float) -> dict[str, Any]:
        """The result; the frames before it say which field the process is at."""
        path, alive = "", False
        try:
            async with asyncio.timeout(seconds):
                while "at" in (frame := await self._frame()):
                    path = frame["at"]
                alive = True
                return frame
        except TimeoutError:
            raise DiedError("deadline", path) from None
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            raise DiedError("crash", path) from None
        finally:
            if not alive:
                await self.end()

    async def _frame(self) -> dict[str, Any]:
        assert self._process.stdout
        size = int.from_bytes(await self._process.stdout.readexactly(4), "big")
        if size > MOST_RESULT:
            raise ValueError
        frame: dict[str, Any] = json.loads(await self._process.stdout.readexactly(size))
        return frame

    async def end(self) -> None:
        """Kills it, and waits until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
