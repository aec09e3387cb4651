"""An engine's processes under their keeper: how they end, that none is left behind, and the cause read from the log."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest

from service.engine import keeper
from service.engine.process import NO_GPU, TAIL_LINES, EngineProcess, pipe_lines
from tests.support.children import noticed
from tests.support.waiting import PATIENCE, patience, until

ENVIRON = dict(os.environ)
ROOT = Path(__file__).parents[2]

# A minimal engine: it starts a worker and drains on SIGTERM; both print the signals that they receive.
WORKER = """
import signal, time
def stop(*_):
    print("the worker got SIGTERM", flush=True)
signal.signal(signal.SIGTERM, stop)
print("the worker runs", flush=True)
while True:
    time.sleep(0.05)
"""
ENGINE = f"""
import os, signal, subprocess, sys, time
def stop(*_):
    print("draining", flush=True)
    time.sleep(0.2)
    print("drained", flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
worker = subprocess.Popen([sys.executable, "-c", {WORKER!r}], start_new_session="session" in sys.argv)
print("pids", os.getpid(), worker.pid, flush=True)
while True:
    time.sleep(0.05)
"""


class StartedProcess:
    """A started process and the lines of its log."""

    def __init__(self, on_raw: Callable[[str, bool], None] | None) -> None:
        self.lines: list[str] = []
        self.process = EngineProcess(self.lines.append, on_raw=on_raw)

    async def status(self) -> int:
        async with asyncio.timeout(patience()):
            return await asyncio.shield(self.process.ended)

    async def pids(self) -> list[int]:
        """The engine and its worker, once both started."""
        await until(lambda: "the worker runs" in self.lines and any(line.startswith("pids ") for line in self.lines))
        (line,) = (line for line in self.lines if line.startswith("pids "))
        return [int(word) for word in line.split()[1:]]


Start = Callable[..., Awaitable[StartedProcess]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts commands; kills what still runs afterwards."""
    runs: list[StartedProcess] = []

    async def start(
        *argv: str, environment: dict[str, str] = ENVIRON, on_raw: Callable[[str, bool], None] | None = None
    ) -> StartedProcess:
        runs.append(StartedProcess(on_raw))
        await runs[-1].process.start(list(argv), environment)
        return runs[-1]

    async with noticed():
        yield start
        for started in runs:
            if not started.process.ended.done():
                started.process.kill()
                await started.status()
            started.process.close()


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def descriptors(pid: int) -> list[str]:
    """What the open descriptors of a process are."""
    found = []
    for entry in list(Path(f"/proc/{pid}/fd").iterdir()):
        with suppress(FileNotFoundError):  # that of the listed folder
            found.append(str(entry.readlink()))
    return found


def all_ended(pids: list[int]) -> bool:
    """Whether none of them runs; a zombie counts as ended."""
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            continue
    return True


STATUSES = [
    ("pass", 0),
    ("raise SystemExit(3)", 3),
    ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9),
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", -11),
]


@pytest.mark.parametrize(("code", "status"), STATUSES)
async def test_exit_statuses(code: str, status: int, start: Start) -> None:
    started = await start(*python(code))
    assert await started.status() == status
    assert (await started.process.pid) > 0


@pytest.mark.parametrize("name", ["no-such-program", "notes.txt", "."])
async def test_a_program_that_cannot_be_started(name: str, start: Start, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no program")
    started = await start(str(tmp_path / name))
    assert await started.status() == 127
    assert str(tmp_path / name) in started.process.cause()


async def test_lines_tell_whether_they_came_before_the_end_was_asked_for(start: Start) -> None:
    raw: list[tuple[str, bool]] = []
    started = await start(sys.executable, "-c", ENGINE, on_raw=lambda *line: raw.append(line))
    await started.pids()
    started.process.terminate()
    assert await started.status() == 0
    assert ("the worker runs", False) in raw
    assert raw[-2:] == [("draining", True), ("drained", True)]


async def test_the_cpu_time_of_all_its_processes_is_counted(start: Start) -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint('burnt', flush=True)\n"
    code = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {burn!r}]); time.sleep(600)"
    started = await start(*python(code))
    await until(lambda: started.process.cpu_time >= 0.3, "the time of a child")
    await until(lambda: started.lines == ["burnt"] and len(psutil.Process(started.process.session).children(True)) == 1)
    assert started.process.cpu_time >= 0.3, "it has ended, and its parent has its time"


