"""What checks of names, schemas and images cost a request: `python -m bench.checks`, in CPU time and in all."""

import asyncio
import io
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from PIL import Image

from service.checks.checks import Checks
from service.checks.constraints import constraints_of
from service.checks.process import command
from service.protocol.parse_body import parse_body
from service.protocol.requests import ChatRequest
from service.protocol.unique_names import check_names

ROUNDS, REQUESTS = 5, 2000
NEW = 30  # checks that nobody had before
MOST = b"c[64,1000,1000,512]\n"
PROPERTIES = {f"field_{number}": {"type": "string", "description": "What it is for. " * 4} for number in range(8)}
SCHEMA = {"type": "object", "properties": PROPERTIES, "required": list(PROPERTIES), "additionalProperties": False}
TALK = [{"role": "user", "content": "Hello! " * 1000}]  # 7 KB


def tools(**more: Any) -> dict[str, Any]:
    """Twenty tools, as an agent has them: 12 KB."""
    functions = [{"name": f"tool_{number}", "parameters": SCHEMA, **more} for number in range(20)]
    return {"tools": [{"type": "function", "function": function} for function in functions]}


FORMAT = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}
CASES: dict[str, dict[str, Any]] = {
    "nothing to check": {}, "20 tools": tools(), "20 strict tools": tools(strict=True), "a schema": FORMAT,
}  # fmt: skip


class Unheard:
    """Counts nothing."""

    def checked(self, kind: str, result: str, seconds: float) -> None:
        """A check."""

    def started(self, found: Sequence[str]) -> None:
        """Says what a process has found."""
        print("found:", ", ".join(found))

    def died(self, how: str) -> None:
        """A death, which none of this should cause."""
        raise AssertionError(how)


async def microseconds(work: Callable[[], Awaitable[object]]) -> float:
    """The CPU time of this process: the least of some rounds."""
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(REQUESTS):
            await work()
        times.append((time.process_time() - started) / REQUESTS)
    return min(times) * 1e6


async def milliseconds(checks: Checks, kind: str, jobs: Sequence[bytes]) -> float:
    """The time until the verdict on jobs that are new, on average."""
    started = time.perf_counter()
    for job in jobs:
        verdict = await checks.check("bench", kind, job)
        assert not verdict.reason, verdict
    return (time.perf_counter() - started) / len(jobs) * 1e3


def photograph(width: int, height: int, seed: int) -> bytes:
    """A JPEG with noise, which is decoded as slowly as a photograph."""
    with io.BytesIO() as file:
        noise = Image.effect_noise((width // 8, height // 8), 50 + seed).resize((width, height))
        noise.convert("RGB").save(file, "JPEG", quality=85)
        return file.getvalue()


def bodies() -> dict[str, bytes]:
    """Bodies of which the names of all members are checked."""
    said = {"role": "user", "content": "It was a dark and stormy night; the rain fell in torrents. " * 16}
    small, compact = {"model": "m", "messages": [said], "stream": True}, (",", ":")
    long = {**small, "messages": [{**said, "content": said["content"] * 4400}]}
    return {
        "1 kB": json.dumps(small, separators=compact).encode(),
        "1 kB with spaces": json.dumps(small).encode(),
        "4 MB of text": json.dumps(long).encode(),
        "4 MB of {'a': 1}": json.dumps({**small, "documents": [{"a": 1}] * 390_000}).encode(),
        "the same, escapes": json.dumps({**small, "documents": [{"a": 1}] * 390_000, "user": ":"})
        .replace('": ":"', '": "\\u003a"').encode(),
    }  # fmt: skip


def print_names() -> None:
    """Prints what it costs that no name stands twice, beside parsing the same body with it."""
    for name, raw in bodies().items():
        rounds, costs = max(1, 2**18 // len(raw)), []
        for work in (partial(check_names, raw), partial(parse_body, ChatRequest, raw)):
            times = []
            for _ in range(ROUNDS):
                started = time.process_time()
                for _ in range(rounds):
                    work()
                times.append((time.process_time() - started) / rounds * 1e6)
            costs.append(min(times))
        print(f"{name:18} {costs[1]:9.1f} µs to parse, {costs[0]:9.1f} µs of them for names that stand twice")


async def main() -> None:
    """Prints the cost of each case beside the same without the check."""
    print_names()
    checks = Checks(command(2**30, 5), 1, 5.0, 60.0, Unheard())
    await checks.warm()
    for name, fields in CASES.items():
        raw = json.dumps({"model": "m", "messages": TALK, **fields}).encode()

        async def parsed(raw: bytes = raw) -> object:
            return parse_body(ChatRequest, raw)

        async def checked(raw: bytes = raw) -> object:
            found = parse_body(ChatRequest, raw)
            job = constraints_of(found.request, found.body)
            return await checks.check("bench", "schema", MOST + job) if job else None

        without, having = await microseconds(parsed), await microseconds(checked)
        print(f"{name:18} {without:7.1f} µs to parse, {having - without:+7.1f} µs where remembered", end="")
        found = parse_body(ChatRequest, raw)
        if job := constraints_of(found.request, found.body):
            new = [MOST + job.replace(b"field_7", b"field_%d" % number) for number in range(NEW)]
            print(f", {await milliseconds(checks, 'schema', new):7.1f} ms where new", end="")
        print()
    for width, height in ((640, 480), (1920, 1080), (4000, 3000)):
        files = [photograph(width, height, seed) for seed in range(4)]
        size = len(files[0]) / 2**10
        taken = await milliseconds(checks, "image", [b"i" + (2**26).to_bytes(8, "big") + file for file in files])
        print(f"an image of {width} × {height}, {size:,.0f} KB: {taken:.1f} ms to decode it first")
    await checks.close()


if __name__ == "__main__":
    asyncio.run(main())
