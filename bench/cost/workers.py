"""What several gateway processes give: `python -m bench.cost.workers`.

A gateway of one worker, one of several, and as many of one worker that run at the same time take turns, with as many
clients for each worker. Where a request costs no more CPU with N workers on N cores, and each worker has its share of
them, they answer N times as many; so this holds on a machine where the load and the stub engine need cores, too. The
gateways that share nothing show what of it is the machine's: cores that are all busy are slower.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench.cost import peers
from bench.cost.load import Load
from bench.cost.peers import Peer, PeerError, Place
from bench.cost.run import WARM, loaded
from bench.serve import machine

LOADS = (Load("whole", 32), Load("paced", 100, tokens=50, pace=0.02, warm=2.0))  # for each worker
TARGET = 0.9  # of N times the requests of one worker
NAME = "gateway"
WORKER = f"{NAME} "  # before its number
KINDS = ("one", "several", "apart")


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
            f"requests (target: {TARGET}). {asked.workers} gateways of one worker: {one['apart_us']:.0f} µs, which is "
            "{:.2f} ({:.2f} to {:.2f}) of as many".format(*one["scale"], *one["apart"])
        )
    if asked.json:
        figures = {
            "machine": machine(), "date": datetime.now(UTC).isoformat(timespec="seconds"), "workers": asked.workers,
            "seconds": asked.seconds, "rounds": asked.rounds, "loads": found,
        }  # fmt: skip
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(workers: int, seconds: float, rounds: int) -> dict[str, dict[str, list[Turn]]]:
    """The turns by load, of one worker, several of one gateway, and as many that are apart."""
    core = sorted(os.sched_getaffinity(0))[-1]
    turns: dict[str, dict[str, list[Turn]]] = {load.name: {name: [] for name in KINDS} for load in LOADS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rh-workers-")))
        stub, _ = stack.enter_context(peers.stub(core, folder))

        def started(count: int) -> Peer:
            peer = stack.enter_context(peers.roundhouse(Place(stub, None, folder, workers=count)))
            loaded(peer.port, stub, replace(WARM, seconds=min(WARM.seconds, seconds)), {}, core)
            return peer

        one, several = started(1), started(workers)
        up = dict(zip(KINDS, ([one], [several], [one, *(started(1) for _ in range(workers - 1))]), strict=True))
        threads = stack.enter_context(ThreadPoolExecutor(workers))
        for _ in range(rounds):
            for load in LOADS:
                for kind, gateways in up.items():
                    clients = load.clients * (workers if kind == "several" else 1)
                    asked = replace(load, clients=clients, seconds=seconds)
                    found = list(threads.map(lambda peer, asked=asked: used(peer, stub, asked, core), gateways))
                    turns[load.name][kind].append(turn(found))
                    print(f"{load.name}, {kind}: {turns[load.name][kind][-1]}", file=sys.stderr, flush=True)
    return turns


def used(peer: Peer, stub: int, load: Load, core: int) -> dict[str, dict[str, Any]]:
    """What the processes of a gateway use under a load, by their names."""
    assert peer.pid is not None
    pids = workers_of(peer.pid)
    watched = {NAME: peer.pid} | {f"{WORKER}{number}": pid for number, pid in enumerate(pids)}
    found: dict[str, dict[str, Any]] = loaded(peer.port, stub, load, watched, core)["processes"]
    return found


def workers_of(root: int) -> list[int]:
    """The gateway processes of a service."""
    return [one.pid for one in psutil.Process(root).children() if NAME in one.cmdline()]


def turn(gateways: list[dict[str, dict[str, Any]]]) -> Turn:
    """What one turn found, by the figures of the processes of each gateway: the mean of their costs of a request."""
    workers = [figures for found in gateways for name, figures in found.items() if name.startswith(WORKER)]
    cores = [figures["cores"] for figures in workers]
    return Turn(statistics.mean(found[NAME]["request_us"] for found in gateways), max(cores) / sum(cores))


def judged(turns: dict[str, list[Turn]], workers: int) -> dict[str, Any]:
    """The medians, and how much of `workers` times one worker's requests they give when the busiest is at its end.

    `scale` is that of each round, whose turns follow each other: its median, the least and the greatest. `apart` is the
    same of gateways that share nothing.
    """
    one, several, apart = (statistics.median(turn.request_us for turn in turns[kind]) for kind in KINDS)
    return {
        "one_us": one, "several_us": several, "apart_us": apart,
        "busiest": round(statistics.median(turn.busiest for turn in turns["several"]), 3),
        "scale": _scale(turns["one"], turns["several"], workers),
        "apart": _scale(turns["one"], turns["apart"], workers),
    }  # fmt: skip


def _scale(alone: list[Turn], beside: list[Turn], workers: int) -> list[float]:
    pairs = zip(alone, beside, strict=True)
    rounds = [one.request_us / other.request_us / (other.busiest * workers) for one, other in pairs]
    return [round(value, 3) for value in (statistics.median(rounds), min(rounds), max(rounds))]


if __name__ == "__main__":
    main()