async def test_the_log_is_read_line_by_line(start: Start) -> None:
    code = r"""
import os, sys
print("out", flush=True)
print("  \nerr", file=sys.stderr, flush=True)
os.write(1, b"\xff bytes\r\n")
print("x" * 3_000_000, flush=True)
print("(EngineCore pid=12) INFO 11-21 20:31:59 [core.py:114] after", flush=True)
print("(APIServer pid=7) plain", flush=True)
os.write(1, b"no end of line")
"""
    started = await start(*python(code))
    await started.status()
    # Only lines that are too long are dropped, whether read in one piece or in several.
    assert [line for line in started.lines if "xxx" not in line] == [
        "out", "err", "� bytes", "after", "plain", "no end of line",
    ]  # fmt: skip
    assert list(started.process.tail) == started.lines


async def test_only_the_end_of_a_long_log_is_kept(start: Start) -> None:
    started = await start(*python(f"for number in range({TAIL_LINES} + 50): print(number)"))
    await started.status()
    assert len(started.lines) == TAIL_LINES + 50
    assert len(started.process.tail) == TAIL_LINES


async def test_the_environment_is_exactly_what_was_given(start: Start) -> None:
    code = "import json, os, sys; print(json.dumps([dict(os.environ), sys.stdin.read(), os.listdir('/proc/self/fd')]))"
    started = await start(sys.executable, "-I", "-c", code, environment={"ONLY": "this", "LC_ALL": "C.UTF-8"})
    await started.status()
    environment, stdin, files = json.loads(started.lines[0])
    assert environment == {"ONLY": "this", "LC_ALL": "C.UTF-8"}
    assert stdin == ""
    assert len(files) == 4  # stdin, stdout, stderr and the listed folder: none of the keeper's pipes


async def test_keeper_and_engine_hold_no_descriptor_of_the_supervisor(start: Start) -> None:
    """BentoML hands each worker the listening sockets of all; a keeper that held one would keep its port in use."""
    reader, writer = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as listener, os.fdopen(reader), os.fdopen(writer):
        for descriptor in (listener.fileno(), reader):
            os.set_inheritable(descriptor, True)
        inherited = {f"socket:[{os.fstat(listener.fileno()).st_ino}]", f"pipe:[{os.fstat(reader).st_ino}]"}
        started = await start(*python(ENGINE))
        pids = await started.pids()
        for pid in (os.getsid(pids[0]), *pids):
            held = descriptors(pid)
            assert held
            assert not inherited.intersection(held)
        assert len(descriptors(os.getsid(pids[0]))) == 5  # three, and its two pipes


@pytest.mark.parametrize("session", [(), ("session",)])
async def test_terminate_signals_the_engine_but_not_its_worker(session: tuple[str, ...], start: Start) -> None:
    started = await start(*python(ENGINE), *session)
    pids = await started.pids()
    started.process.terminate()
    assert await started.status() == 0
    assert "drained" in started.lines
    assert "the worker got SIGTERM" not in started.lines
    assert all_ended(pids)


async def test_kill_during_a_drain(start: Start) -> None:
    started = await start(*python(ENGINE.replace("time.sleep(0.2)", "time.sleep(60)")))
    pids = await started.pids()
    started.process.terminate()
    await until(lambda: "draining" in started.lines)
    started.process.kill()
    assert await started.status() == -signal.SIGKILL
    assert all_ended(pids)


async def test_commands_after_the_end_do_nothing(start: Start) -> None:
    started = await start(*python("pass"))
    await started.status()
    started.process.terminate()
    started.process.kill()
    started.process.close()
    started.process.close()
    started.process.terminate()


async def test_a_pipe_is_closed_once() -> None:
    """A second time would close whatever else has got its number since."""
    read, write = os.pipe()
    os.write(write, b"1\n")
    async with pipe_lines(read) as lines:
        assert await lines.readline() == b"1\n"
    others = [os.open(os.devnull, os.O_RDONLY) for _ in range(4)]
    for _ in range(3):  # iterations, in which the transport closes it
        await asyncio.sleep(0)
    for descriptor in (*others, write):
        os.close(descriptor)


