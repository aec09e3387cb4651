"""One engine process, started through its keeper: its log, its pid, its end."""

import asyncio
import os
import re
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import psutil

from service.engine import keeper

LONGEST_LINE = 2**20  # bytes
TAIL = 400  # lines kept: a cause can stand far above the tracebacks that follow from it
PREFIX = re.compile(r"^\(\w[^)]* pid=\d+\) (?:(?:ERROR|INFO|WARNING) [\d-]+ [\d:]+ \[[^]]*\] ?)?")
CAUSE = re.compile(r"^ *(?:\w+\.)*(\w*(?:Error|Exception)|\w+\.py: error|Value error)[:,] (.+?)(?: \[type=\w+, .*)?$")
# What only points at the real cause, which stands before it if it is there at all.
VAGUE = re.compile(
    r"(?:Engine core|WorkerProc) initialization failed|EngineCore encountered an issue|Worker failed with error"
)
# What tells of a single request.
BESIDE = re.compile(r"VLLMValidationError|cannot schedule new futures")


class EngineProcess:
    """A started engine. `ended` is done when it and all its children are gone and its log has been read.

    Its result is the exit status. `heard` is when its log last grew, in seconds of the monotonic clock.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._control = -1
        self._terminated = False
        self.heard = 0.0
        self.tail: deque[str] = deque(maxlen=TAIL)
        self.pid: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, argv: list[str], environment: dict[str, str]) -> None:
        """Starts `argv` with exactly `environment`."""
        control_read, self._control = os.pipe()
        report_read, report_write = os.pipe()
        try:
            started = await asyncio.create_subprocess_exec(
                sys.executable, "-I", keeper.__file__, str(control_read), str(report_write), *argv,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
                pass_fds=(control_read, report_write), env=environment,
            )  # fmt: skip
        finally:
            os.close(control_read)
            os.close(report_write)
        assert started.stdout
        log = asyncio.create_task(self._read_log(started.stdout))
        self._tasks = [log, asyncio.create_task(self._read_report(report_read, log))]

    def terminate(self) -> None:
        """Asks the engine, once, to finish what it is doing and stop."""
        if not self._terminated:
            self._terminated = True
            self._order(b"t")

    def kill(self) -> None:
        """Ends the engine at once."""
        self._order(b"k")

    def cause(self) -> str:
        """Why it ended, in one line: the last error its log names, or else the log's last line."""
        found = [match for line in self.tail if (match := CAUSE.match(line)) and not BESIDE.search(line)]
        plain = [match for match in found if not VAGUE.search(match[0])]
        if match := next(reversed(plain or found), None):
            return f"{match[1]}: {match[2]}"[:500]
        return self.tail[-1].strip()[:500] if self.tail else "it ended without a word"

    def close(self) -> None:
        """Lets go of the process; a running one is killed by its keeper."""
        if self._control >= 0:
            os.close(self._control)
            self._control = -1
        for task in self._tasks:
            task.cancel()

    def _order(self, order: bytes) -> None:
        if self._control >= 0 and not self.ended.done():
            try:
                os.write(self._control, order)
            except BrokenPipeError:
                return  # it has just ended

    async def _read_log(self, log: asyncio.StreamReader) -> None:
        rest = b""
        while piece := await log.read(2**16):
            self.heard = time.monotonic()  # a bar that shows progress ends no line
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                self._take(line)
            if len(rest) > LONGEST_LINE:
                rest = b""  # what nobody reads would stop the engine
        self._take(rest)

    def _take(self, raw: bytes) -> None:
        line = PREFIX.sub("", raw.decode(errors="replace").rstrip())
        if line:
            self.tail.append(line)
            self._on_line(line)

    async def _read_report(self, report: int, log: "asyncio.Task[None]") -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(report, "rb", 0)
        )
        try:
            session = (await reader.readline()).strip()
            self.pid.set_result(int((await reader.readline()).strip() or 0))
            status = (await reader.readline()).strip()
            if not status and session:
                _kill_session(int(session))
            # The keeper is about to end, and the log with it.
            await asyncio.wait([log], timeout=5)
            self.ended.set_result(int(status) if status else -signal.SIGKILL)
        finally:
            transport.close()


def _kill_session(session: int) -> None:
    """Ends every process of a keeper that was killed before it could do so itself."""
    for pid in psutil.pids():
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == session:
                os.kill(pid, signal.SIGKILL)
