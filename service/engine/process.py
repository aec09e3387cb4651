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
from pathlib import Path
from typing import IO

import psutil

from service.engine import keeper, proc
from service.engine.preload import Pipes, Preload
from service.observability.background import OnFailure, keep_running

MAX_LINE_BYTES = 2**20
TAIL_LINES = 400  # log lines kept in memory: the cause of a crash can stand far above the tracebacks that follow it
PREFIX = re.compile(r"^\(\w[^)]* pid=\d+\) (?:(?:ERROR|INFO|WARNING) [\d-]+ [\d:]+ \[[^]]*\] ?)?")
CAUSE = re.compile(r"^ *(?:\w+\.)*(\w*(?:Error|Exception)|\w+\.py: error|Value error)[:,] (.+?)(?: \[type=\w+, .*)?$")
# Errors that only wrap the root cause, which stands before them in the log if it is there at all.
WRAPPER = re.compile(
    r"(?:Engine core|WorkerProc) initialization failed|EngineCore encountered an issue|Worker failed with error"
)
# What vLLM says where it is built for GPUs and sees none, and what that means.
NO_DEVICE = "Failed to infer device type"
NO_GPU = (
    "this vLLM is built for GPUs and sees none: there is no driver, or no GPU was given to it. A container needs "
    "--gpus all, and NVIDIA's container toolkit on its host; a pod needs nvidia.com/gpu among its limits; nvidia-smi "
    "shows what it sees. Without a GPU use vLLM's build for CPUs: the image engine-cpu, or requirements/cpu.lock"
)
# Errors of a single request, which are not why an engine ended.
REQUEST_ERROR = re.compile(r"VLLMValidationError|cannot schedule new futures")


class EngineProcess:
    """A started engine. `on_line` is called with each line of its log, without vLLM's prefix, and `on_failure` where
    that fails: the log is read on all the same, or the engine would block on writing. `on_raw` is called with each line
    as vLLM wrote it, and whether it was asked to end by then.

    `pid` resolves to the API server's pid, and `session` is that of all its processes from then on. `ended` resolves to
    the exit status (negative: killed by that signal) when the engine and all its children are gone and the log has been
    read. `last_output` is when the log last grew, in
    seconds of the monotonic clock; `tail` holds its last lines.
    """

    def __init__(
        self, on_line: Callable[[str], None], on_failure: OnFailure = lambda *_: None,
        on_raw: Callable[[str, bool], None] | None = None,
    ) -> None:  # fmt: skip
        self._on_line, self._on_failure, self._on_raw = on_line, on_failure, on_raw
        self._control = -1
        self._terminated = self._stopped = False
        self._forking: asyncio.Task[bool] | None = None
        self._log: asyncio.BaseTransport | None = None
        self.session = 0
        self.last_output = 0.0
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.pid: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(
        self, argv: list[str], environment: dict[str, str], preload: Preload | None = None,
        stacks: Path | None = None, kept: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        """Starts `argv` with exactly `environment`, by `preload` where that can. Raises OSError where it cannot.

        The processes write their stacks to the folder `stacks`, by the hook in the environment. They get copies of the
        descriptors `kept`, at most one, from the very first moment on.
        """
        control_read, self._control = os.pipe()
        status_read, status_write = os.pipe()
        try:
            pipes = control_read, status_write
            log = await self._fork(preload, argv, environment, stacks, pipes, kept) if preload else None
            if self._stopped:
                os.close(status_read)
                self.pid.set_result(0)
                self.ended.set_result(-signal.SIGTERM)
                return
            log = log or await _execute(argv, environment, pipes, kept)
        finally:
            os.close(control_read)
            os.close(status_write)
        read_log = partial(self._read_log, log)
        reading = asyncio.create_task(keep_running("engine log", read_log, self._on_failure))
        self._tasks = [reading, asyncio.create_task(self._read_status(status_read, reading))]

    async def _fork(
        self, preload: Preload, argv: list[str], environment: dict[str, str], stacks: Path | None,
        pipes: tuple[int, int], kept: tuple[int, ...],
    ) -> asyncio.StreamReader | None:  # fmt: skip
        """The log of the keeper, which is forked; None where that is not possible, or the engine is to stop already."""
        log_read, log_write = os.pipe()
        log = os.fdopen(log_read, "rb", 0)
        self._forking = asyncio.create_task(preload.start(argv, environment, stacks, Pipes(*pipes, log_write, kept)))
        try:
            await asyncio.wait([self._forking])
            if not self._forking.cancelled() and self._forking.result():
                reader, self._log = await _reading(log)
                return reader
        finally:
            os.close(log_write)
            self._forking.cancel()
            self._forking = None
            if not self._log:
                log.close()
        return None

    @property
    def cpu_time(self) -> float:
        """The seconds of CPU time of its processes, also of those that have ended, as their parents have them."""
        return proc.cpu_time(self.session) if self.session else 0.0

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
            return NO_GPU if NO_DEVICE in match[2] else f"{match[1]}: {match[2]}"[:500]
        return self.tail[-1].strip()[:500] if self.tail else "it ended without any output"

    def close(self) -> None:
        """Closes the control pipe, on which the keeper kills an engine that still runs; may be called twice."""
        if self._control >= 0:
            os.close(self._control)
            self._control = -1
        for task in self._tasks:
            task.cancel()
        if self._log:
            self._log.close()

    def _send(self, command: bytes) -> None:
        if self._forking:
            self._stopped = True
            self._forking.cancel()
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
        text = raw.decode(errors="replace").rstrip()
        if self._on_raw and text:
            self._on_raw(text, self._terminated)
        line = PREFIX.sub("", text)
        if line:
            self.tail.append(line)
            self._on_line(line)

    async def _read_status(self, status_read: int, log: "asyncio.Task[None]") -> None:
        """Reads what the keeper writes. Whatever that is, and if it cannot be read, `pid` and `ended` resolve."""
        session = status = None
        try:
            async with pipe_lines(status_read) as reader:
                session = _number(await reader.readline())
                self.session = session or 0
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


async def _execute(
    argv: list[str], environment: dict[str, str], pipes: tuple[int, int], kept: tuple[int, ...]
) -> asyncio.StreamReader:
    """Runs a keeper, which runs `argv`; `pipes` are its ends of those for commands and status. Returns the log."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-I", keeper.__file__, *map(str, pipes), ",".join(map(str, kept)), *argv,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        pass_fds=(*pipes, *kept), env=environment,
    )  # fmt: skip
    assert started.stdout
    return started.stdout


async def _reading(pipe: IO[bytes]) -> tuple[asyncio.StreamReader, asyncio.BaseTransport]:
    """Reads from a pipe, until the transport is closed."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    return reader, transport


@asynccontextmanager
async def pipe_lines(descriptor: int) -> AsyncIterator[asyncio.StreamReader]:
    """Reads from a pipe, and closes it at the end.

    It is the transport's, which closes it in a later iteration of the loop: by then its number can be another file's.
    """
    reader, transport = await _reading(os.fdopen(descriptor, "rb", 0))
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


def exit_reason(status: int) -> str:
    """Why an engine with this exit status ended (negative: killed by that signal)."""
    if status >= 0:
        return f"the engine ended with exit status {status}"
    hint = " (out of memory?)" if status == -9 else ""
    return f"the engine was killed by signal {-status}{hint}"
