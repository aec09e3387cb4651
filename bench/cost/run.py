"""What the gateway costs, beside its rivals where asked: `bench/cost/run --rivals`.

With rivals it also prints our cost relative to theirs, with the spread over the rounds.

The gateway has a core to itself, a stub engine and the load share another, and the peers take turns under each load.
CPU is that of all processes of the gateway, so it holds on a machine that is not quiet; requests per second do not.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.cost import instructions, peers, table
from bench.cost.load import Load
from bench.cost.peers import MODEL, PEERS, RIVALS, PeerError, Place
from bench.cost.table import OURS
from bench.serve import machine
from service.config.paths import ROOT

WARM = Load("warm", 16, seconds=2.0, warm=0.1)
LOADS = (
    Load("one", 1, seconds=3.0, warm=0.5),
    Load("whole", 32),
    Load("streams", 64, tokens=100, warm=2.0),
    Load("paced", 200, tokens=100, pace=0.02, warm=4.0),
)
Found = dict[str, dict[str, Any]]
"""Figures by the name of the load."""


def main() -> None:
    """Measures, prints the table; `--json FILE` keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rivals", action="store_true", help=f"also {', '.join(RIVALS)}, installed into a cache folder"
    )
    parser.add_argument("--only", action="append", choices=list(PEERS), help="these peers only")
    parser.add_argument("--seconds", type=float, default=6.0, help="how long each load is measured")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each peer under each load; the median is shown")
    parser.add_argument("--cache", type=Path, default=peers.CACHE, help="where the rivals are installed")
    parser.add_argument("--instructions", action="store_true", help="count ours too, with valgrind")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--history", type=Path, help="a file that gets a line with ratios and instructions")
    asked = parser.parse_args()
    names = asked.only or [name for name in PEERS if asked.rivals or name not in RIVALS]
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("This needs two cores: one for the gateway alone, one for engine and load.")
    try:
        for name in set(names) & set(RIVALS):
            RIVALS[name].install(asked.cache)
        rounds = measure(names, asked.seconds, asked.rounds, cores, asked.cache)
    except PeerError as error:
        sys.exit(str(error))
    found = {name: medians([turn[name] for turn in rounds]) for name in names}
    when = datetime.now(UTC).isoformat(timespec="seconds")
    figures = {"machine": machine(), "date": when, "seconds": asked.seconds, "rounds": asked.rounds, "peers": found}
    print(f"\n{figures['machine']}, {when}, {asked.seconds:g} s a load, {asked.rounds} rounds\n\n{table.drawn(found)}")
    rivals = [name for name in names if name in RIVALS]
    if OURS in names and rivals:
        figures["bars"] = table.bars(rounds, rivals)
        print("\n" + table.drawn_bars(figures["bars"], rivals, found[OURS]["paced"]["processes"]["gateway"]["rss_mb"]))
    if asked.instructions:
        figures["instructions"] = instructions.counted()
        print(f"\nInstructions in user space: {figures['instructions']}")
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")
    if asked.history:
        kept = {key: value for key, value in figures.items() if key != "peers"} | {"medians": ours_of(found)}
        with asked.history.open("a") as file:
            file.write(json.dumps(kept) + "\n")


def ours_of(found: dict[str, Found]) -> dict[str, dict[str, float]]:
    """The medians of every peer that has a gateway: CPU microseconds and memory."""
    return {
        name: {
            "request_us": own["whole"]["processes"]["gateway"]["request_us"],
            "chunk_us": own["paced"]["processes"]["gateway"]["token_us"],
            "rss_mb": own["paced"]["processes"]["gateway"]["rss_mb"],
            "pss_mb": own["paced"]["processes"]["gateway"]["pss_mb"],
        }
        for name, own in found.items()
        if "gateway" in own["whole"]["processes"]
    }


def measure(
    names: list[str], seconds: float, rounds: int, cores: list[int], cache: Path = peers.CACHE
) -> list[dict[str, Found]]:
    """The figures of each peer under each load, round by round.

    All peers run all the time, and under each load they take turns of `seconds`: on a machine that is fast now and slow
    then, that is fairer than one after the other.
    """
    ours, others = cores[0], cores[1]
    turns: list[dict[str, Found]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rh-cost-")))
        stub, pid = stack.enter_context(peers.stub(others, folder))
        up = {name: stack.enter_context(PEERS[name](Place(stub, ours, folder, cache))) for name in names}
        # Where there is no gateway, the load has its core.
        core = {name: ours if peer.pid is None else others for name, peer in up.items()}
        for name, peer in up.items():
            loaded(peer.port, stub, replace(WARM, seconds=min(WARM.seconds, seconds)), {}, core[name])
        for _ in range(rounds):
            found: dict[str, Found] = {name: {} for name in names}
            for load in LOADS:
                load = replace(load, seconds=min(load.seconds, seconds), warm=min(load.warm, seconds))
                for name, peer in up.items():
                    watched = {"stub": pid} if peer.pid is None else {"gateway": peer.pid, "stub": pid}
                    found[name][load.name] = loaded(peer.port, stub, load, watched, core[name])
                    print(f"{name} {load.name}: {table.line(found[name][load.name])}", file=sys.stderr, flush=True)
            turns.append(found)
    return turns


def loaded(port: int, stub: int, load: Load, watched: dict[str, int], core: int) -> dict[str, Any]:
    """The figures of one load, made by a process of its own on a core."""
    peers.ask(stub, f"/pace/{load.pace}", {})
    command = [sys.executable, "-m", "bench.cost.load", "--port", str(port), "--model", MODEL]
    command += ["--load", json.dumps(asdict(load)), "--watched", json.dumps(watched)]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, check=True, preexec_fn=lambda: os.sched_setaffinity(0, {core})
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def medians(turns: list[Any]) -> Any:
    """The median of every figure over some turns; of what is no number, the last."""
    last = turns[-1]
    if isinstance(last, dict):
        return {key: medians([turn[key] for turn in turns if key in turn]) for key in last}
    numbers = [turn for turn in turns if isinstance(turn, int | float)]
    return statistics.median(numbers) if numbers and isinstance(last, int | float) else last


if __name__ == "__main__":
    main()
