"""The fork server: a process that has imported vLLM and does nothing else, of which engines are forked.

Importing vLLM takes some 12 s of CPU time, and each of an engine's processes does it. A fork of a process that has done
it starts in milliseconds, and shares its memory. What makes forking safe: this process has one thread, has not touched
a device, and never runs an engine itself; it refuses to serve otherwise.

One server serves all engines of a run folder that have the same environment: what libraries read of it when they are
imported is then the same. `service.engine.preload` starts it, and asks. It ends when the last supervisor has hung up.

A request is one message of a sequential-packet socket: a `Request` as JSON, with the descriptors of the pipes for
commands, status and log, and perhaps one that the fork is to have open as long as it lives. The answer is one byte,
written when the fork is made, or the end of the connection.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from service.engine import keeper, spare, stack_hook

MAX_REQUEST = 2**18  # bytes
FIRST_CLIENT = 10.0  # seconds that the first client may take to come
FORKED = b"f"
PR_SET_NAME = 15


@dataclass(frozen=True)
class Request:
    """An engine to fork: `digest` says for which environment, `module` is run with `arguments` as `python -m` would.

    `stacks` is the folder where its processes write their stacks, None where they do not.
    """

    digest: str
    module: str
    arguments: list[str]
    environment: dict[str, str]
    folder: str
    stacks: str | None

    def encode(self) -> bytes:
        """The request as it is sent."""
        return json.dumps(asdict(self)).encode()


@dataclass(frozen=True)
class Job:
    """A request, its pipes, and the descriptors, at most one, that its processes have open beside them."""

    request: Request
    control: int
    status: int
    log: int
    kept: tuple[int, ...] = ()

    def close(self) -> None:
        """Closes all of them, which are the fork's."""
        for descriptor in (self.control, self.status, self.log, *self.kept):
            os.close(descriptor)


class Forked:
    """A child that was forked here, as `keeper.Engine` wants it."""

    def __init__(self, pid: int) -> None:
        self.pid, self._status = pid, -1

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._reap(os.WNOHANG)

    def wait(self) -> int:
        """Waits for its end; returns the exit status."""
        found = self._reap(0)
        assert found is not None
        return found

    def terminate(self) -> None:
        """Sends it SIGTERM."""
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Sends it SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)

    def _reap(self, options: int) -> int | None:
        if self._status < 0:
            pid, status = os.waitpid(self.pid, options)
            if not pid:
                return None
            self._status = status
        return os.waitstatus_to_exitcode(self._status)


def main(listener: int, digest: str, modules: list[str]) -> None:
    """Imports `modules` and serves requests for the environment with this digest; returns when nobody is left.

    Where it becomes an engine, it returns when that ends. The first of the modules must be there, the others may lack.
    """
    if os.fork():
        os._exit(0)
    os.setsid()
    for number in keeper.STOPPING:
        signal.signal(number, signal.SIG_IGN)
    for place, module in enumerate(modules):
        try:
            importlib.import_module(module)
        except ImportError:
            if place == 0:
                raise
    if problem := unfit():
        sys.exit(problem)
    # It finds its place in memory through the variables as they were at the start; forks have others.
    name(" ".join((sys.executable, __file__, *sys.argv[1:])))
    gc.collect()
    gc.freeze()  # a collection in a fork would copy the pages of every object
    if job := serve(socket.socket(fileno=listener), digest):
        become(job)


def unfit() -> str | None:
    """Why this process must not be forked, if so."""
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        return f"it has {threads} threads after its imports"
    torch = sys.modules.get("torch")
    return "a device is in use after its imports" if torch and torch.cuda.is_initialized() else None


def serve(listener: socket.socket, digest: str) -> Job | None:
    """Forks what clients ask for until the last has hung up. In a fork it returns the job."""
    clients: list[socket.socket] = []
    timeout: float | None = FIRST_CLIENT
    while True:
        ready, _, _ = select.select([listener, *clients], [], [], timeout)
        if not ready:
            return None
        for one in ready:
            if one is listener:
                clients.append(listener.accept()[0])
            elif (job := receive(one, digest)) is None:
                one.close()
                clients.remove(one)
            elif pid := os.fork():
                job.close()
                os.waitpid(pid, 0)  # the keeper has forked itself off it
                with contextlib.suppress(OSError):  # nobody waits for it any more, and the keeper ends by itself
                    one.send(FORKED)
            else:
                for other in (listener, *clients):
                    other.close()
                return job
        timeout = None if clients else 0.0


def receive(client: socket.socket, digest: str) -> Job | None:
    """The next request of a client; None where it has hung up, or is not to be served."""
    try:
        message, descriptors, _, _ = socket.recv_fds(client, MAX_REQUEST, 4)
    except OSError:
        return None
    try:
        control, status, log, *kept = descriptors
        request = Request(**json.loads(message))
    except (ValueError, TypeError):
        request = None
    if request is None or request.digest != digest:
        for descriptor in descriptors:
            os.close(descriptor)
        return None
    return Job(request, control, status, log, tuple(kept))


def become(job: Job) -> None:
    """Makes the keeper of this process, and the engine of a child of it; returns when the engine's module does."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for ours, standard in ((nothing, 0), (job.log, 1), (job.log, 2)):
        os.dup2(ours, standard)
    keeper.detach(job.control, job.status, *job.kept)
    if pid := os.fork():
        name(" ".join((sys.executable, keeper.__file__, job.request.module, *job.request.arguments)))
        keeper.keep(job.control, job.status, Forked(pid))
        os._exit(0)
    keeper.prepare_engine()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.close(job.control)
    os.close(job.status)
    run(job.request)


def run(request: Request) -> None:
    """Runs the engine's module in this process, as a new Python would."""
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    if not os.environ.get("PYTHONSAFEPATH"):
        sys.path.insert(0, request.folder)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # Python's own generator sees to that itself
    if request.stacks:
        stack_hook.register_with_forks(request.stacks)
    name(" ".join((sys.executable, "-m", request.module, *request.arguments)))
    spare.prepare()
    sys.argv = [request.module, *request.arguments]
    sys.modules.pop(request.module, None)  # it is run, not imported
    runpy.run_module(request.module, run_name="__main__", alter_sys=True)


def name(title: str) -> None:
    """Has `ps` show this command line, where the package for that is there."""
    try:
        import setproctitle
    except ImportError:
        ctypes.CDLL(None).prctl(PR_SET_NAME, title[:15].encode(), 0, 0, 0)
    else:
        setproctitle.setproctitle(title)
