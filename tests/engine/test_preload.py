"""Engines that are forked of a process with their imports: how they start, spawn and end, with a stand-in for vLLM."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from service.engine import preload, spare, stacks
from service.engine.preload import Preload
from service.engine.process import EngineProcess
from tests.support import fleets
from tests.support.waiting import patience, until

# Each import of it is a line of the file `imports`. It starts two workers as vLLM starts its engine core.
MODULE = """
import multiprocessing, os, sys, heavy

def work(number):
    print("worker", number, os.getppid(), os.environ.get("VLLM_LATER"), flush=True)

if __name__ == "__main__":
    print("engine", os.getpid(), *sys.argv[1:], os.environ["OF_ONE"], os.getcwd(), flush=True)
    if "spawn" in sys.argv:
        os.environ["VLLM_LATER"] = "later"
        for number in range(2):
            process = multiprocessing.get_context("spawn").Process(target=work, args=(number,))
            process.start()
            process.join()
            print("exit", process.exitcode, flush=True)
    if "stay" in sys.argv:
        multiprocessing.get_context("fork").Process(target=sys.stdin.read).start()
        import signal
        while True:
            signal.pause()
    sys.exit(3)
"""
HEAVY = "import os; open(os.environ['IMPORTS'], 'a').write('x')\n"


class Engines:
    """Starts engines, each with a supervisor's `Preload` of its own; all in one folder."""

    def __init__(self, folder: Path) -> None:
        self.run_dir, self.imports = folder / "run", folder / "imports"
        self.run_dir.mkdir()
        (folder / "standing.py").write_text(MODULE)
        self.heavy = folder / "heavy.py"
        self.heavy.write_text(HEAVY)
        self.imports.touch()
        self.environment = {"PYTHONPATH": str(folder), "IMPORTS": str(self.imports), "PATH": os.environ["PATH"]}
        self.lines: list[str] = []
        self.clients: list[Preload] = []
        self.processes: list[EngineProcess] = []

    async def start(
        self, *words: str, stacks: Path | None = None, kept: tuple[int, ...] = (), forked: bool = True, **variables: str
    ) -> EngineProcess:
        environment = {**self.environment, "OTEL_SERVICE_NAME": words[0], "OF_ONE": "1", **variables}
        client, process = Preload(self.run_dir), EngineProcess(self.lines.append)
        self.clients.append(client)
        self.processes.append(process)
        argv = [sys.executable, "-m", "standing", *words]
        await process.start(argv, environment, client if forked else None, stacks, kept)
        return process

    async def again(self, *words: str) -> EngineProcess:
        """Another start by the first supervisor."""
        process = EngineProcess(self.lines.append)
        self.processes.append(process)
        argv, variables = [sys.executable, "-m", "standing", *words], {**self.environment, "OF_ONE": "1"}
        await process.start(argv, variables, self.clients[0])
        return process

    def servers(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                line = " ".join(process.cmdline())
                if f"{self.run_dir}/f" in line and "fork_server" in line and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    async def printed(self, beginning: str, count: int = 1) -> list[str]:
        await until(lambda: len(self.of(beginning)) >= count, f"{count} × {beginning} (log: {self.lines})")
        return self.of(beginning)

    def of(self, beginning: str) -> list[str]:
        return [line for line in self.lines if line.startswith(beginning)]


async def end(process: EngineProcess) -> int:
    async with asyncio.timeout(patience()):
        return await asyncio.shield(process.ended)


@pytest.fixture
async def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engines]:
    monkeypatch.setattr(preload, "MODULES", ("heavy", "not_in_this_release"))
    found = Engines(tmp_path)
    yield found
    for process in found.processes:
        process.kill()
        process.close()
    for client in found.clients:
        client.close()
    await until(lambda: not found.servers(), "the end of the fork server, which nobody needs any more")


