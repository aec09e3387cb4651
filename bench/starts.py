"""How long starts of a real engine take: CPU and wall time by phase, started plainly, forked, and restarted.

    python -m bench.starts [--model pebble-chat] [--compile] [--out bench/results/starts.json]

With `--compile` it is one that compiles its network, forked, with an empty cache of what vLLM and torch compile: it is
started once more with what is in there then, and once more after that has been removed.

The engine is started by its supervisor, is ready, is killed, and is started again by the supervisor: once as it was
before engines were forked (three processes that each import vLLM), once as it is now. Needs vLLM's CPU build.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from service.catalog import catalog
from service.config.paths import ROOT
from service.config.settings import Settings
from service.engine import state
from service.engine.supervisor import Supervisor
from service.fleet import fleet
from service.fleet.fleet import Fleet

PLAIN = "three imports"  # as before there was a fork server
FORKED = "forked"
COMPILED = "compiles"
POLL = 0.05  # seconds
LIMIT = 2700.0  # seconds for one start: a busy machine compiles for many minutes, and says nothing meanwhile
MIB = 2**20


class Meter:
    """The CPU seconds that the engine's processes have used, those that have ended and the fork server included.

    They are those with the run folder in their command line, and all of their sessions.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir, self._known, self._used = str(run_dir), dict[int, psutil.Process](), dict[int, float]()

    def read(self) -> float:
        """The sum so far."""
        for pid in set(psutil.pids()) - self._known.keys() - {os.getpid()}:
            with suppress(psutil.Error, OSError):
                process = psutil.Process(pid)
                if os.getsid(pid) in self._known or self._run_dir in " ".join(process.cmdline()):
                    self._known[pid] = process
        for pid, process in self._known.items():
            with suppress(psutil.Error):
                times = process.cpu_times()
                self._used[pid] = times.user + times.system
        return sum(self._used.values())

    def memory(self) -> float:
        """MiB of memory that the live processes have for themselves: each page counts once."""
        total = 0.0
        for process in self._known.values():
            with suppress(psutil.Error):
                total += process.memory_full_info().pss / MIB
        return round(total)


async def start(run_dir: Path, meter: Meter, known_pid: int | None) -> tuple[list[dict[str, Any]], int]:
    """The phases of the start that goes on, until the engine is ready with another pid than before; and that pid."""
    rows: list[dict[str, Any]] = []
    phase, since, used = "", time.monotonic(), meter.read()
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        now = state.read(run_dir, 0)
        cpu = meter.read()
        shown = now.phase if now and now.condition == "starting" else ""
        if shown != phase:
            if phase:
                rows.append(
                    {"phase": phase, "cpu_s": round(cpu - used, 2), "wall_s": round(time.monotonic() - since, 2)}
                )
            phase, since, used = shown, time.monotonic(), cpu
        if now and now.condition == "ready" and now.pid and now.pid != known_pid:
            return rows, now.pid
        await asyncio.sleep(POLL)
    raise TimeoutError(f"no engine within {LIMIT:g} s; see the log in {run_dir}")


async def measure(served_by: Fleet, run_dir: Path, preload: bool, cache: Path | None = None) -> dict[str, Any]:
    """A first start, and a restart after the engine was killed; one more with an empty `cache` where there is one."""
    settings = Settings(run_dir=run_dir, preload=preload, evidence=False, start_timeout=LIMIT)
    supervisor = Supervisor(served_by.served[0], 0, 0, served_by, settings, lambda _: None)
    meter = Meter(run_dir)
    supervisor.start()
    first, pid = await start(run_dir, meter, None)
    memory = meter.memory()
    os.kill(pid, signal.SIGKILL)
    again, pid = await start(run_dir, meter, pid)
    found = {"first": _summed(first), "restart": _summed(again), "memory_mib": memory}
    if cache:
        found["cache_mib"] = size_mib(cache)
        shutil.rmtree(cache)
        os.kill(pid, signal.SIGKILL)
        found["emptied"] = _summed((await start(run_dir, meter, pid))[0])
    await supervisor.stop()
    return found


def size_mib(folder: Path) -> float:
    """MiB of all files in it."""
    return round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / MIB, 1)


def _summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "cpu_s": round(sum(row["cpu_s"] for row in rows), 1),
        "wall_s": round(sum(row["wall_s"] for row in rows), 1),
        "phases": rows,
    }


def table(found: dict[str, Any]) -> str:
    """The results as text."""
    lines = [f"{'':<16}{'start':<10}{'phase':<38}{'CPU s':>7}{'wall s':>8}"]
    for way, starts in found.items():
        for which in filter(starts.__contains__, ("first", "restart", "emptied")):
            one = starts[which]
            rows = [*one["phases"], {"phase": "all", "cpu_s": one["cpu_s"], "wall_s": one["wall_s"]}]
            lines += [
                f"{way:<16}{which:<10}{row['phase']:<38}{row['cpu_s']:>7.1f}{row['wall_s']:>8.1f}" for row in rows
            ]
        lines.append(f"{way:<16}{'':<10}{'memory when ready, MiB':<38}{starts['memory_mib']:>7.0f}")
    return "\n".join(lines)


def main() -> None:
    """Measures, prints the table, and writes it where `--out` says."""
    parser = argparse.ArgumentParser(description="How long starts of a real engine take")
    parser.add_argument("--model", default="pebble-chat", help="a model of the default fleet")
    parser.add_argument("--compile", action="store_true", help="measure what keeping the compile cache saves")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    options = parser.parse_args()
    whole = fleet.load(ROOT / "deploy/fleets/pebble.yaml", catalog.load(ROOT / "models"))
    served = whole[options.model]
    now = replace(whole, served=(served,))
    before = replace(whole, served=(replace(served, engine={**served.engine, "distributed_executor_backend": "mp"}),))
    found = {}
    for way, one, preload in ((PLAIN, before, False), (FORKED, now, True)) if not options.compile else ():
        with tempfile.TemporaryDirectory(prefix="starts") as folder:
            found[way] = asyncio.run(measure(one, Path(folder), preload))
    if options.compile:
        with tempfile.TemporaryDirectory(prefix="starts") as folder, tempfile.TemporaryDirectory() as cache:
            env = {name: value for name, value in served.env.items() if name != "TORCHDYNAMO_DISABLE"}
            compiles = replace(served, engine={**served.engine, "enforce_eager": False},
                               env={**env, "VLLM_CACHE_ROOT": f"{cache}/vllm"})  # fmt: skip
            one = replace(whole, served=(compiles,))
            found[COMPILED] = asyncio.run(measure(one, Path(folder), True, Path(cache, "vllm")))
    print(table(found))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
