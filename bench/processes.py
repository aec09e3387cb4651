"""Processes that a measurement starts: pinned to a core, ended with it, and their resource usage."""

import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from service.config.paths import ROOT

PR_SET_PDEATHSIG = 1
PORTS = range(20_000, 32_000)
PATIENCE = 15.0  # seconds that a process may take to end before it is killed
MB = 10**6


@dataclass(frozen=True)
class Usage:
    """What a process and all that it started use: CPU `seconds` so far, bytes of memory, open `files`.

    `rss` is that of all of them, `largest` that of the largest one.
    """

    seconds: float
    rss: int
    largest: int
    files: int


def usage(root: int) -> Usage:
    """What the process `root` and its descendants use."""
    every = [used(one) for one in family(root)]
    return Usage(
        seconds=sum(one.seconds for one in every),
        rss=sum(one.rss for one in every),
        largest=max((one.largest for one in every), default=0),
        files=sum(one.files for one in every),
    )


def used(process: psutil.Process) -> Usage:
    """What one process uses; nothing where it has ended."""
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess), process.oneshot():
        times = process.cpu_times()
        rss = process.memory_info().rss
        return Usage(times.user + times.system, rss, rss, process.num_fds())
    return Usage(0.0, 0, 0, 0)


def proportional(root: int) -> int:
    """Bytes of memory of the process `root` and its descendants, where what n processes share counts as an n-th each.

    That is their PSS; the sum of their RSS, which `usage` has, counts it n times.
    """
    found = 0
    for one in family(root):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            found += one.memory_full_info().pss
    return found


def family(root: int) -> list[psutil.Process]:
    """A process and its descendants; empty where it has ended."""
    try:
        process = psutil.Process(root)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def busy() -> float:
    """CPU seconds that all programs of this machine have used so far."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def free_port() -> int:
    """A TCP port of 127.0.0.1 where nobody listens now, and that no other call on this machine has had for long.

    All callers take the next one in turn: a port may be bound seconds after it was asked for. It is none of those that
    the kernel gives to whoever asks for any.
    """
    with Path(tempfile.gettempdir(), f"roundhouse-ports-{os.getuid()}").open("a+") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        turn.seek(0)
        port = int(turn.read() or PORTS.start)
        while True:
            port = port + 1 if port + 1 in PORTS else PORTS.start
            with socket.socket() as probe, suppress(OSError):
                probe.bind(("127.0.0.1", port))
                break
        turn.truncate(0)
        turn.write(str(port))
        return port


@contextmanager
def running(
    command: Sequence[str], log: Path, core: int | None = None, environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Runs a program from the repository's root, its output in `log`; it and all that it started end afterwards."""
    with log.open("ab") as output:
        process = launch(command, output.fileno(), core, environment)
    try:
        yield process
    finally:
        end(process)


def launch(
    command: Sequence[str], output: int, core: int | None = None, environment: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """Starts a program, on one `core` only where it is given; the kernel stops it when we die."""

    def settle() -> None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if core is not None:
            os.sched_setaffinity(0, {core})

    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL,
        stdout=output, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=settle,
    )  # fmt: skip


def end(process: "subprocess.Popen[bytes]") -> None:
    """Ends a program as Ctrl-C does, and kills what of it is left after a while."""
    members = family(process.pid)
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=PATIENCE)
    for one in members:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


def serve(fleet: Path, port: int) -> list[str]:
    """The command that serves a fleet on a port as `make serve` does."""
    return [sys.executable, "-m", "service.cli", "serve", "--fleet", str(fleet), "--port", str(port)]
