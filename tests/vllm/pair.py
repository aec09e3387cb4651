"""Two real engines of one model behind the real gateway: how they are asked, hurt, and seen to be well again."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from service.engine import state
from service.engine.state import EngineState
from tests.support.services import Service, wait_for
from tests.vllm.conftest import MODEL, START_LIMIT

PATH = "/v1/completions"
PATIENT = httpx.Timeout(START_LIMIT)
T = TypeVar("T")
POLL = 0.1  # seconds; engines that start need every core
BOTH = (0, 1)  # the engines of MODEL, by their number and their order in the fleet


class Stream:
    """A streamed answer of the gateway. `events` are the data of those that came, `comments` the lines between them."""

    def __init__(self, response: httpx.Response) -> None:
        assert response.status_code == 200, response.status_code
        self.replica = int(response.headers.get("x-roundhouse-replica", "-1")[-1])
        self.events: list[str] = []
        self.comments: list[str] = []
        self._lines = response.aiter_lines()

    async def take(self, count: int) -> None:
        """Reads until so many events are here."""
        while len(self.events) < count:
            self._keep(await anext(self._lines))

    async def rest(self) -> None:
        """Reads to the end, which must be a proper one of the connection."""
        async for line in self._lines:
            self._keep(line)

    def _keep(self, line: str) -> None:
        if line.startswith("data: "):
            self.events.append(line.removeprefix("data: "))
        elif line:
            self.comments.append(line)

    @property
    def code(self) -> str:
        """The code of the one error that ended the stream, which must have no other end."""
        assert "[DONE]" not in self.events
        assert [number for number, event in enumerate(self.events) if '"error"' in event] == [len(self.events) - 1]
        return str(json.loads(self.events[-1])["error"]["code"])

    def is_whole(self, tokens: int) -> bool:
        """Whether so many tokens came, and an end without an error."""
        *events, last = self.events
        values = [json.loads(event) for event in events]
        reasons = [choice["finish_reason"] for value in values for choice in value.get("choices", ())]
        used = [value["usage"]["completion_tokens"] for value in values if value.get("usage")]
        return last == "[DONE]" and reasons[-1] == "length" and used == [tokens]


def is_whole(response: httpx.Response, tokens: int) -> bool:
    """Whether an answer that was not streamed has so many tokens."""
    if response.status_code != 200:
        return False
    answer = response.json()
    return (answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]) == ("length", tokens)


def total(page: str, name: str, *labels: str) -> float:
    """The sum of a metric's values that bear the labels, each written as `name="value"`."""
    rows = (line for line in page.splitlines() if line.startswith((f"{name}{{", f"{name} ")))
    return sum(float(row.rsplit(" ", 1)[1]) for row in rows if all(label in row for label in labels))


@dataclass(frozen=True)
class Pair:
    """The service, and a client of it."""

    service: Service
    http: httpx.AsyncClient

    async def ask(self, prompt: str, tokens: int = 8, **headers: str) -> httpx.Response:
        """A whole answer."""
        return await self.http.post(PATH, json=body(prompt, tokens), headers=named(headers))

    @asynccontextmanager
    async def stream(self, prompt: str, tokens: int = 900, model: str = MODEL, **headers: str) -> AsyncIterator[Stream]:
        """A streamed answer; who leaves the context before its end has gone away."""
        fields = body(prompt, tokens) | {"model": model, "stream": True, "stream_options": {"include_usage": True}}
        async with self.http.stream("POST", PATH, json=fields, headers=named(headers)) as response:
            yield Stream(response)

    def said(self, number: int) -> EngineState:
        """What the supervisor of an engine says of it."""
        found = state.read(self.service.run_dir, number)
        assert found
        return found

    def processes(self, number: int) -> list[psutil.Process]:
        """An engine's API server and all that it started."""
        server = psutil.Process(self.said(number).pid)
        return [server, *server.children(recursive=True)]

    def core(self, number: int) -> psutil.Process:
        """An engine's core."""
        return next(one for one in self.processes(number) if "EngineCore" in " ".join(one.cmdline()))

    def lines(self) -> list[dict[str, Any]]:
        """What the gateway logged of each request that has ended."""
        found = (line for line in self.service.log.read_text().splitlines() if line.startswith('{"time"'))
        return [row for row in map(json.loads, found) if row["event"] == "request"]

    async def told(self, text: str, times: int = 1) -> None:
        """Waits until the terminal of the service shows the text so often."""
        log = self.service.log
        await asyncio.to_thread(wait_for, lambda: log.read_text().count(text) >= times, START_LIMIT, text)

    async def page(self, number: int) -> str:
        """The metrics of an engine."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.service.socket_of(number)), verify=False)
        async with httpx.AsyncClient(transport=transport, timeout=PATIENT) as engine:
            return (await engine.get("http://engine/metrics")).text

    async def seen(self, name: str, *labels: str) -> float:
        """A metric of the gateway's."""
        return total((await self.http.get("/metrics")).text, name, *labels)

    async def ready(self) -> list[int]:
        """The engines that the gateway holds for ready."""
        rows = (await self.http.get(f"/v1/models/{MODEL}")).json()["replicas"]
        return [number for number, row in enumerate(rows) if row["state"] == "ready"]

    async def healed(self) -> None:
        """Waits until both engines are ready and have nothing to do."""
        await until(self.ready, list(BOTH))
        await self.quiet()

    async def quiet(self) -> float:
        """Waits until nothing runs, or waits, in the gateway and in the engines that are ready, and no cache is held.

        Returns how many tokens those engines have made so far.
        """
        while True:
            pages = [await self.page(number) for number in await self.ready()]
            held = [await self.seen("roundhouse_requests_in_flight"), await self.seen("roundhouse_requests_queued")]
            for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
                held += [total(page, f"vllm:{name}") for page in pages]
            if not any(held):
                return sum(total(page, "vllm:generation_tokens_total") for page in pages)
            await asyncio.sleep(POLL)

    async def until(self, number: int, holds: Callable[[EngineState], bool]) -> EngineState:
        """Waits until an engine's supervisor says something that it holds for; returns that."""
        while True:
            found = self.said(number)
            if holds(found):
                return found
            await asyncio.sleep(POLL)


async def until(look: Callable[[], Awaitable[T]], *wanted: T) -> None:
    """Looks until it sees one of the wanted; a test's own limit is the limit."""
    while True:
        if await look() in wanted:
            return
        await asyncio.sleep(POLL)


def body(prompt: str, tokens: int) -> dict[str, Any]:
    """A completion of exactly so many tokens."""
    return {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}


def named(headers: dict[str, str]) -> dict[str, str]:
    """`sse_heartbeat_interval` → `x-roundhouse-sse-heartbeat-interval`."""
    return {f"x-roundhouse-{name.replace('_', '-')}": value for name, value in headers.items()}


def fleet(folder: Path, **models: dict[str, Any]) -> Path:
    """A fleet of the pair and of other models."""
    chat = {"model": MODEL, "min_replicas": len(BOTH), "policy": "round_robin", "timeouts": {"queue": START_LIMIT}}
    env = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": 1, "TORCHDYNAMO_DISABLE": 1}
    path = folder / "fleet.yaml"
    path.write_text(
        json.dumps(
            {
                "models": [chat, *({"model": model, **fields} for model, fields in models.items())],
                "startup": "parallel",
                "extra_fields": ["ignore_eos"],
                "engine": {"enforce_eager": True, "max_model_len": 1024, "max_num_seqs": 4},
                "env": {**env, "OMP_NUM_THREADS": 1},
            }
        )
    )
    return path
