"""What observability costs each request and each streamed output, and how long the page of a large fleet takes.

`python -m bench.observability` prints CPU microseconds of each part by itself, then of the whole gateway with all of it
off and on, then milliseconds of `GET /metrics` with 40 models and 200 tenants. All are of one run: the least of several
rounds, but of the whole gateway medians; what a case costs more is the median of the differences within each round.
`--instructions` adds the processor's instructions, counted by valgrind, which takes minutes and does not depend on what
else the machine does.

"Off" is a seam of this program: nothing is observed, and no line is written. The names of OpenTelemetry, the ledger and
a tenant's budgets are settings, and are off with it.
"""

import argparse
import tempfile
from functools import partial
from operator import sub, truediv
from pathlib import Path
from statistics import median

import uvloop

from bench import guardrails, instructions
from bench.observability import whole
from bench.observability.parts import MODELS, TENANTS, counted, large, least, parts, repeat
from bench.observability.whole import OFF, whole_gateway

REQUESTS, OUTPUTS = 400, 100


def print_parts(count: bool) -> None:
    """What each part costs by itself, for a stream of one output and of many."""
    titles = [f"{outputs} outputs" for outputs in (1, OUTPUTS)]
    print(f"{'one request, CPU µs':28}", *(f"{title:>14}" for title in titles))
    with tempfile.TemporaryDirectory() as folder:
        short, long = (parts(outputs, Path(folder)) for outputs in (1, OUTPUTS))
        for part in short:
            times = [least(partial(repeat, one[part], REQUESTS)) / REQUESTS * 1e6 for one in (short, long)]
            print(f"{part:28}", *(f"{each:14.1f}" for each in times))
    if count:
        print(f"{'instructions':28}", *(f"{title:>14}" for title in titles))
        for part, *each in zip(short, *(counted(outputs) for outputs in (1, OUTPUTS)), strict=True):
            print(f"{part:28}", *(f"{one:14,.0f}" for one in each))


def print_gateway(count: bool) -> None:
    """The whole gateway, with it and without."""
    tables = {"CPU µs": uvloop.run(whole_gateway())} | ({"instructions": whole.counted()} if count else {})
    for unit, found in tables.items():
        print(f"{f'whole gateway, {unit}':28} {'whole':>14} {'streamed':>14} {'more':>9} {'ratio':>6} {'a chunk':>8}")
        off = found[OFF]
        for case, each in found.items():
            more = median(map(sub, each["whole"], off["whole"]))
            ratio = median(map(truediv, each["whole"], off["whole"]))
            a_chunk = (median(map(sub, each["streamed"], off["streamed"])) - more) / guardrails.WORDS
            costs = " ".join(f"{median(each[load]):14,.0f}" for load in ("whole", "streamed"))
            print(f"{case:28} {costs} {more:9,.1f} {ratio:6.3f} {a_chunk:8.2f}")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instructions", action="store_true", help="count them, too, with valgrind")
    asked = parser.parse_args()
    print_parts(asked.instructions and instructions.available())
    print_gateway(asked.instructions and instructions.available())
    metrics = large()
    page = metrics.text()
    title = f"GET /metrics, {MODELS} models, {TENANTS} tenants"
    print(f"{title}: {least(metrics.text) * 1e3:.1f} ms, {len(page) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
