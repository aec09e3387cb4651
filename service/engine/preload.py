"""Starts engines by forking a process that has imported vLLM already: the client of `service.engine.fork_server`."""

import asyncio
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from service.config.paths import PACKAGE
from service.engine.fork_server import FORKED, Request
from service.engine.unknown_flags import installed_release
from service.fleet.served_model import ServedModel

# The modules of vLLM that a CPU engine's processes import, beside the one that is run.
MODULES = (
    "vllm.entrypoints.launchers.api_server.entry", "vllm.v1.engine.core", "vllm.v1.engine.async_llm",
    "vllm.v1.executor.uniproc_executor", "vllm.v1.executor.multiproc_executor", "vllm.v1.worker.cpu_worker",
)  # fmt: skip
# Variables that are read when an engine starts, not when its libraries are imported.
LATE = frozenset({
    "VLLM_CPU_KVCACHE_SPACE", "VLLM_ALLOW_LONG_MAX_MODEL_LEN", "VLLM_API_KEY", "OTEL_SERVICE_NAME",
    "OTEL_RESOURCE_ATTRIBUTES",
})  # fmt: skip
# What vLLM sets for its workers on a CPU, where it comes too late for a process that has imported torch.
FOR_WORKERS = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "TORCHINDUCTOR_CPP_DYNAMIC_THREADS": "1"}
OPENMP = ("libgomp", "libomp", "libiomp")
LIBRARIES = (
    ("torch", "torch.libs/libgomp*.so*", OPENMP),
    ("torch", "torch/lib/libgomp*.so*", OPENMP),
    ("vllm", "vllm/libs/libtcmalloc*.so*", ("libtcmalloc",)),
)  # the package, what to load of its folder, and what makes that needless
PROGRAM = "import sys; sys.path.insert(0, {root!r}); from service.engine import fork_server; del sys.path[0]; "
IMPORT_TIMEOUT = 300.0  # seconds that importing may take where many processes share few cores
LISTEN = 16  # engines that may wait for the imports


def module_to_run(argv: Sequence[str]) -> str | None:
    """The module that this command runs with our own Python, None where it is another command."""
    return argv[2] if len(argv) > 2 and list(argv[:2]) == [sys.executable, "-m"] else None


def wanted(served: ServedModel, on: bool) -> bool:
    """Whether a model's engines are forked. Those with a GPU are not: nobody has tried it there."""
    return on and not served.gpus and built_for_cpus(installed_release(("vllm",)))


def built_for_cpus(release: str | None) -> bool:
    """Whether this release of the package `vllm` is, such as `0.32.0+cpu`; None where the build for CPUs has its own.

    Others use a GPU, whatever a fleet file says.
    """
    return release is None or "cpu" in release


def prepared(environment: Mapping[str, str]) -> dict[str, str]:
    """An engine's environment with what has to be there before its libraries are imported."""
    threads = {"OPENBLAS_NUM_THREADS": environment.get("OMP_NUM_THREADS", "1")}
    libraries = ":".join(preloaded_libraries(environment.get("LD_PRELOAD", "")))
    return {**threads, **FOR_WORKERS, **environment, **({"LD_PRELOAD": libraries} if libraries else {})}


def preloaded_libraries(given: str) -> Iterator[str]:
    """The libraries to load first: vLLM's choice for its CPU workers, beside what is `given`."""
    for package, pattern, others in LIBRARIES:
        spec = importlib.util.find_spec(package)
        found = sorted(Path(spec.origin).parents[1].glob(pattern)) if spec and spec.origin else []
        if found and not any(name in given for name in others):
            given = f"{found[0]}:{given}"
    yield from filter(None, given.split(":"))


def digest(environment: Mapping[str, str]) -> str:
    """What environments have in common whose engines may be forked of one process."""
    kept = sorted((name, value) for name, value in environment.items() if name not in LATE)
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()


class Pipes(NamedTuple):
    """The descriptors of a keeper: it reads commands from `control`, writes to `status` and `log`, and has `kept` open.

    Those are at most one.
    """

    control: int
    status: int
    log: int
    kept: tuple[int, ...] = ()


class Preload:
    """The fork server of one supervisor's engines, in `run_dir`. It is started when an engine is, and shared."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._connection: socket.socket | None = None
        self._useless = False

    async def start(
        self, argv: Sequence[str], environment: Mapping[str, str], stacks: Path | None, pipes: Pipes
    ) -> bool:
        """Has a keeper forked that runs this command with these pipes; False where that is not possible.

        `environment` has the hook by which processes write their stacks to the folder `stacks`, if that is not None.
        """
        module = module_to_run(argv)
        if module is None or self._useless:
            return False
        ready = prepared(_without_hook(environment, stacks))
        wanted_digest, folder = digest(ready), str(stacks) if stacks else None
        hooked = {**ready, "PYTHONPATH": environment["PYTHONPATH"]} if stacks else ready
        request = Request(wanted_digest, module, list(argv[3:]), hooked, str(Path.cwd()), folder)
        for _ in range(2):  # the first one may just have ended
            try:
                # It takes some milliseconds, in which this process has no engine to look after.
                connection = self._connection or self._connect(wanted_digest, ready, module)
                self._connection = connection
                control, status, log, kept = pipes
                socket.send_fds(connection, [request.encode()], [control, status, log, *kept])
                if await _answer(connection) == FORKED:
                    return True
            except asyncio.CancelledError:
                self.close()  # or the next request would be taken for answered
                raise
            except TimeoutError:
                break
            except OSError:
                pass
            self.close()
        self.close()
        self._useless = True
        return False

    def close(self) -> None:
        """Hangs up; the server ends when nobody is left."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def _connect(self, wanted_digest: str, environment: Mapping[str, str], module: str) -> socket.socket:
        """A connection to the server for this environment, which is started if it does not run. Raises OSError."""
        path = self._run_dir / f"f{wanted_digest[:4]}.sock"
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with _locked(path.with_suffix(".lock")):
                if connection.connect_ex(str(path)) != 0:
                    _launch(path, wanted_digest, environment, module)
                    connection.connect(str(path))
        except OSError:
            connection.close()
            raise
        connection.setblocking(False)
        return connection


def _launch(path: Path, wanted_digest: str, environment: Mapping[str, str], module: str) -> None:
    """Starts a server that listens on `path`. It takes clients at once, and serves them after its imports."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, path.with_suffix(".log").open("wb") as log:
        listener.bind(str(path))
        listener.listen(LISTEN)
        program = PROGRAM.format(root=str(PACKAGE.parent))
        program += f"fork_server.main({listener.fileno()}, {wanted_digest!r}, {[module, *MODULES]!r})"
        if subprocess.run(
            [sys.executable, "-P", "-c", program, str(path)], pass_fds=[listener.fileno()], check=False,
            env={name: value for name, value in environment.items() if name not in LATE},
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        ).returncode:  # fmt: skip
            raise OSError(errno.ECHILD, "the fork server could not be started", str(path))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _without_hook(environment: Mapping[str, str], stacks: Path | None) -> dict[str, str]:
    """The environment without the folder `stacks` in PYTHONPATH, which is different for each engine."""
    kept = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry not in ("", str(stacks))]
    rest = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    return {**rest, **({"PYTHONPATH": os.pathsep.join(kept)} if kept else {})}


async def _answer(connection: socket.socket) -> bytes:
    """What the server answers; nothing where it hangs up. Raises TimeoutError where its imports take too long."""
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        async with asyncio.timeout(IMPORT_TIMEOUT):
            await readable.wait()
        return connection.recv(1)
    finally:
        loop.remove_reader(connection)
