"""A closed-loop load for a fixed time, and the resource usage of the server: `python -m bench.cost.load`.

Every answer is checked: status 200, and as many tokens as were asked for. Times are seconds.
"""

import argparse
import asyncio
import json
import math
import os
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

import httptools
import uvloop

from bench import processes
from bench.cost.stub import WORD, WORDS
from bench.processes import MB, Usage
from service.transport.pool import post_request

PATH = "/v1/chat/completions"
MARK = WORD.encode()
PROMPT = "Tell me in a few words which stone a roundhouse is built of."


@dataclass(frozen=True)
class Load:
    """So many `clients` at once for `seconds`, after `warm` seconds that do not count.

    `tokens` is the length of a stream; 0 asks for whole answers. `pace` is the engine's, in seconds for each token.
    """

    name: str
    clients: int
    tokens: int = 0
    pace: float = 0.0
    seconds: float = 6.0
    warm: float = 1.0


@dataclass
class Tally:
    """What happened between `begin` and `end`: requests `done`, their times, `tokens`, and `reads` that brought any."""

    begin: float = math.inf
    end: float = math.inf
    done: int = 0
    tokens: int = 0
    reads: int = 0
    latencies: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def counts(self, at: float) -> bool:
        """Whether what happens now counts."""
        return self.begin <= at < self.end

    def fail(self, what: str) -> None:
        """Notes what went wrong; an error of the warm-up is one too."""
        self.errors[what] += 1


class Client(asyncio.Protocol):
    """One connection that asks again as soon as it has an answer."""

    def __init__(self, request: bytes, tokens: int, tally: Tally) -> None:
        self._request, self._wanted, self._tally = request, tokens or WORDS, tally
        self._streamed = bool(tokens)
        self._parser = httptools.HttpResponseParser(self)
        self._socket: asyncio.Transport | None = None
        self._began = 0.0
        self._found, self._new, self._tail, self._refusal = 0, 0, b"", b""
        self.closed = asyncio.get_running_loop().create_future()

    def leave(self) -> None:
        """Closes the connection; what was under way does not count."""
        if self._socket:
            self._socket.abort()
            self._socket = None

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast(asyncio.Transport, transport)
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        if self._socket:  # nobody here has left
            self._socket = None
            self._tally.fail("the connection was closed")
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._new = 0
        self._parser.feed_data(data)
        if self._new and self._tally.counts(time.perf_counter()):
            self._tally.tokens += self._new
            self._tally.reads += 1

    # Called by the parser.

    def on_body(self, body: bytes) -> None:
        # A mark may be cut in two: what could be the beginning of one is looked at again.
        if self._parser.get_status_code() != 200:
            self._refusal += body
            return
        text = self._tail + body
        new = text.count(MARK)
        self._tail = text[-(len(MARK) - 1) :]
        if new and not self._found and self._streamed:
            now = time.perf_counter()
            if self._tally.counts(self._began):
                self._tally.firsts.append(now - self._began)
        self._found += new
        self._new += new

    def on_message_complete(self) -> None:
        now, status = time.perf_counter(), self._parser.get_status_code()
        if status != 200:
            self._tally.fail(f"status {status}: {self._refusal[:300].decode(errors='replace')}")
        elif self._found != self._wanted:
            self._tally.fail(f"{self._found} tokens, not {self._wanted}")
        elif self._tally.counts(now):
            self._tally.done += 1
            self._tally.latencies.append(now - self._began)
        if self._parser.should_keep_alive():
            self._ask()
        else:
            self.leave()

    def _ask(self) -> None:
        if self._socket:
            self._found, self._tail, self._refusal = 0, b"", b""
            self._began = time.perf_counter()
            self._socket.write(self._request)


def request(model: str, tokens: int) -> bytes:
    """The request that every client sends."""
    fields: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": PROMPT}]}
    if tokens:
        fields |= {"stream": True, "max_tokens": tokens}
    return post_request(PATH, json.dumps(fields).encode())


async def run(port: int, model: str, load: Load, watched: dict[str, int]) -> dict[str, Any]:
    """The figures of one load on a port of 127.0.0.1; `watched` are processes by name, counted with their children."""
    loop, tally, wire = asyncio.get_running_loop(), Tally(), request(model, load.tokens)
    clients: list[Client] = []

    async def keep() -> None:
        while True:
            try:
                _, client = await loop.create_connection(lambda: Client(wire, load.tokens, tally), "127.0.0.1", port)
            except OSError as error:
                tally.fail(f"no connection: {error}")
                await asyncio.sleep(0.05)
                continue
            clients.append(client)
            await client.closed
            clients.remove(client)

    keepers = []
    for _ in range(load.clients):
        keepers.append(asyncio.create_task(keep()))
        await asyncio.sleep(load.warm / 2 / load.clients)  # not all in step
    await asyncio.sleep(load.warm / 2)
    watched = {**watched, "load": os.getpid()}
    before, busy = {name: processes.usage(pid) for name, pid in watched.items()}, processes.busy()
    tally.begin = time.perf_counter()
    await asyncio.sleep(load.seconds)
    tally.end = time.perf_counter()
    after, busy = {name: processes.usage(pid) for name, pid in watched.items()}, processes.busy() - busy
    proportional = {name: processes.proportional(pid) for name, pid in watched.items()}
    for keeper in keepers:
        keeper.cancel()
    for client in list(clients):
        client.leave()
    await asyncio.gather(*keepers, return_exceptions=True)
    return figures(tally, before, after, busy, proportional)


def figures(
    tally: Tally, before: dict[str, Usage], after: dict[str, Usage], busy: float, proportional: dict[str, int]
) -> dict[str, Any]:
    """What a load found: rates per second, `_ms` in milliseconds, `_us` CPU microseconds for each, `_mb` 10^6 bytes."""
    seconds = tally.end - tally.begin
    used = {name: after[name].seconds - before[name].seconds for name in after}
    return {
        "seconds": round(seconds, 3),
        "done": tally.done,
        "requests_per_s": round(tally.done / seconds, 1),
        "tokens_per_s": round(tally.tokens / seconds, 1),
        "tokens_per_read": _ratio(tally.tokens, tally.reads),
        "errors": sum(tally.errors.values()),
        "error_kinds": dict(tally.errors),
        "latency_ms": percentiles(tally.latencies),
        "first_ms": percentiles(tally.firsts),
        "processes": {
            name: {
                "cores": round(used[name] / seconds, 3),
                "request_us": _ratio(used[name] * 1e6, tally.done),
                "token_us": _ratio(used[name] * 1e6, tally.tokens),
                "rss_mb": round(after[name].rss / MB, 1),
                "pss_mb": round(proportional[name] / MB, 1),
                "largest_mb": round(after[name].largest / MB, 1),
            }
            for name in after
        },
        "other_cores": round(max(0.0, busy - sum(used.values())) / seconds, 2),
    }


def percentiles(seconds: list[float]) -> dict[str, float]:
    """`p50` and `p99` in milliseconds; empty where there is too little to tell."""
    if len(seconds) < 2:
        return {}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50": round(cuts[49] * 1000, 3), "p99": round(cuts[98] * 1000, 3)}


def _ratio(what: float, of: int) -> float | None:
    return round(what / of, 2) if of else None


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--load", type=json.loads, required=True, help="the fields of a Load as JSON")
    parser.add_argument("--watched", type=json.loads, default={}, help="process ids by name as JSON")
    asked = parser.parse_args()
    json.dump(uvloop.run(run(asked.port, asked.model, Load(**asked.load), asked.watched)), sys.stdout)


if __name__ == "__main__":
    main()
