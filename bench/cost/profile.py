"""What a whole answer or one more chunk of a stream costs, function by function: `python -m bench.cost.profile`.

The gateway of `bench.cost.instructions` runs in this process, and what each of its Python functions does is counted:
how often it is called, the bytecodes that it executes itself, and its calls of functions in C. Other load changes none
of that. A coroutine that goes on after an await counts as called again. What uvloop, the parsers and the kernel do is
not in these counts; valgrind's instructions are those of all but the kernel.
`--chunk` is about one more chunk: what long streams cost less what short ones do, its part of their ends included.
`--stream` is about a stream of two chunks, from its request to its end.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import uvloop

from bench.cost.instructions import CHUNKS, REQUESTS, STREAMS, serve
from service.config.paths import ROOT

ROWS = 40


@dataclass(frozen=True)
class Function:
    """What one function does for one whole answer, one stream, or one chunk."""

    name: str
    calls: float
    bytecodes: float
    calls_of_c: float


@dataclass(frozen=True)
class Subject:
    """What is counted: whole answers, short streams and long ones by their `weights`, all together for `count`."""

    weights: tuple[int, int, int]
    count: int


WHOLE_ANSWER = Subject((1, 0, 0), REQUESTS)
STREAM = Subject((0, 1, 0), STREAMS)
CHUNK = Subject((0, -1, 1), STREAMS * (CHUNKS - 2))


def run(weigh: Callable[[int], None], weights: tuple[int, int, int]) -> None:
    """Runs the gateway; `weigh` is called with the weight of each part before it, and with 0 at the end."""
    marks = iter((*weights, 0))
    uvloop.run(serve(lambda: None, lambda: weigh(next(marks))))


def functions(subject: Subject = WHOLE_ANSWER) -> list[Function]:
    """All of them, those with the most bytecodes first."""
    calls, bytecodes, calls_of_c = Counter[str](), Counter[str](), Counter[str]()
    names: dict[CodeType, str] = {}
    weight = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        name = names.get(frame.f_code) or names.setdefault(frame.f_code, named(frame.f_code))
        if event == "opcode":
            bytecodes[name] += weight
        elif event == "call":
            frame.f_trace_lines, frame.f_trace_opcodes = False, True
            calls[name] += weight
        return trace

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "c_call":
            calls_of_c[names.get(frame.f_code, "")] += weight

    def weigh(part: int) -> None:
        nonlocal weight
        weight = part
        sys.setprofile(profile if part else None)
        sys.settrace(trace if part else None)

    run(weigh, subject.weights)
    count = subject.count
    # Others are of no request; what one chunk has of the end of a stream is.
    often = [name for name, number in bytecodes.items() if calls[name] >= count / 2 or number >= count]
    found = [Function(name, *(counts[name] / count for counts in (calls, bytecodes, calls_of_c))) for name in often]
    return sorted(found, key=lambda one: one.bytecodes, reverse=True)


def named(code: CodeType) -> str:
    """A function as people write it, after its module."""
    path = Path(code.co_filename)
    inside = path.is_relative_to(ROOT / "service")
    module = path.relative_to(ROOT / "service").with_suffix("").as_posix() if inside else path.stem
    return f"{module}: {code.co_qualname.replace('<locals>.', '')}"


def drawn(found: list[Function], rows: int) -> str:
    """A table in Markdown of the first ones, the others together, and all."""
    rest = found[rows:]
    shown = [*found[:rows], *([summed(f"{len(rest)} others", rest)] if rest else []), summed("all", found)]
    lines = ["| function | calls | bytecodes | calls of C |", "|---|---|---|---|"]
    lines += [f"| {one.name} | {one.calls:.3g} | {one.bytecodes:,.0f} | {one.calls_of_c:.0f} |" for one in shown]
    return "\n".join(lines)


def summed(name: str, found: list[Function]) -> Function:
    """Some functions together."""
    sums = (sum(getattr(one, field) for one in found) for field in ("calls", "bytecodes", "calls_of_c"))
    return Function(name, *sums)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS, help="how many functions are shown by name")
    subject = parser.add_mutually_exclusive_group()
    subject.add_argument("--stream", action="store_const", dest="subject", const=STREAM, help="a stream of two chunks")
    subject.add_argument(
        "--chunk", action="store_const", dest="subject", const=CHUNK, help="one more chunk of a stream"
    )
    parser.set_defaults(subject=WHOLE_ANSWER)
    asked = parser.parse_args()
    print(drawn(functions(asked.subject), asked.rows))


if __name__ == "__main__":
    main()
