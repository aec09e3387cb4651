"""The keeper: a small process between supervisor and engine that owns all of the engine's processes.

It is to an engine what containerd-shim is to a container: a child subreaper in a session of its own. Two things need
it. A process manager that stops a service signals all of its descendants, and vLLM's workers quit at once on SIGTERM
and break every running request; the keeper leaves the supervisor's process tree, so that only the API server gets
SIGTERM, and drains. And no engine process may outlive the supervisor: the kernel closes the control pipe however the
supervisor dies, and the keeper then kills everything.

Run as a program: `python keeper.py CONTROL STATUS KEPT COMMAND...`, where CONTROL and STATUS are file descriptors of
pipes, and KEPT is empty or one that it and the engine are to have open as long as they live.
On CONTROL it reads one-byte commands: TERMINATE asks the engine to drain and stop; KILL, or the end of the pipe, kills
it. On STATUS it writes lines: its own pid, which is also the session id of all that it starts, the engine's pid, and
the engine's exit status once every process has ended.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Protocol

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
TERMINATE, KILL = b"t", b"k"
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Engine(Protocol):
    """The engine's first process, as subprocess.Popen has it."""

    pid: int

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""

    def wait(self) -> int:
        """Waits for its end; returns the exit status."""

    def terminate(self) -> None:
        """Sends it SIGTERM."""

    def kill(self) -> None:
        """Sends it SIGKILL."""


def main(control: int, status: int, kept: tuple[int, ...], command: list[str]) -> None:
    """Starts `command`, carries out the commands on `control`, and returns when all processes have ended."""
    detach(control, status, *kept)
    try:
        engine = subprocess.Popen(command, preexec_fn=prepare_engine, stdin=subprocess.DEVNULL, pass_fds=kept)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", flush=True)
        _write(status, "0\n127\n")
        return
    keep(control, status, engine)


def detach(control: int, status: int, *kept: int) -> None:
    """Makes a keeper of this process: of all descriptors it has only these and the standard ones, and a new pid."""
    _close_inherited({0, 1, 2, control, status, *kept})
    if os.fork():
        os._exit(0)
    os.setsid()
    _write(status, f"{os.getpid()}\n")
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o077)  # vLLM gives its sockets and files no mode: they are for this user alone
    # Orphaned workers of the engine become our children, so that `_kill_children` finds them.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def prepare_engine() -> None:
    """What a new process does before it is the engine: it ends with its keeper, and may be stopped by signals."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in STOPPING:
        signal.signal(number, signal.SIG_DFL)


def keep(control: int, status: int, engine: Engine) -> None:
    """Carries out the commands on `control`, and returns when all processes of the engine have ended."""
    _write(status, f"{engine.pid}\n")
    _forward_commands(control, engine)
    exit_status = engine.wait()
    _kill_children()
    _write(status, f"{exit_status}\n")


def _close_inherited(kept: set[int]) -> None:
    """Closes every other descriptor, however it got here.

    BentoML gives each worker the listening sockets of all, and uvloop passes on what is inheritable: a keeper that
    held the gateway's socket would keep its port in use.
    """
    for entry in list(Path("/proc/self/fd").iterdir()):
        if (descriptor := int(entry.name)) not in kept:
            with contextlib.suppress(OSError):  # that of the listed folder is closed already
                os.close(descriptor)


def _forward_commands(control: int, engine: Engine) -> None:
    """Passes commands on until the engine has ended."""
    while engine.poll() is None:
        ready, _, _ = select.select([control], [], [], 0.1)
        if not ready:
            continue
        if os.read(control, 1) == TERMINATE:
            engine.terminate()
        else:
            engine.kill()
            engine.wait()


def _kill_children() -> None:
    """Kills what the engine left behind, repeatedly: killing a child hands its own children to us."""
    while True:
        pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
        for pid in filter(lambda pid: _parent(pid) == os.getpid(), pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def _parent(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        return int(stat.rsplit(")", 1)[1].split()[1])
    except (OSError, ValueError, IndexError):  # it has just ended
        return None


def _write(status: int, text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(status, text.encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), tuple(map(int, filter(None, [sys.argv[3]]))), sys.argv[4:])
