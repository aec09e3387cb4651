"""A process and what it starts: how it ends, that nothing of it is left behind, and what its log says of the cause."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from service.engine.process import TAIL, EngineProcess
from tests.support.waiting import patience, until

HERE = dict(os.environ)
ROOT = Path(__file__).parents[2]

# An engine in small: it starts a worker, drains on SIGTERM, and both of them say what reaches them.
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


class Run:
    """A started process, and what its log said."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.process = EngineProcess(self.lines.append)

    async def status(self) -> int:
        async with asyncio.timeout(patience()):
            return await asyncio.shield(self.process.ended)

    async def pids(self) -> list[int]:
        """The engine and its worker, once both run."""
        await until(lambda: "the worker runs" in self.lines and any(line.startswith("pids ") for line in self.lines))
        (line,) = (line for line in self.lines if line.startswith("pids "))
        return [int(word) for word in line.split()[1:]]


Begin = Callable[..., Awaitable[Run]]


@pytest.fixture
async def begin() -> AsyncIterator[Begin]:
    """Starts commands; whatever still runs afterwards is ended."""
    runs: list[Run] = []

    async def start(*argv: str, environment: dict[str, str] = HERE) -> Run:
        runs.append(Run())
        await runs[-1].process.start(list(argv), environment)
        return runs[-1]

    yield start
    for run in runs:
        if not run.process.ended.done():
            run.process.kill()
            await run.status()
        run.process.close()
    await asyncio.sleep(0.05)


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def gone(pids: list[int]) -> bool:
    """Whether none of them runs; one that only waits to be collected by its parent does not."""
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
async def test_the_exit_status(code: str, status: int, begin: Begin) -> None:
    run = await begin(*python(code))
    assert await run.status() == status
    assert (await run.process.pid) > 0


