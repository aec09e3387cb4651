"""`make mutants`: small changes to the pure packages, each of which some test should notice; those that none does.

mutmut makes the changes, and knows from one run of all tests which of them reach which function, so that only those run
against a change to it. Here is chosen how many of the changes are tried: in an order that the seed decides, as many as
the minutes allow by what their tests took. The report has what survived.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "mutants"  # mutmut's own
PROCESSES = 2
START = 0.5  # seconds until the tests of a mutant have begun
LONGEST = 20.0  # seconds of tests of one mutant; what nearly all tests reach would leave no time for others
ANY = "service.upstreams.breaker.*__mutmut_1"  # a few, so that mutmut makes them all and runs the tests once
UNTRIED, SURVIVED, NO_TESTS, TIMEOUT = None, 0, (5, 33), (-24, 24, 36, 152, 255)  # mutmut's exit codes


@dataclass(frozen=True)
class Outcome:
    """What became of the mutants of one package."""

    package: str
    counts: Counter[str]

    @property
    def row(self) -> str:
        tried = self.counts.total()
        columns = [self.counts[name] for name in ("killed", "timeout", "survived", "untested")]
        share = f"{100 * (self.counts['killed'] + self.counts['timeout']) / tried:.0f} %" if tried else "-"
        return f"| {' | '.join(map(str, (self.package, tried, *columns, share)))} |"


def mutmut(*arguments: str, minutes: float | None = None) -> str:
    """What mutmut says; it is ended after so many minutes, and what it has found by then stays."""
    command = [str(Path(sys.executable).with_name("mutmut")), *arguments]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=minutes and minutes * 60
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout + done.stderr


def codes() -> dict[str, int | None]:
    """The exit code of each mutant's tests, None where it was not tried; by its name, in the order of the names."""
    found: dict[str, int | None] = {}
    for path in sorted(FOLDER.rglob("*.py.meta")):
        found |= json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
    return dict(sorted(found.items()))


def chosen(names: Iterable[str], minutes: float, seed: int) -> list[str]:
    """As many of the mutants as can be tried within the minutes, taken at random.

    One that does not fit is left out, and so is one whose tests take longer than `LONGEST`.
    """
    stats = json.loads((FOLDER / "mutmut-stats.json").read_text(encoding="utf-8"))
    reached, took = stats["tests_by_mangled_function_name"], stats["duration_by_test"]
    drawn = sorted(names)
    random.Random(seed).shuffle(drawn)
    left, found = minutes * 60 * PROCESSES, []
    for name in drawn:
        seconds = START + sum(took[test] for test in reached.get(name.partition("__mutmut_")[0], ()))
        if seconds <= min(left, LONGEST):
            left -= seconds
            found.append(name)
    return found


def outcome(code: int | None) -> str:
    if code == SURVIVED:
        return "survived"
    return "untested" if code in NO_TESTS else "timeout" if code in TIMEOUT else "killed"


def package(name: str) -> str:
    """`service.routing.policies.x_least_load__mutmut_3` → `routing`."""
    return name.split(".")[1]


def report(tried: Mapping[str, int | None], known: int, seed: int, minutes: float) -> Iterator[str]:
    """The lines of the report on the mutants that were tried, of so many known ones."""
    yield "# Mutants of the pure packages\n"
    day = time.strftime("%Y-%m-%d")
    yield f"{len(tried)} of {known} mutants, drawn with seed {seed}, within {minutes:g} minutes, on {day}."
    yield f"What the tests would take more than {LONGEST:g} s for was left out."
    yield f"Again: `make mutants MUTANTS_MINUTES={minutes:g} MUTANTS_SEED={seed}`.\n"
    yield "| package | tried | killed | timeout | survived | untested | noticed |\n|---|---|---|---|---|---|---|"
    counts: dict[str, Counter[str]] = {}
    for name, code in tried.items():
        counts.setdefault(package(name), Counter())[outcome(code)] += 1
    for one, found in sorted(counts.items()):
        yield Outcome(one, found).row
    yield Outcome("all", sum(counts.values(), Counter())).row
    yield "\n## Survivors\n"
    for name, code in tried.items():
        if outcome(code) in ("survived", "untested"):
            yield f"### {name}{' (no test reaches it)' if code != SURVIVED else ''}\n"
            changed = [line for line in mutmut("show", name).splitlines() if line[:1] in ("+", "-", "@", " ")]
            yield "\n".join(["```diff", *changed, "```\n"])


def main() -> None:
    """Tries a sample and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0, help="for the mutants, after the first run of all tests")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "build/mutants.md")
    options = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)  # mutmut would go on with the tests of the last time
    said = mutmut("run", "--max-children", str(PROCESSES), ANY)
    if not (FOLDER / "mutmut-stats.json").exists():
        sys.exit(f"mutmut could not begin:\n{said}")
    names = codes()
    sample = chosen(names, options.minutes, options.seed)
    said = mutmut("run", "--max-children", str(PROCESSES), *sample, minutes=2 * options.minutes + 5)
    found = codes()
    tried = {name: found[name] for name in sorted(sample) if found[name] is not UNTRIED}
    if not tried:
        failed = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR", "E  "))]
        sys.exit("\n".join([f"mutmut tried none of {len(sample)}; of its own run of the tests:", *failed]))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(report(tried, len(names), options.seed, options.minutes)) + "\n", encoding="utf-8")
    print(options.out.read_text(encoding="utf-8").partition("\n## ")[0])
    print(f"Survivors: {options.out}")


if __name__ == "__main__":
    main()
