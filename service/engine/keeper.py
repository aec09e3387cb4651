"""Holds one engine's processes so that none outlives its supervisor, and none is stopped behind its back.

A process manager that stops a service signals all of that service's descendants. vLLM's workers quit at once on
SIGTERM and break every running request, so the keeper leaves its parent's process tree: only the API server is asked to
stop, and it drains. The keeper ends everything when its control pipe closes, which the kernel does however the
supervisor dies.

Run as a program: `python keeper.py CONTROL REPORT COMMAND...`. The bytes on the pipe CONTROL are the orders: `t` asks
the engine to drain and stop, `k` or the pipe's end kills it. On REPORT it writes lines: its own pid, which is the
session of all it starts, the engine's pid, and the engine's exit status once everything has ended.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def main(control: int, report: int, command: list[str]) -> None:
    """Starts `command` and follows the orders on `control` until the command has ended."""
    if os.fork():
        os._exit(0)
    os.setsid()
    _say(report, f"{os.getpid()}\n")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    libc = ctypes.CDLL(None)
    # Orphaned workers of the engine become ours, so that the sweep below finds them.
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    try:
        engine = subprocess.Popen(command, preexec_fn=prepare, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", flush=True)
        _say(report, "0\n127\n")
        return
    _say(report, f"{engine.pid}\n")
    _follow(control, engine)
    status = engine.wait()
    _sweep()
    _say(report, f"{status}\n")


def _follow(control: int, engine: "subprocess.Popen[bytes]") -> None:
    """Passes orders on until the engine has ended."""
    while engine.poll() is None:
        ready, _, _ = select.select([control], [], [], 0.1)
        if not ready:
            continue
        order = os.read(control, 1)
        if order == b"t":
            engine.terminate()
        else:
            engine.kill()
            engine.wait()


def _sweep() -> None:
    """Kills what the engine left behind: every process whose parent we are, until there is none."""
    while True:
        running = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
        for pid in filter(lambda pid: _parent(pid) == os.getpid(), running):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def _parent(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return int(stat.rsplit(")", 1)[1].split()[1])


def _say(report: int, text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(report, text.encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
