"""Two models in room for one, by turns and first come first served: `python -m bench.sharing`.

Simulates engines with stated load times on a virtual clock: who is there is decided by the service's own code, or, as
the control, each request in the order of its arrival has its model loaded. Nothing depends on the machine.
`--picture FILE` draws a day of four models on one card instead.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from typing import Any

from bench.sharing.loads import DAY, DAY_MEMORY, DAY_MODELS, LOADS, day
from bench.sharing.picture import draw
from bench.sharing.simulation import Job, Load, World, first_come, turns

LOAD, TURN = 30.0, 120.0  # seconds
POLICIES: tuple[tuple[str, Callable[..., frozenset[int]]], ...] = (("turns", turns), ("first come", first_come))


def main() -> None:
    """Runs it and prints the figures as a table; `--json FILE` keeps them."""
    summary, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog=more)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    if asked.picture:
        jobs = day()
        world = World([*DAY_MODELS.values()], DAY_MEMORY, TURN, turns, tick=1.0).run(jobs, DAY)
        asked.picture.write_text(draw([*DAY_MODELS], jobs, world, DAY), encoding="utf-8")
        print(f"{len(jobs)} requests, {world.starts} loads, TTFT p50 {first_token(jobs)[0]:.1f} s")
        return
    found = compared()
    if asked.json:
        asked.json.write_text(json.dumps({"load_s": LOAD, "turn_s": TURN, "rows": found}, indent=2) + "\n")


def compared() -> list[dict[str, Any]]:
    """The figures of every load, by turns and as the control, each printed as it comes."""
    print("| load | policy | tokens/s | loads | TTFT p50, s | TTFT p99, s |\n|---|---|---|---|---|---|")
    rows = []
    for name, jobs_of in LOADS.items():
        for policy, decide in POLICIES:
            row = {"load": name, "policy": policy, **figures(jobs_of(), decide)}
            rows.append(row)
            print(f"| {name} | {policy} | {row['tokens_per_s']:,.0f} | {row['loads']:,} | {row['ttft_p50_s']:,.1f} "
                  f"| {row['ttft_p99_s']:,.1f} |", flush=True)  # fmt: skip
    return rows


def figures(jobs: list[Job], decide: Callable[..., frozenset[int]], tick: float = 0.1) -> dict[str, float]:
    """Tokens per second until the last answer, loads, and seconds to the first token."""
    world = World([Load(load=LOAD)] * 2, 1, TURN, decide, tick, in_order=decide is first_come).run(jobs, 1e7)
    ended = max(job.ended_at or 0.0 for job in jobs)
    p50, p99 = first_token(jobs)
    tokens = sum(job.tokens for job in jobs)
    return {"tokens_per_s": round(tokens / ended, 1), "loads": world.starts, "ttft_p50_s": p50, "ttft_p99_s": p99}


def first_token(jobs: list[Job]) -> tuple[float, float]:
    """p50 and p99 of the seconds to the first token."""
    cuts = quantiles([job.first_at - job.at for job in jobs if job.first_at is not None], n=100)
    return round(cuts[49], 1), round(cuts[98], 1)


if __name__ == "__main__":
    main()