@pytest.mark.parametrize("name", ["no-such-program", "notes.txt", "."])
async def test_what_cannot_be_started(name: str, begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no program")
    run = await begin(str(tmp_path / name))
    assert await run.status() == 127
    assert str(tmp_path / name) in run.process.cause()


async def test_its_log_is_read_line_by_line(begin: Begin) -> None:
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
    run = await begin(*python(code))
    await run.status()
    # A line that is too long is dropped, in one piece or in several; those after it are not.
    assert [line for line in run.lines if "xxx" not in line] == [
        "out", "err", "� bytes", "after", "plain", "no end of line",
    ]  # fmt: skip
    assert list(run.process.tail) == run.lines


async def test_only_the_end_of_a_long_log_is_kept(begin: Begin) -> None:
    run = await begin(*python(f"for number in range({TAIL} + 50): print(number)"))
    await run.status()
    assert len(run.lines) == TAIL + 50
    assert len(run.process.tail) == TAIL


async def test_its_environment_is_exactly_what_was_given(begin: Begin) -> None:
    code = "import json, os, sys; print(json.dumps([dict(os.environ), sys.stdin.read(), os.listdir('/proc/self/fd')]))"
    run = await begin(sys.executable, "-I", "-c", code, environment={"ONLY": "this", "LC_ALL": "C.UTF-8"})
    await run.status()
    environment, stdin, files = json.loads(run.lines[0])
    assert environment == {"ONLY": "this", "LC_ALL": "C.UTF-8"}
    assert stdin == ""
    assert len(files) == 4  # input, output, errors, and the folder that is being listed: no pipe of the keeper's


@pytest.mark.parametrize("session", [(), ("session",)])
async def test_it_drains_and_its_worker_is_not_disturbed(session: tuple[str, ...], begin: Begin) -> None:
    run = await begin(*python(ENGINE), *session)
    pids = await run.pids()
    run.process.terminate()
    assert await run.status() == 0
    assert "drained" in run.lines
    assert "the worker got SIGTERM" not in run.lines
    assert gone(pids)


async def test_it_can_be_killed_while_it_drains(begin: Begin) -> None:
    run = await begin(*python(ENGINE.replace("time.sleep(0.2)", "time.sleep(60)")))
    pids = await run.pids()
    run.process.terminate()
    await until(lambda: "draining" in run.lines)
    run.process.kill()
    assert await run.status() == -signal.SIGKILL
    assert gone(pids)


async def test_orders_after_the_end_are_harmless(begin: Begin) -> None:
    run = await begin(*python("pass"))
    await run.status()
    run.process.terminate()
    run.process.kill()
    run.process.close()
    run.process.close()
    run.process.terminate()


async def test_letting_go_of_it_ends_it(begin: Begin) -> None:
    run = await begin(*python(ENGINE))
    pids = await run.pids()
    pids.append(os.getsid(pids[0]))
    run.process.close()
    await until(lambda: gone(pids), "the end of all processes")
    run.process.ended.set_result(0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_its_keeper_is_not_impressed_by_signals(number: signal.Signals, begin: Begin) -> None:
    run = await begin(*python(ENGINE))
    pids = await run.pids()
    os.kill(os.getsid(pids[0]), number)
    await asyncio.sleep(0.3)  # three looks of the keeper at its engine: by then it would have passed the signal on
    assert not run.process.ended.done()
    assert not gone(pids[:1])
    assert "draining" not in run.lines


async def test_it_ends_with_its_keeper(begin: Begin) -> None:
    run = await begin(*python(ENGINE))
    pids = await run.pids()
    keeper = os.getsid(pids[0])
    assert keeper not in (pids[0], os.getpid())
    os.kill(keeper, signal.SIGKILL)
    assert await run.status() == -signal.SIGKILL
    await until(lambda: gone([*pids, keeper]), "the end of all processes")


async def test_it_is_no_descendant_of_ours(begin: Begin) -> None:
    """A process manager that signals all descendants of a service must not reach the engine's workers."""
    run = await begin(*python(ENGINE))
    pids = await run.pids()
    theirs = {*pids, os.getsid(pids[0])}
    await until(lambda: not theirs & {child.pid for child in psutil.Process().children(recursive=True)})
    assert os.getsid(pids[0]) != os.getsid(0)


PARENT = f"""
import asyncio, os
from service.engine.process import EngineProcess
async def main():
    process = EngineProcess(lambda line: print(line, flush=True))
    await process.start([{sys.executable!r}, "-c", {ENGINE!r}], dict(os.environ))
    await process.ended
asyncio.run(main())
"""


@pytest.fixture
async def parent() -> AsyncIterator[tuple[asyncio.subprocess.Process, list[int]]]:
    """A process that has started an engine, and the pids of the engine, its worker and its keeper."""
    process = await asyncio.create_subprocess_exec(
        *python(PARENT), stdout=asyncio.subprocess.PIPE, env=HERE | {"PYTHONPATH": str(ROOT)}
    )
    assert process.stdout
    async with asyncio.timeout(20):
        said = sorted([await process.stdout.readline(), await process.stdout.readline()])
    assert said[1] == b"the worker runs\n"
    pids = [int(word) for word in said[0].split()[1:]]
    pids.append(os.getsid(pids[0]))
    yield process, pids
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if process.returncode is None:
        process.kill()
    await process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_nothing_outlives_the_parent(
    number: signal.Signals, parent: tuple[asyncio.subprocess.Process, list[int]]
) -> None:
    process, pids = parent
    process.send_signal(number)
    await until(lambda: gone(pids), "the end of all processes")


async def test_an_engine_ends_with_its_keeper_though_the_parent_cannot_help(
    parent: tuple[asyncio.subprocess.Process, list[int]],
) -> None:
    process, (engine, _, keeper) = parent
    process.send_signal(signal.SIGSTOP)
    os.kill(keeper, signal.SIGKILL)
    await until(lambda: gone([engine]), "the end of the engine")


WORKER_SAYS = "(Worker pid=13249) ERROR 11-21 20:48:36 [multiproc_executor.py:953] "
CORE_SAYS = "(EngineCore pid=13100) ERROR 11-21 20:50:10 [core.py:1510] "
SERVER_SAYS = "(APIServer pid=4499) ERROR 11-21 20:33:23 [api_router.py:75] "
# What vLLM 0.32 said last, as measured; the first word of each row is what was wrong with its start.
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
{WORKER_SAYS}WorkerProc failed to start.
{WORKER_SAYS}Traceback (most recent call last):
{WORKER_SAYS}safetensors._safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata
(EngineCore pid=13100) Exception: WorkerProc initialization failed due to an exception in a background process.
    raise RuntimeError(
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{}}
""",
        "SafetensorError: Error while deserializing header: incomplete metadata",
    ),
    "no weights": (
        f"""
{WORKER_SAYS}RuntimeError: Cannot find any model weights with `/m`
(EngineCore pid=13100) Exception: WorkerProc initialization failed due to an exception in a background process.
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{'EngineCore': 1}}
""",
        "RuntimeError: Cannot find any model weights with `/m`",
    ),
    "too little memory": (
        f"""
{WORKER_SAYS}ValueError: Available memory on node 0 (6.24/8.21 GiB) is less than requested memory for kv (500.0 GiB).
{CORE_SAYS}RuntimeError: Worker failed with error 'Available memory on node 0', please check
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
{SERVER_SAYS}vllm.exceptions.VLLMValidationError: temperature must be non-negative
RuntimeError: cannot schedule new futures after shutdown
{SERVER_SAYS}vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above).
(APIServer pid=4499) INFO:     Shutting down
""",
        "EngineDeadError: EngineCore encountered an issue. See stack trace (above).",
    ),
    "an end after a request that was refused": (
        f"""
{SERVER_SAYS}vllm.exceptions.VLLMValidationError: temperature must be non-negative
(APIServer pid=4499) INFO:     Shutting down
""",
        "INFO:     Shutting down",
    ),
    "nothing": ("", "it ended without a word"),
}  # fmt: skip


@pytest.mark.parametrize(("log", "cause"), CAUSES.values(), ids=CAUSES.keys())
async def test_the_cause_of_an_end(log: str, cause: str, begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(log)
    run = await begin("/bin/cat", str(tmp_path / "log"))
    await run.status()
    assert run.process.cause() == cause


async def test_a_cause_is_never_long(begin: Begin) -> None:
    run = await begin(*python("print('ValueError: ' + 'x' * 9999)"))
    await run.status()
    assert len(run.process.cause()) == 500