async def test_closing_the_control_pipe_kills_everything(start: Start) -> None:
    started = await start(*python(ENGINE))
    pids = await started.pids()
    pids.append(os.getsid(pids[0]))
    started.process.close()
    await until(lambda: all_ended(pids), "the end of all processes")
    started.process.ended.set_result(0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_the_keeper_ignores_signals(number: signal.Signals, start: Start) -> None:
    started = await start(*python(ENGINE))
    pids = await started.pids()
    os.kill(os.getsid(pids[0]), number)
    await asyncio.sleep(0.3)  # three checks of its engine by the keeper: by then it would have passed the signal on
    assert not started.process.ended.done()
    assert not all_ended(pids[:1])
    assert "draining" not in started.lines


async def test_the_engine_ends_when_its_keeper_is_killed(start: Start) -> None:
    started = await start(*python(ENGINE))
    pids = await started.pids()
    session = os.getsid(pids[0])
    assert session not in (pids[0], os.getpid())
    os.kill(session, signal.SIGKILL)
    assert await started.status() == -signal.SIGKILL
    await until(lambda: all_ended([*pids, session]), "the end of all processes")


async def test_the_engine_is_no_descendant_of_the_supervisor(start: Start) -> None:
    """A process manager that signals all descendants of a service must not reach the engine's workers."""
    started = await start(*python(ENGINE))
    pids = await started.pids()
    engine_pids = {*pids, os.getsid(pids[0])}
    await until(lambda: not engine_pids & {child.pid for child in psutil.Process().children(recursive=True)})
    assert os.getsid(pids[0]) != os.getsid(0)


SUPERVISOR = f"""
import asyncio, os
from service.engine.process import EngineProcess
async def main():
    process = EngineProcess(lambda line: print(line, flush=True))
    await process.start([{sys.executable!r}, "-c", {ENGINE!r}], dict(os.environ))
    await process.ended
asyncio.run(main())
"""


@asynccontextmanager
async def started_supervisor(limit: float) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[int]]]:
    """A process that has started an engine, and the pids of the engine, its worker and its keeper."""
    pids: list[int] = []
    process = await asyncio.create_subprocess_exec(
        *python(SUPERVISOR), stdout=asyncio.subprocess.PIPE, env=ENVIRON | {"PYTHONPATH": str(ROOT)}
    )
    try:
        assert process.stdout
        async with asyncio.timeout(limit):
            lines = sorted([await process.stdout.readline(), await process.stdout.readline()])
        assert lines[1] == b"the worker runs\n"
        pids += [int(word) for word in lines[0].split()[1:]]
        pids.append(os.getsid(pids[0]))
        yield process, pids
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            process.kill()  # its keeper, if it has one by now, ends the engine
        await process.wait()


@pytest.fixture
async def supervisor() -> AsyncIterator[tuple[asyncio.subprocess.Process, list[int]]]:
    async with started_supervisor(PATIENCE) as started:
        yield started


async def test_a_supervisor_that_does_not_start_in_time_is_not_left_behind() -> None:
    before = set(psutil.Process().children())
    with pytest.raises(TimeoutError):
        async with started_supervisor(0.0):
            pass
    assert set(psutil.Process().children()) <= before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_no_process_outlives_the_supervisor(
    number: signal.Signals, supervisor: tuple[asyncio.subprocess.Process, list[int]]
) -> None:
    process, pids = supervisor
    process.send_signal(number)
    await until(lambda: all_ended(pids), "the end of all processes")


async def test_the_engine_ends_with_its_keeper_while_the_supervisor_is_stopped(
    supervisor: tuple[asyncio.subprocess.Process, list[int]],
) -> None:
    process, (engine, _, session) = supervisor
    process.send_signal(signal.SIGSTOP)
    os.kill(session, signal.SIGKILL)
    await until(lambda: all_ended([engine]), "the end of the engine")


