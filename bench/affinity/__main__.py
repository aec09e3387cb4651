"""The gain of prefix-aware load balancing, and the cost of choosing a replica: `python -m bench.affinity`.

Simulates 4 and 16 replicas with a prefix cache each under the gateway's own keys and policies, beside one replica that
is as large as all of them. `--engines` instead asks two real engines through the gateway, and `--agents` does so with
the conversations of coding agents; both take some minutes.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.affinity import agents, engines
from bench.affinity.prices import prices
from bench.affinity.simulation import Simulation
from bench.affinity.workloads import workloads
from bench.serve import machine
from service.routing.policies import POLICIES, round_robin

SIZES = (4, 16)
REQUESTS = 1000  # of each replica, and as many before to fill the caches


def main() -> None:
    """Runs it and prints the figures; `--json FILE` keeps them beside those of another part."""
    summary, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog=more)
    parser.add_argument("--engines", action="store_true", help="real engines; needs about 5 GB of memory")
    parser.add_argument("--agents", action="store_true", help="the same, with conversations of coding agents")
    parser.add_argument("--replicas", type=int, nargs="+", default=SIZES, help="how many of them are simulated")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="of each simulated replica")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    stamp = {"machine": machine(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    print(f"{stamp['machine']}, {stamp['date']}\n")
    if asked.engines or asked.agents:
        name, measured = ("agents", agents.measure) if asked.agents else ("engines", engines.measure)
        figures = {name: {**stamp, **measured()}}
        print(json.dumps(figures[name], indent=2))
    else:
        rows = list(reported(simulated(asked.requests, asked.replicas)))
        costs = prices()
        report(costs)
        figures = {"simulated": {**stamp, "requests": asked.requests, "rows": rows}, "prices": {**stamp, **costs}}
    if asked.json:
        kept = json.loads(asked.json.read_text()) if asked.json.exists() else {}
        asked.json.write_text(json.dumps({**kept, **figures}, indent=2) + "\n")


def simulated(requests: int, sizes: Iterable[int]) -> Iterator[dict[str, Any]]:
    """A row for each workload, number of replicas and policy, each beside one replica as large as all of them."""
    for count in sizes:
        for workload in workloads(count):
            users, total = workload.users * count, requests * count
            whole = Simulation(workload, round_robin, 1, users, workload.blocks * count, speed=count).run(total)
            found = {
                name: Simulation(workload, policy, count, users, workload.blocks).run(total)
                for name, policy in POLICIES.items()
            }
            blind = found["round_robin"].hit_rate
            for name, result in found.items():
                yield {
                    "workload": workload.name, "replicas": count, "policy": name,
                    **{figure: round(value, 4) for figure, value in asdict(result).items()},
                    "over_round_robin": round(result.hit_rate / blind, 3),
                    "of_one": round(result.hit_rate / whole.hit_rate, 4),
                }  # fmt: skip


def reported(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows, each printed as it comes, as a table's."""
    print("| workload | replicas | policy | hit rate | over round robin | of one holding all | largest / mean load "
          "| in flight at each | TTFT mean / p99, s |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['workload']} | {row['replicas']} | {row['policy']} | {row['hit_rate']:.1%} "
            f"| {row['over_round_robin']:.2f} | {row['of_one']:.1%} | {row['largest']:.2f} "
            f"| {row['in_flight']:.1f} | {row['ttft']:.3f} / {row['ttft_p99']:.2f} |",
            flush=True,
        )
        yield row


def report(costs: dict[str, Any]) -> None:
    """Prints what choosing costs."""
    print()
    for name, cost in costs["key_us"].items():
        print(f"key of {name}: {cost} µs")
    for name, row in costs["policy_us"].items():
        print(f"{name}: " + ", ".join(f"{cost} µs among {count}" for count, cost in row.items()))


if __name__ == "__main__":
    main()
