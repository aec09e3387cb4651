"""What a whole gateway costs with observability and without, before an engine that answers from memory.

As a program it runs each case once, with marks around the requests that count, for `bench.instructions`.
"""

import asyncio
import gc
import itertools
import multiprocessing
import multiprocessing.connection
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import uvloop

from bench import guardrails, instructions
from bench.observability.parts import LARGE
from bench.traces import COLLECTOR
from service.catalog import catalog
from service.config.paths import ROOT
from service.config.settings import Settings
from service.engine import state
from service.engine.state import EngineState
from service.fleet import fleet
from service.gateway import app
from service.gateway.lifespan import with_lifespan
from service.observability import log, log_writer, trace_settings
from service.observability.metrics import Metrics
from service.observability.tallies import MOST_REQUESTS
from tests.support.servers import serving

LIMITED = f"tenants: {{default: {{requests_per_minute: {LARGE}, tokens_per_minute: {LARGE}}}}}"
OFF = "off"
TRACES = "sampler"
Costs = dict[str, dict[str, list[float]]]
# What is on in a gateway: its name, its tenants, and the settings that differ.
CASES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (OFF, "", {"genai_metrics": False}),
    ("metrics and log line", "", {"genai_metrics": False}),
    ("gen_ai_ too", "", {}),
    ("usage ledger too", "", {"usage_dir": Path("usage")}),
    ("budgets and headers too", LIMITED, {"usage_dir": Path("more-usage")}),
    ("traces too, none sampled", LIMITED, {"usage_dir": Path("usage-off"), TRACES: "always_off"}),
    ("traces too, all sampled", LIMITED, {"usage_dir": Path("usage-on"), TRACES: "always_on"}),
)
LOADS = {"whole": (False, 128), "streamed": (True, 24)}  # whether it is a stream, and how many requests a round
WARM = MOST_REQUESTS  # requests before those that count: with them the series are made
ROUNDS = 40  # short ones, in which other programs disturb all cases alike or one case alone, which the median ignores
GC_THRESHOLD = 5_000  # as in the service


async def others(folder: Path, pipe: "multiprocessing.connection.Connection") -> None:
    """An engine and the load, in the other process: each message has a port, whether to stream, and how many."""
    loop = asyncio.get_running_loop()
    words = tuple(f" word{number}" for number in range(guardrails.WORDS))
    await loop.create_unix_server(lambda: guardrails.Engine(words), state.socket_path(folder, 0))
    pipe.send("ready")
    while asked := await loop.run_in_executor(None, pipe.recv):
        port, stream, count = asked
        body = f'{{"model": "pebble-chat", "messages": [{{"role": "user", "content": "Hi"}}], "stream": {stream}}}'
        text = body.replace("True", "true").replace("False", "false").encode()
        await asyncio.gather(*(guardrails.client(port, text, count // 8) for _ in range(8)))
        pipe.send("done")


def child(folder: str, pipe: "multiprocessing.connection.Connection") -> None:
    """The other process."""
    uvloop.run(others(Path(folder), pipe))


def gateways(folder: Path, collector: str) -> dict[str, app.Gateway]:
    """A gateway for each case; in the first one nothing is observed."""
    known, lines = catalog.load(ROOT / "models"), os.open(os.devnull, os.O_WRONLY)
    found = {}
    for case, tenants, more in CASES:
        (folder / "fleet.yaml").write_text(f"models: [{{model: pebble-chat}}]\n{tenants}")
        if "usage_dir" in more:
            more = {**more, "usage_dir": folder / more["usage_dir"]}
            more["usage_dir"].mkdir()
        sampler = more.get(TRACES)
        given = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector, "OTEL_TRACES_SAMPLER": sampler} if sampler else {}
        more = {name: value for name, value in more.items() if name != TRACES}
        settings = Settings(run_dir=folder, host="0.0.0.0", connect_timeout=600.0, **more)  # valgrind is slow
        with mock.patch.object(log, "STANDARD_OUTPUT", lines):
            served = fleet.load(folder / "fleet.yaml", known)
            found[case] = app.Gateway(settings, known, served, traces=trace_settings.read(given))
    return found


@contextmanager
def collector() -> Iterator[str]:
    """The URL of a collector in a process of its own."""
    with subprocess.Popen([sys.executable, "-c", COLLECTOR], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.terminate()


def nothing_observed() -> ExitStack:
    """What takes observability out of a gateway."""
    stack = ExitStack()
    for owner, name in ((Metrics, "observe"), (log.Log, "request")):
        stack.enter_context(mock.patch.object(owner, name, lambda *_: ""))
    return stack


async def whole_gateway(counting: bool = False) -> Costs:
    """CPU microseconds of the gateway for a request, by what is on and by load, of each round.

    With `counting` there is one round, of which each part begins and ends at a mark.
    """
    loop = asyncio.get_running_loop()
    times: Costs = {case: {load: [] for load in LOADS} for case, *_ in CASES}
    async with AsyncExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory())
        state.write(Path(name), EngineState(state.replica_id("pebble-chat", 0), "pebble-chat", 0, "ready"))
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=child, args=(name, theirs), daemon=True)
        process.start()
        theirs.close()  # so that its end is an error here
        await loop.run_in_executor(None, ours.recv)
        ports: dict[str, int] = {}
        served_by = gateways(Path(name), stack.enter_context(collector()))
        for case, gateway in served_by.items():
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            # What a gateway does every so often is another share of a program that valgrind makes slower.
            app_and_tasks = (gateway.app, "off") if counting else (with_lifespan(gateway), "on")
            served = serving(app_and_tasks[0], listener, protocol=gateway.connection(), lifespan=app_and_tasks[1])
            await stack.enter_async_context(served)
            gateway.upstreams.refresh()
            ports[case] = listener.getsockname()[1]
        rounds = range(1 if counting else ROUNDS)
        os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])  # it alone, not what it has started
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        if counting:
            # So that as many lines are written at once as without valgrind.
            interval = log_writer.BATCH_INTERVAL * instructions.SLOWER
            stack.enter_context(mock.patch.object(log_writer, "BATCH_INTERVAL", interval))
            instructions.begin()
        for _, (case, port), (load, (stream, count)) in itertools.product(rounds, ports.items(), LOADS.items()):
            with nothing_observed() if case == OFF else ExitStack():
                for many in (WARM, count):
                    gc.collect()  # what came before is not to be found in what is measured
                    if counting and many == count:
                        served_by[case].log.close()
                        instructions.mark()
                    began = time.process_time()
                    ours.send((port, stream, many))
                    await loop.run_in_executor(None, ours.recv)
            if counting:
                served_by[case].log.close()  # what its thread has not written yet is a part of it
                instructions.mark()
            times[case][load].append((time.process_time() - began) / count * 1e6)
        ours.send(None)
        process.join()
    return times


def counted() -> Costs:
    """The instructions of the gateway for a request, by what is on and by load."""
    found = iter(instructions.between_marks("bench.observability.whole", begins=True)[::2])
    return {case: {load: [next(found) / count] for load, (_, count) in LOADS.items()} for case, *_ in CASES}


if __name__ == "__main__":
    uvloop.run(whole_gateway(counting=True))