async def test_engines_and_their_first_process_are_forked_of_one(engines: Engines) -> None:
    one, two = await asyncio.gather(engines.start("one", "spawn"), engines.start("two"))
    assert [await end(one), await end(two)] == [3, 3]
    (first, second) = sorted(engines.of("engine"), key=lambda line: " two " in line)
    assert first.split()[2:] == ["one", "spawn", "1", str(Path.cwd())]
    assert second.split()[2:] == ["two", "1", str(Path.cwd())]
    parent = first.split()[1]
    assert engines.of("worker") == [f"worker {number} {parent} later" for number in range(2)]
    assert engines.of("exit") == ["exit 0", "exit 0"]
    assert engines.imports.read_text() == "xx", "the server's, and that of the second worker"
    assert len(engines.servers()) == 1


async def test_an_engine_outlives_the_fork_server_and_the_next_one_gets_a_new_one(engines: Engines) -> None:
    first = await engines.start("one", "stay")
    await engines.printed("engine")
    (server,) = engines.servers()
    server.kill()
    await until(lambda: not engines.servers(), "the server's end")
    assert not first.ended.done()
    assert await end(await engines.start("two")) == 3
    assert not first.ended.done()
    assert engines.imports.read_text() == "xx"


def inodes(pid: int) -> set[int]:
    """Of all that the process has open."""
    found = set()
    for entry in list(Path(f"/proc/{pid}/fd").iterdir()):
        with suppress(FileNotFoundError):  # it has just closed it
            found.add(entry.stat().st_ino)
    return found


@pytest.mark.parametrize("forked", [True, False])
async def test_a_descriptor_is_open_as_long_as_its_engine_lives(forked: bool, engines: Engines) -> None:
    """The lock of a seat in a shared memory: from before the fork to the end of the last process."""
    ended, descriptor = os.pipe()
    with os.fdopen(ended, "rb", 0) as pipe:
        os.set_blocking(ended, False)
        inode = os.fstat(descriptor).st_ino
        process = await engines.start("one", "stay", kept=(descriptor,), forked=forked)
        os.close(descriptor)
        (line,) = await engines.printed("engine")
        engine = psutil.Process(int(line.split()[1]))
        keeper = engine.parent()
        assert keeper
        for one in (engine, keeper):
            assert inode in inodes(one.pid)
        assert pipe.read(1) is None
        process.kill()
        await end(process)
        await until(lambda: pipe.read(1) == b"", "the end of the last process that had it")


@pytest.mark.parametrize("way", ["kill", "terminate", "signal"])
async def test_a_forked_engine_ends_as_others_do(way: str, engines: Engines) -> None:
    process = await engines.start("one", "stay")
    (line,) = await engines.printed("engine")
    engine = psutil.Process(int(line.split()[1]))
    await until(lambda: len(engine.children()) > 0, "its worker")
    family = [engine, engine.parent(), *engine.children()]
    assert await process.pid == engine.pid
    assert "standing one stay" in " ".join(engine.cmdline())
    if way == "signal":
        engine.send_signal(signal.SIGKILL)
    else:
        getattr(process, way)()
    assert await end(process) == (-signal.SIGTERM if way == "terminate" else -signal.SIGKILL)
    await until(lambda: not any(one and one.is_running() for one in family), "the end of all its processes")


async def test_a_forked_engine_and_its_processes_tell_where_they_stand(engines: Engines, tmp_path: Path) -> None:
    folder = tmp_path / "e0.stacks"
    hooked = stacks.install(folder, {"PYTHONPATH": str(tmp_path)})
    await engines.start("one", "stay", stacks=folder, PYTHONPATH=hooked["PYTHONPATH"])
    (line,) = await engines.printed("engine")
    pid = line.split()[1]
    await until(
        lambda: len(list(folder.glob("*.stack"))) >= 3, "a file of the engine, its spare process and its worker"
    )
    os.kill(int(pid), signal.SIGUSR2)
    await until(lambda: "standing.py" in (folder / f"{pid}.stack").read_text(), "its stacks")


