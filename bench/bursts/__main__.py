"""What the concurrency limit costs in bursts and saves under overload: `python -m bench.bursts`.

Simulates a vLLM engine that is fitted to an H100, directly and behind the gateway's own admission and limit. Beside
them stands a control, a limit that a single sample of the engine decides. Nothing depends on the machine.
`--fake-engine` instead measures a burst here: on a fake engine, and through a gateway in front of it.
"""

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from bench.bursts import fake
from bench.bursts.loads import BURSTS, LIMITS, OVERLOADS, burst, overload


def main() -> None:
    """Runs it and prints the figures as tables; `--json FILE` keeps them."""
    summary, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog=more)
    parser.add_argument("--fake-engine", action="store_true", help="takes a minute")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    figures = {"fake_engine": asyncio.run(fake.measure())} if asked.fake_engine else simulated()
    if asked.json:
        kept = json.loads(asked.json.read_text()) if asked.json.exists() else {}
        asked.json.write_text(json.dumps({**kept, **figures}, indent=2) + "\n")


def simulated() -> dict[str, Any]:
    """The figures of every load and limit, each printed as it comes."""
    bursts, overloads = dict[str, Any](), dict[str, Any]()
    print("| burst | limit | direct tokens/s | ratio, worst | direct TTFT p99, s | ratio, worst |")
    print("|---|---|---|---|---|---|")
    for name in BURSTS:
        for rule, next_limit in LIMITS.items():
            row = bursts.setdefault(name, {})[rule] = rounded(burst(name, next_limit))
            print(f"| {name} | {rule} | {row['tokens_per_s']:,.0f} | {row['ratio']:.3f} "
                  f"| {row['p99']:.2f} | {row['p99_ratio']:.2f} |", flush=True)  # fmt: skip
    print("\n| ten times what is bound by | limit | goodput | direct | preemptions | direct | waiting in the engine |")
    print("|---|---|---|---|---|---|---|")
    for name in OVERLOADS:
        for rule, next_limit in LIMITS.items():
            row = overloads.setdefault(name, {})[rule] = rounded(overload(name, next_limit))
            print(f"| {name} | {rule} | {row['goodput']:.2f} | {row['direct']:.2f} | {row['preemptions']:,} "
                  f"| {row['direct_preemptions']:,} | {row['waiting']:.1f} |", flush=True)  # fmt: skip
    return {"bursts": bursts, "overloads": overloads}


def rounded(row: dict[str, float]) -> dict[str, float]:
    """The figures with four digits after the point."""
    return {name: round(value, 4) for name, value in row.items()}


if __name__ == "__main__":
    main()
