"""Two real engines of one model behind the real gateway: requests, processes, metrics, and waiting for recovery."""

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
from tests.vllm.conftest import MODEL, START_TIMEOUT

PATH = "/v1/completions"
TIMEOUT = httpx.Timeout(START_TIMEOUT)
T = TypeVar("T")
POLL_INTERVAL = 0.1  # seconds; engines that start need every core
STREAM = 300  # tokens of a stream that runs on while its engine, or the other, fails: seconds
BOTH = (0, 1)  # the engines of MODEL, by their number and their order in the fleet


class Stream:
    """A streamed response of the gateway. `events` are the data of the events so far, `comments` the other lines."""

    def __init__(self, response: httpx.Response) -> None:
        assert response.status_code == 200, response.status_code
        self.replica = int(response.headers.get("x-roundhouse-replica", "-1")[-1])
        self.events: list[str] = []
        self.comments: list[str] = []
        self._lines = response.aiter_lines()

    async def read_events(self, count: int) -> None:
        """Reads until `count` events have arrived."""
        while len(self.events) < count:
            self._keep(await anext(self._lines))

    async def read_to_end(self) -> None:
        """Reads to the end; raises if the connection breaks off."""
        async for line in self._lines:
            self._keep(line)

    def _keep(self, line: str) -> None:
        if line.startswith("data: "):
            self.events.append(line.removeprefix("data: "))
        elif line:
            self.comments.append(line)

    @property
    def error_code(self) -> str:
        """The code of the error event, which must be the only one and the last event."""
        assert "[DONE]" not in self.events
        assert [number for number, event in enumerate(self.events) if '"error"' in event] == [len(self.events) - 1]
        return str(json.loads(self.events[-1])["error"]["code"])

    def is_complete(self, tokens: int) -> bool:
        """Whether it has `tokens` tokens and a regular end."""
        *events, last = self.events
        values = [json.loads(event) for event in events]
        reasons = [choice["finish_reason"] for value in values for choice in value.get("choices", ())]
        used = [value["usage"]["completion_tokens"] for value in values if value.get("usage")]
        return last == "[DONE]" and reasons[-1] == "length" and used == [tokens]


def is_complete(response: httpx.Response, tokens: int) -> bool:
    """Whether a non-streamed response has `tokens` tokens."""
    if response.status_code != 200:
        return False
    answer = response.json()
    return (answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]) == ("length", tokens)


def metric_sum(page: str, name: str, *labels: str) -> float:
    """The sum of a metric's samples that have the labels, each written as `name="value"`."""
    rows = (line for line in page.splitlines() if line.startswith((f"{name}{{", f"{name} ")))
    return sum(float(row.rsplit(" ", 1)[1]) for row in rows if all(label in row for label in labels))


@dataclass(frozen=True)
class Pair:
    """The service, and a client of it."""

    service: Service
    http: httpx.AsyncClient

    async def ask(self, prompt: str, tokens: int = 8, **headers: str) -> httpx.Response:
        """A non-streamed completion."""
        return await self.http.post(PATH, json=completion(prompt, tokens), headers=header_names(headers))

    @asynccontextmanager
    async def stream(
        self, prompt: str, tokens: int = STREAM, model: str = MODEL, **headers: str
    ) -> AsyncIterator[Stream]:
        """A streamed completion; leaving the context before its end disconnects the client."""
        options = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
        fields = completion(prompt, tokens) | options
        async with self.http.stream("POST", PATH, json=fields, headers=header_names(headers)) as response:
            yield Stream(response)

    def engine_state(self, number: int) -> EngineState:
        """An engine's state file."""
        found = state.read(self.service.run_dir, number)
        assert found
        return found

    def processes(self, number: int) -> list[psutil.Process]:
        """An engine's API server and its descendants."""
        server = psutil.Process(self.engine_state(number).pid)
        return [server, *server.children(recursive=True)]

    def core(self, number: int) -> psutil.Process:
        """An engine's core."""
        return next(one for one in self.processes(number) if "EngineCore" in " ".join(one.cmdline()))

    def request_logs(self) -> list[dict[str, Any]]:
        """The gateway's log records of finished requests."""
        found = (line for line in self.service.log.read_text().splitlines() if line.startswith('{"time"'))
        return [row for row in map(json.loads, found) if row["event"] == "request"]

    async def until_printed(self, text: str, times: int = 1) -> None:
        """Waits until the output of the service contains the text `times` times."""
        log = self.service.log
        await asyncio.to_thread(wait_for, lambda: log.read_text().count(text) >= times, START_TIMEOUT, text)

    async def engine_metrics(self, number: int) -> str:
        """An engine's page of metrics."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.service.socket_of(number)), verify=False)
        async with httpx.AsyncClient(transport=transport, timeout=TIMEOUT) as engine:
            return (await engine.get("http://engine/metrics")).text

    async def metric(self, name: str, *labels: str) -> float:
        """The sum of a metric of the gateway."""
        return metric_sum((await self.http.get("/metrics")).text, name, *labels)

    async def ready_engines(self) -> list[int]:
        """The numbers of the engines that the gateway considers ready."""
        rows = (await self.http.get(f"/v1/models/{MODEL}")).json()["replicas"]
        return [number for number, row in enumerate(rows) if row["state"] == "ready"]

    async def until_healthy(self) -> None:
        """Waits until both engines are ready and idle."""
        await until(self.ready_engines, list(BOTH))
        await self.until_idle()

    async def until_idle(self) -> float:
        """Waits until gateway and ready engines have no requests, running or waiting, and no used KV cache.

        Returns how many tokens those engines have generated so far.
        """
        while True:
            pages = [await self.engine_metrics(number) for number in await self.ready_engines()]
            held = [await self.metric("roundhouse_requests_in_flight"), await self.metric("roundhouse_requests_queued")]
            for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
                held += [metric_sum(page, f"vllm:{name}") for page in pages]
            if not any(held):
                return sum(metric_sum(page, "vllm:generation_tokens_total") for page in pages)
            await asyncio.sleep(POLL_INTERVAL)

    async def until_state(self, number: int, holds: Callable[[EngineState], bool]) -> EngineState:
        """Waits for a state of an engine for which `holds` returns true; returns that state."""
        while True:
            found = self.engine_state(number)
            if holds(found):
                return found
            await asyncio.sleep(POLL_INTERVAL)


async def until(read: Callable[[], Awaitable[T]], *expected: T) -> None:
    """Polls until `read` returns one of the expected values; only the test's own timeout ends it earlier."""
    while True:
        if await read() in expected:
            return
        await asyncio.sleep(POLL_INTERVAL)


def completion(prompt: str, tokens: int) -> dict[str, Any]:
    """The body of a request for a completion of exactly `tokens` tokens."""
    return {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}


def header_names(headers: dict[str, str]) -> dict[str, str]:
    """`sse_heartbeat_interval` → `x-roundhouse-sse-heartbeat-interval`."""
    return {f"x-roundhouse-{name.replace('_', '-')}": value for name, value in headers.items()}


def fleet(folder: Path, **models: dict[str, Any]) -> Path:
    """A fleet file with the pair and other models, given by their fleet keys."""
    chat = {"model": MODEL, "min_replicas": len(BOTH), "policy": "round_robin", "timeouts": {"queue": START_TIMEOUT}}
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