@pytest.mark.parametrize("written", [b"", b"x\ny\nz\n", b"0\n7\nx\n", b"\n\n\n"])
async def test_whatever_the_keeper_writes_the_process_ends(
    written: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "keeper.py"
    program.write_text(f"import os, sys; os.write(int(sys.argv[2]), {written!r})")
    monkeypatch.setattr(keeper, "__file__", str(program))
    async with noticed():
        process = EngineProcess(lambda _: None)
        await process.start(["engine"], ENVIRON)
        async with asyncio.timeout(patience()):
            assert await process.ended == -signal.SIGKILL
            assert await process.pid in (0, 7)
        assert not process.is_running
        process.close()


WORKER_PREFIX = "(Worker pid=13249) ERROR 11-21 20:48:36 [multiproc_executor.py:953] "
CORE_PREFIX = "(EngineCore pid=13100) ERROR 11-21 20:50:10 [core.py:1510] "
SERVER_PREFIX = "(APIServer pid=4499) ERROR 11-21 20:33:23 [api_router.py:75] "
# The last lines of vLLM 0.32's log, as measured, by what was wrong.
CAUSES = {
    "missing weights": (
        """
(APIServer pid=11810) WARNING 11-21 20:46:53 [system_utils.py:255] errors like `OSError: [Errno 24] Too many open files`
    raise HFValidationError(
huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': '/none'.
""",
        "HFValidationError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': '/none'.",
    ),
    "broken config": (
        """
json.decoder.JSONDecodeError: Invalid control character at: line 1 column 26 (char 25)
    raise OSError(f"It looks like the config file at '{resolved_config_file}' is not a valid JSON file.")
OSError: It looks like the config file at '/models/x/config.json' is not a valid JSON file.
""",
        "OSError: It looks like the config file at '/models/x/config.json' is not a valid JSON file.",
    ),
    "unknown flag": (
        """
                     [--shutdown-timeout SHUTDOWN_TIMEOUT]
                     [model_tag]
api_server.py: error: unrecognized arguments: --no-such-flag
""",
        "api_server.py: error: unrecognized arguments: --no-such-flag",
    ),
    "too long a context": (
        """
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, User-specified max_model_len (9999) is greater than the derived one (1024.0) [type=value_error, x]
    For further information visit https://errors.pydantic.dev/2.14/v/value_error
""",
        "Value error: User-specified max_model_len (9999) is greater than the derived one (1024.0)",
    ),
    "truncated weights": (
        f"""
{WORKER_PREFIX}WorkerProc failed to start.
{WORKER_PREFIX}Traceback (most recent call last):
{WORKER_PREFIX}safetensors._safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata
(EngineCore pid=13100) Exception: WorkerProc initialization failed due to an exception in a background process.
    raise RuntimeError(
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{}}
""",
        "SafetensorError: Error while deserializing header: incomplete metadata",
    ),
    "no weights": (
        f"""
{WORKER_PREFIX}RuntimeError: Cannot find any model weights with `/m`
(EngineCore pid=13100) Exception: WorkerProc initialization failed due to an exception in a background process.
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{'EngineCore': 1}}
""",
        "RuntimeError: Cannot find any model weights with `/m`",
    ),
    "too little memory": (
        f"""
{WORKER_PREFIX}ValueError: Available memory on node 0 (6.24/8.21 GiB) is less than requested memory for kv (500.0 GiB).
{CORE_PREFIX}RuntimeError: Worker failed with error 'Available memory on node 0', please check
RuntimeError: Worker failed with error 'Available memory on node 0', please check
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{}}
/usr/lib/python3.11/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 1 leaked
  warnings.warn('resource_tracker: There appear to be %d '
""",
        "ValueError: Available memory on node 0 (6.24/8.21 GiB) is less than requested memory for kv (500.0 GiB).",
    ),
    "no folder for its socket": (
        "\nFileNotFoundError: [Errno 2] No such file or directory\n",
        "FileNotFoundError: [Errno 2] No such file or directory",
    ),
    "a dead core, after requests that were refused": (
        f"""
{SERVER_PREFIX}vllm.exceptions.VLLMValidationError: temperature must be non-negative
RuntimeError: cannot schedule new futures after shutdown
{SERVER_PREFIX}vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above).
(APIServer pid=4499) INFO:     Shutting down
""",
        "EngineDeadError: EngineCore encountered an issue. See stack trace (above).",
    ),
    "no GPU for the build for GPUs": (
        f"""
{SERVER_PREFIX}RuntimeError: Failed to infer device type, please set the environment variable `VLLM_LOGGING_LEVEL=DEBUG`
""",
        NO_GPU,
    ),
    "an end after a request that was refused": (
        f"""
{SERVER_PREFIX}vllm.exceptions.VLLMValidationError: temperature must be non-negative
(APIServer pid=4499) INFO:     Shutting down
""",
        "INFO:     Shutting down",
    ),
    "nothing": ("", "it ended without any output"),
}  # fmt: skip


@pytest.mark.parametrize(("log", "cause"), CAUSES.values(), ids=CAUSES.keys())
async def test_the_cause_of_an_exit(log: str, cause: str, start: Start, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(log)
    started = await start("/bin/cat", str(tmp_path / "log"))
    await started.status()
    assert started.process.cause() == cause


async def test_a_long_cause_is_cut(start: Start) -> None:
    started = await start(*python("print('ValueError: ' + 'x' * 9999)"))
    await started.status()
    assert len(started.process.cause()) == 500


async def test_what_an_engine_makes_is_for_this_user_alone(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    started = await start(*python(f"import socket; socket.socket(socket.AF_UNIX).bind({str(path)!r})"))
    assert await started.status() == 0
    assert path.stat().st_mode & 0o077 == 0
