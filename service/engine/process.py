"""One engine process, started through its keeper: its log, its pid, its exit status."""

import asyncio
import os
import re
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import psutil

from service.engine import keeper
from service.observability.background import OnFailure, keep_running

MAX_LINE_BYTES = 2**20
TAIL_LINES = 400  # log lines kept in memory: the cause of a crash can stand far above the tracebacks that follow it
PREFIX = re.compile(r"^\(\w[^)]* pid=\d+\) (?:(?:ERROR|INFO|WARNING) [\d-]+ [\d:]+ \[[^]]*\] ?)?")
CAUSE = re.compile(r"^ *(?:\w+\.)*(\w*(?:Error|Exception)|\w+\.py: error|Value error)[:,] (.+?)(?: \[type=\w+, .*)?$")
# Errors that only wrap the root cause, which stands before them in the log if it is there at all.
WRAPPER = re.compile(
    r"(?:Engine core|WorkerProc) initialization failed|EngineCore encountered an issue|Worker failed with error"
)
# Errors of a single request, which are not why an engine ended.
REQUEST_ERROR = re.compile(r"VLLMValidationError|cannot schedule new futures")


class EngineProcess:
    """A started engine. `on_line` is called with each line of its log, without vLLM's prefix, and `on_failure` where
    that fails: the log is read on all the same, or the engine would block on writing.

    `pid` resolves to the API server's pid. `ended` resolves to the exit status (negative: killed by that signal) when
    the engine and all its children are gone and the log has been read. `last_output` is when the log last grew, in
    seconds of the monotonic clock; `tail` holds its last lines.
    """

    def __init__(self, on_line: Callable[[str], None], on_failure: OnFailure = lambda *_: None) -> None:
        self._on_line, self._on_failure = on_line, on_failure
        self._control = -1
        self._terminated = False
        self.last_output = 0.0
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.pid: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, argv: list[str], environment: dict[str, str]) -> None:
        """Starts `argv` with exactly `environment`. Raises OSError where the keeper cannot be started."""
        control_read, self._control = os.pipe()
        status_read, status_write = os.pipe()
        try:
            started = await asyncio.create_subprocess_exec(
                sys.executable, "-I", keeper.__file__, str(control_read), str(status_write), *argv,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
                pass_fds=(control_read, status_write), env=environment,
            )  # fmt: skip
        finally:
            os.close(control_read)
            os.close(status_write)
        assert started.stdout
        read_log = partial(self._read_log, started.stdout)
        log = asyncio.create_task(keep_running("engine log", read_log, self._on_failure))
        self._tasks = [log, asyncio.create_task(self._read_status(status_read, log))]

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return bool(self._tasks) and not self.ended.done()

    def terminate(self) -> None:
        """Sends the engine SIGTERM, on which it drains and stops; further calls do nothing."""
        if not self._terminated:
            self._terminated = True
            self._send(keeper.TERMINATE)

    def kill(self) -> None:
        """Kills the engine and all its processes."""
        self._send(keeper.KILL)

    def cause(self) -> str:
        """Why it ended, in one line of at most 500 characters: the last root error in its log, else the last line."""
        errors = [match for line in self.tail if (match := CAUSE.match(line)) and not REQUEST_ERROR.search(line)]
        root_errors = [match for match in errors if not WRAPPER.search(match[0])]
        if match := next(reversed(root_errors or errors), None):
            return f"{match[1]}: {match[2]}"[:500]
        return self.tail[-1].strip()[:500] if self.tail else "it ended without any output"

    def close(self) -> None:
        """Closes the control pipe, on which the keeper kills an engine that still runs; may be called twice."""
        if self._control >= 0:
            os.close(self._control)
            self._control = -1
        for task in self._tasks:
            task.cancel()

    def _send(self, command: bytes) -> None:
        if self._control >= 0 and not self.ended.done():
            try:
                os.write(self._control, command)
            except BrokenPipeError:
                return  # the keeper has just exited

    async def _read_log(self, log: asyncio.StreamReader) -> None:
        buffer = b""
        while chunk := await log.read(2**16):
            self.last_output = time.monotonic()  # chunks, not lines: a progress bar ends none
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                self._add_line(line)
            if len(buffer) > MAX_LINE_BYTES:
                buffer = b""  # the pipe has to be read on, or the engine would block on writing
        self._add_line(buffer)

    def _add_line(self, raw: bytes) -> None:
        line = PREFIX.sub("", raw.decode(errors="replace").rstrip())
        if line:
            self.tail.append(line)
            self._on_line(line)

    async def _read_status(self, status_read: int, log: "asyncio.Task[None]") -> None:
        """Reads what the keeper writes. Whatever that is, and if it cannot be read, `pid` and `ended` resolve."""
        session = status = None
        try:
            async with _lines(status_read) as reader:
                session = _number(await reader.readline())
                self.pid.set_result(_number(await reader.readline()) or 0)
                status = _number(await reader.readline())
        except OSError:  # too many open files, for example; closing the control pipe ends the engine
            if not self.pid.done():
                self.pid.set_result(0)
        if status is None and session:
            _kill_session(session)
        # The keeper holds the last writing end of the log's pipe, and is about to exit.
        await asyncio.wait([log], timeout=5)
        self.ended.set_result(-signal.SIGKILL if status is None else status)


@asynccontextmanager
async def _lines(descriptor: int) -> AsyncIterator[asyncio.StreamReader]:
    """Reads from a pipe, and closes it at the end."""
    reader = asyncio.StreamReader()
    with os.fdopen(descriptor, "rb", 0) as pipe:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            yield reader
        finally:
            transport.close()


def _number(line: bytes) -> int | None:
    """The number in a line of the keeper's; None where it has ended or wrote something else."""
    try:
        return int(line)
    except ValueError:
        return None


def _kill_session(session: int) -> None:
    """Kills every process in the session of a keeper that was itself killed before it could."""
    for pid in psutil.pids():
        with suppress(OSError):
            if os.getsid(pid) == session:
                os.kill(pid, signal.SIGKILL)