async def test_where_forking_is_not_safe_an_engine_starts_by_itself(engines: Engines) -> None:
    engines.heavy.write_text(
        HEAVY + "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
    )
    first = await engines.start("one")
    assert await end(first) == 3
    assert not engines.servers()
    assert "threads after its imports" in next(engines.run_dir.glob("f*.log")).read_text()
    before = len(engines.imports.read_text())
    assert await end(await engines.again("two")) == 3
    assert len(engines.imports.read_text()) == before + 1, "the server is not tried again"


async def test_an_engine_that_is_to_stop_does_not_wait_for_the_imports(engines: Engines, tmp_path: Path) -> None:
    engines.heavy.write_text(
        HEAVY + f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)"
    )
    starting = asyncio.create_task(engines.start("one"))
    await until(lambda: engines.imports.read_text() == "x", "the imports' begin")
    engines.processes[0].terminate()
    await starting
    assert await end(engines.processes[0]) == -signal.SIGTERM
    (tmp_path / "go").touch()
    await until(lambda: not engines.servers(), "the server's end: nobody needs it any more")
    assert await end(await engines.again("two")) == 3
    assert [line.split()[2] for line in engines.of("engine")] == ["two"]


SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from service.engine import preload
from service.engine.preload import Preload
from service.engine.process import EngineProcess
preload.MODULES = ()
async def main(folder, run_dir):
    process = EngineProcess(lambda line: print(line, flush=True))
    variables = {"PYTHONPATH": folder, "IMPORTS": folder + "/imports", "OF_ONE": "1"}
    await process.start([sys.executable, "-m", "standing", "one", "stay"], variables, Preload(Path(run_dir)), None)
    await process.ended
asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_no_process_outlives_the_supervisor(number: signal.Signals, engines: Engines, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SUPERVISOR, str(tmp_path), str(engines.run_dir), stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(fleets.ROOT)},
    )  # fmt: skip
    assert process.stdout
    async with asyncio.timeout(patience()):
        line = await process.stdout.readline()
    engine = psutil.Process(int(line.split()[1]))
    process.send_signal(number)
    await process.wait()
    await until(lambda: not engine.is_running() and not engines.servers(), "the end of all processes")


def test_which_engines_are_forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = fleets.only(tmp_path, "model: pebble-chat")
    for release, forked in {"0.32.0": False, "0.32.0+cu129": False, "0.32.0+cpu": True, None: True}.items():
        monkeypatch.setattr(preload, "installed_release", {("vllm",): release}.__getitem__)
        assert preload.wanted(cpu, on=True) == forked, release
    assert not preload.wanted(cpu, on=False)
    assert not preload.wanted(fleets.only(tmp_path, "model: pebble-chat\ngpus: 1"), on=True)
    assert preload.module_to_run([sys.executable, "-m", "vllm.x", "--model", "m"]) == "vllm.x"
    assert preload.module_to_run(["sh", "-c", "exec vllm"]) is None


def test_engines_share_a_process_if_their_libraries_would_read_the_same() -> None:
    same = [{"A": "1"}, {"A": "1", "VLLM_CPU_KVCACHE_SPACE": "4"}, {"A": "1", "VLLM_API_KEY": "secret"}]
    assert len({preload.digest(environment) for environment in same}) == 1
    assert (
        preload.digest({"A": "2"}) != preload.digest({"A": "1"}) != preload.digest({"A": "1", "OMP_NUM_THREADS": "2"})
    )
    assert (
        preload.prepared({"LD_PRELOAD": "/x/libgomp.so.1 libtcmalloc.so"})["LD_PRELOAD"]
        == "/x/libgomp.so.1 libtcmalloc.so"
    )


@pytest.mark.parametrize(
    ("now", "suits"),
    [
        ({"A": "1"}, True),
        ({"A": "1", "VLLM_NEW": "x", "LOCAL_WORLD_SIZE": "1"}, True),
        ({"A": "2"}, False),
        ({}, False),
        ({"A": "1", "OMP_NUM_THREADS": "4"}, False),
    ],
)  # fmt: skip
def test_a_spare_process_takes_the_place_of_one_with_its_variables(now: dict[str, str], suits: bool) -> None:
    assert spare.suits({"A": "1"}, now) is suits
