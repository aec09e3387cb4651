"""Whether the usage ledger equals the engines' own counts while things are killed: `python -m bench.ledger`.

Fake engines count what they read and say, by request. The service is killed with all its processes (kill -9) and
started again, engines too, and clients leave in the middle. Each line is compared with its engine's count.
"""

import argparse
import asyncio
import json
import random
import re
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import uvloop
import yaml

from bench import processes
from service.observability.ledger_file import FILE
from tests.fake_engine import FakeEngine, Seen

MODEL, GAP, ENGINES, CLIENTS = "pebble-chat", 0.002, 2, 24
PROMPT = re.compile(rb'"(?:prompt|input)_tokens":(\d+)')
COMPLETION = re.compile(rb'"(?:completion|output)_tokens":(\d+)')
TALK = [{"role": "user", "content": "one two three"}]
KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/chat/completions", {"messages": TALK, "max_tokens": 20}),
    ("/v1/responses", {"input": "one two three", "max_output_tokens": 20}),
    ("/v1/messages", {"messages": TALK, "max_tokens": 20}),
)
NO_ANSWER = "no answer"
START = 180.0  # seconds


class Engines:
    """The engines on their ports; `all` holds those that were killed, too."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack, self.ports = stack, [processes.free_port() for _ in range(ENGINES)]
        self.all: list[FakeEngine] = []
        self.living: list[FakeEngine] = []

    async def start(self) -> None:
        """Starts all of them."""
        self.living = [await self._begin(port) for port in self.ports]

    async def replace(self, number: int) -> None:
        """Kills one, and starts another on its port."""
        self.living[number].die("kill")
        await asyncio.sleep(0.5)
        self.living[number] = await self._begin(self.ports[number])

    async def _begin(self, port: int) -> FakeEngine:
        engine = FakeEngine(MODEL, gap=GAP)
        await self._stack.enter_async_context(engine.listen(port))
        self.all.append(engine)
        return engine


async def main() -> None:
    """Prints what was found; exits with 1 where a line that is no estimate differs from its engine's count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=4, help="of the service, and as many of engines")
    asked = parser.parse_args()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rh-ledger-")))
        engines = Engines(stack)
        await engines.start()
        port, log = processes.free_port(), (folder / "log").open("ab")
        (folder / "fleet.yaml").write_text(
            yaml.safe_dump({"models": [{"model": MODEL, "addresses": [f"127.0.0.1:{one}" for one in engines.ports]}]})
        )
        environment = {"ROUNDHOUSE_USAGE_DIR": str(folder / "usage")}

        async def start() -> Any:
            process = processes.launch(processes.serve(folder / "fleet.yaml", port), log.fileno(), None, environment)
            await ready(port, folder / "log")
            return process

        service = await start()
        left, answered = asked.requests, Counter[str]()

        async def client(number: int) -> None:
            nonlocal left
            source = random.Random(number)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as http:
                while left > 0:
                    left -= 1
                    answered[found := await ask(http, source)] += 1
                    left += found == NO_ANSWER

        clients = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
        marks = [asked.requests * (asked.kills - number) // (asked.kills + 1) for number in range(asked.kills)]
        for number, mark in enumerate(marks):
            while left > mark:  # noqa: ASYNC110  simple, and it need not be exact
                await asyncio.sleep(0.02)
            for one in processes.family(service.pid):
                with suppress(psutil.NoSuchProcess):
                    one.send_signal(signal.SIGKILL)
            await asyncio.to_thread(service.wait)
            service = await start()
            await asyncio.sleep(0.5)
            await engines.replace(number % ENGINES)
        await asyncio.gather(*clients)
        await asyncio.sleep(1)
        await asyncio.to_thread(processes.end, service)
        with sqlite3.connect(folder / "usage" / FILE) as connection:
            connection.row_factory = sqlite3.Row
            rows = connection.execute("SELECT * FROM lines").fetchall()
    report = compare([dict(row) for row in rows], [seen for engine in engines.all for seen in engine.requests])
    print(json.dumps({"clients_saw": dict(answered)} | report, indent=2))
    if report["exact_lines_that_differ"]:
        raise SystemExit(1)


async def ask(http: httpx.AsyncClient, source: random.Random) -> str:
    """One request; a third of the streams are left in the middle."""
    path, fields = source.choice(KINDS)
    stream = source.random() < 0.5
    body = {"model": MODEL, **fields, "stream": stream}
    try:
        if stream and source.random() < 0.33:
            async with http.stream("POST", path, json=body) as response:
                async for _ in response.aiter_bytes():
                    return "left"
            return str(response.status_code)
        return str((await http.post(path, json=body)).status_code)
    except (httpx.HTTPError, AttributeError):  # which anyio raises for a connection that breaks at once
        await asyncio.sleep(0.2)  # the service is being started again
        return NO_ANSWER


async def ready(port: int, log: Path) -> None:
    """Waits until the service answers requests to the model."""
    deadline = time.monotonic() + START
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
        while time.monotonic() < deadline:
            with suppress(httpx.HTTPError):
                if (await http.get("/readyz")).status_code == 200:
                    return
            await asyncio.sleep(0.1)
    raise SystemExit(f"The service does not start: {await asyncio.to_thread(log.read_text)}")


def compare(lines: list[dict[str, Any]], seen: list[Seen]) -> dict[str, Any]:
    """The ledger's lines beside what the engines were asked, by request id."""
    told: dict[str, list[tuple[int, int]]] = {}
    for one in seen:
        if id := one.headers.get("x-request-id"):
            counted = COMPLETION.findall(one.answer)
            usage = (int(PROMPT.findall(one.answer)[-1]), int(counted[-1])) if counted else (0, 0)
            told.setdefault(id, []).append(usage)
    exact = [line for line in lines if not line["estimated"] and line["completion"]]
    differing = [line for line in exact if (line["prompt"], line["completion"]) not in told.get(line["id"], [])]
    known = {line["id"] for line in lines}
    finished = {id for id, usages in told.items() if any(completion for _, completion in usages)}
    return {
        "requests_that_engines_saw": len(told),
        "lines": len(lines),
        "outcomes": dict(Counter(line["outcome"] for line in lines)),
        "exact_lines": len(exact),
        "exact_lines_that_differ": len(differing),
        "exact_tokens": sum(line["prompt"] + line["completion"] for line in exact),
        "the_engines_count_of_these": sum(
            prompt + completion for line in exact for prompt, completion in told[line["id"]] if completion
        ),
        "estimated_lines": sum(line["estimated"] for line in lines),
        "requests_that_engines_saw_without_a_line": len(set(told) - known),
        "of_which_they_finished": len(finished - known),
    }


if __name__ == "__main__":
    uvloop.run(main())
