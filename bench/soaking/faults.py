"""The fault schedule of a soak test, drawn from a seed so that a run can be repeated."""

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import processes
from tests.support.fault_proxy import PASS, FaultProxy, Trouble

TROUBLES = {
    "reset": Trouble(reset=True),
    "blackhole": Trouble(mute=True, hold="both"),
    "silence": Trouble(hold="answers"),
    "refuse": Trouble(refuse=True),
    "drip": Trouble(drip=16),
    "delay": Trouble(delay=0.3),
}
KINDS = ("kill", "drain", "freeze", *TROUBLES)


@dataclass(frozen=True)
class Fault:
    """Befalls engine number `engine` at `at` seconds after the start, for `lasts` seconds."""

    at: float
    lasts: float
    kind: str
    engine: int


def schedule(seed: int, seconds: float, engines: int, every: float) -> list[Fault]:
    """The faults of a run, about one every `every` seconds; one engine at least is always spared, and all at the end.

    Each kind comes as often as any other, in a random order.
    """
    source, found = random.Random(seed), list[Fault]()
    until, at, kinds = [0.0] * engines, 0.0, list[str]()
    while True:
        at += every * source.uniform(0.5, 1.5)
        lasts = every * source.uniform(0.2, 1.2)
        if at + lasts > seconds:
            return found
        free = [number for number, over in enumerate(until) if over <= at]
        if len(free) < 2:
            continue
        kinds = kinds or source.sample(KINDS, len(KINDS))
        engine = source.choice(free)
        until[engine] = at + lasts
        found.append(Fault(at, lasts, kinds.pop(), engine))


class Station:
    """An engine's process, and the proxy through which it is reached."""

    def __init__(self, model: str, socket: Path, log: Path, proxy: FaultProxy) -> None:
        self._socket, self._log, self.proxy = socket, log, proxy
        self._command = [sys.executable, "-m", "bench.soaking.engine", "--socket", str(socket), "--model", model]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the engine's process."""
        with self._log.open("ab") as log:
            self._process = processes.launch(self._command, log.fileno())

    def begin(self, kind: str) -> None:
        """Lets a fault begin."""
        if trouble := TROUBLES.get(kind):
            self.proxy.be(trouble)
        else:
            self._signal({"kill": signal.SIGKILL, "drain": signal.SIGTERM, "freeze": signal.SIGSTOP}[kind])

    async def cease(self, kind: str) -> None:
        """Ends a fault: an engine that went is replaced by a new one."""
        if kind in TROUBLES:
            self.proxy.be(PASS)
        elif kind == "freeze":
            self._signal(signal.SIGCONT)
        else:
            await self.stop()
            self.start()

    async def stop(self) -> None:
        """Ends the engine's process, at once where it is still there."""
        if self._process:
            self._signal(signal.SIGKILL)
            await asyncio.to_thread(self._process.wait)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process
        if self._process.poll() is None:
            self._process.send_signal(number)


@asynccontextmanager
async def stations(model: str, count: int, folder: Path) -> AsyncIterator[list[Station]]:
    """So many engines, each behind a proxy; their processes end afterwards."""
    async with AsyncExitStack() as stack:
        found = []
        for number in range(count):
            socket = folder / f"engine-{number}.sock"
            proxy = await stack.enter_async_context(FaultProxy(str(socket)).listen())
            found.append(Station(model, socket, folder / f"engine-{number}.log", proxy))
            stack.push_async_callback(found[-1].stop)
            found[-1].start()
        yield found


async def befall(faults: list[Fault], at: list[Station]) -> None:
    """Lets all faults happen in their time, counted from now."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def one(fault: Fault) -> None:
        await asyncio.sleep(began + fault.at - loop.time())
        at[fault.engine].begin(fault.kind)
        await asyncio.sleep(began + fault.at + fault.lasts - loop.time())
        await at[fault.engine].cease(fault.kind)

    async with asyncio.TaskGroup() as group:
        for fault in faults:
            group.create_task(one(fault))
