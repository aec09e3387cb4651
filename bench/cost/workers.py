"""What several gateway processes give: `python -m bench.cost.workers`.

Gateways of one worker and of several take turns, with as many clients for each worker. Where a request costs no more
CPU with N workers on N cores, and each worker has its share of them, they answer N times as many; so this holds on a
machine where the load and the stub engine need cores, too.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench.cost import peers
from bench.cost.load import Load
from bench.cost.peers import PeerError, Place
from bench.cost.run import WARM, loaded
from bench.serve import machine

LOADS = (Load("whole", 32), Load("paced", 100, tokens=50, pace=0.02, warm=2.0))  # for each worker
TARGET = 0.9  # of N times the requests of one worker
NAME = "gateway"


@dataclass(frozen=True)
class Turn:
    """CPU microseconds of all processes for a request, and the part of the workers' CPU that the busiest one has."""

    request_us: float
    busiest: float


def main() -> None:
    """Measures and prints; `--json FILE` keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each load is measured")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each under each load; the median is shown")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    try:
        turns = measure(asked.workers, asked.seconds, asked.rounds)
    except PeerError as error:
        sys.exit(str(error))
    found = {load: judged(turns[load], asked.workers) for load in turns}
    print(f"{machine()}, {asked.workers} workers, {asked.seconds:g} s a load, {asked.rounds} rounds")
    for load, one in found.items():
        print(
            f"{load}: {one['one_us']:.0f} µs a request with one worker, {one['several_us']:.0f} with {asked.workers}; "
            f"the busiest has {one['busiest']:.1%}; so {{:.2f}} ({{:.2f}} to {{:.2f}}) of {asked.workers} times the "
            f"requests (target: {TARGET})".format(*one["scale"])
        )
    if asked.json:
        figures = {
            "machine": machine(), "date": datetime.now(UTC).isoformat(timespec="seconds"), "workers": asked.workers,
            "seconds": asked.seconds, "rounds": asked.rounds, "loads": found,
        }  # fmt: skip
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(workers: int, seconds: float, rounds: int) -> dict[str, dict[int, list[Turn]]]:
    """The turns by load and number of workers."""
    core = sorted(os.sched_getaffinity(0))[-1]
    turns: dict[str, dict[int, list[Turn]]] = {load.name: {1: [], workers: []} for load in LOADS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rh-workers-")))
        stub, _ = stack.enter_context(peers.stub(core, folder))
        up = {
            count: stack.enter_context(peers.roundhouse(Place(stub, None, folder, workers=count)))
            for count in (1, workers)
        }
        for peer in up.values():
            loaded(peer.port, stub, replace(WARM, seconds=min(WARM.seconds, seconds)), {}, core)
        for _ in range(rounds):
            for load in LOADS:
                for count, peer in up.items():
                    assert peer.pid is not None
                    pids = workers_of(peer.pid)
                    watched = {NAME: peer.pid} | {f"{NAME} {number}": pid for number, pid in enumerate(pids)}
                    asked = replace(load, clients=load.clients * count, seconds=seconds)
                    found = loaded(peer.port, stub, asked, watched, core)
                    turns[load.name][count].append(turn(found["processes"], len(pids)))
                    print(f"{load.name}, {count} workers: {turns[load.name][count][-1]}", file=sys.stderr, flush=True)
    return turns


def workers_of(root: int) -> list[int]:
    """The gateway processes of a service."""
    return [one.pid for one in psutil.Process(root).children() if NAME in one.cmdline()]


def turn(used: dict[str, dict[str, Any]], workers: int) -> Turn:
    """What one turn found, by the figures of its processes."""
    cores = [used[f"{NAME} {number}"]["cores"] for number in range(workers)]
    return Turn(used[NAME]["request_us"], max(cores) / sum(cores))


def judged(turns: dict[int, list[Turn]], workers: int) -> dict[str, Any]:
    """The medians, and how much of `workers` times one worker's requests they give when the busiest is at its end.

    `scale` is that of each round, whose turns follow each other: its median, the least and the greatest.
    """
    one, several = (statistics.median(turn.request_us for turn in turns[count]) for count in (1, workers))
    rounds = [
        alone.request_us / beside.request_us / (beside.busiest * workers)
        for alone, beside in zip(turns[1], turns[workers], strict=True)
    ]
    return {
        "one_us": one, "several_us": several,
        "busiest": round(statistics.median(turn.busiest for turn in turns[workers]), 3),
        "scale": [round(value, 3) for value in (statistics.median(rounds), min(rounds), max(rounds))],
    }  # fmt: skip


if __name__ == "__main__":
    main()
