"""One real engine without a service: it calls tools, traces, hangs, recovers, and dies.

A real engine takes half a minute to start, so the tests share it and run in this order.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.config.settings import Settings
from service.observability.trace_settings import TraceSettings, engine_variables, read
from service.transport.pool import ConnectionPool
from service.upstreams.remote import RemoteEngine
from service.upstreams.replica import Replica
from service.upstreams.upstream import Upstream
from tests.fake_engine import Call, FakeEngine, Script
from tests.support import fleets, gateways
from tests.support.collector import Collector, collecting
from tests.support.waiting import PATIENCE, until
from tests.vllm.conftest import MODEL, RealEngine, running
from tests.vllm.transcript import ask

pytestmark = pytest.mark.engine

USER = [{"role": "user", "content": "one two three"}]
ARGUMENTS = {"n": "one two"}
SCHEMA = {
    "type": "object",
    "properties": {"n": {"enum": ["one two"]}},
    "required": ["n"],
    "additionalProperties": False,
}
FUNCTION = {"name": "run", "parameters": SCHEMA}
# Without it a model of a million parameters would never write one by itself.
WRITTEN = r'<tool_call>\n\{"name": "run", "arguments": \{"n": "one two"\}\}\n</tool_call>'
AUTO = {"model": MODEL, "tool_choice": "auto", "structured_outputs": {"regex": WRITTEN}}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": AUTO | {"messages": USER, "tools": [{"type": "function", "function": FUNCTION}]},
    "/v1/responses": AUTO | {"input": "one two", "tools": [{"type": "function", **FUNCTION}]},
    "/v1/messages": {
        "model": MODEL,
        "messages": USER,
        "tools": [{"name": "run", "input_schema": SCHEMA}],
        "tool_choice": {"type": "tool", "name": "run"},
        "max_tokens": 100,
    },
}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as one:
        yield one


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[RealEngine]:
    settings: dict[str, Any] = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}
    traces = traces_to(collector)
    settings["otlp_traces_endpoint"] = traces.endpoint
    variables = {"OTEL_BSP_SCHEDULE_DELAY": "200", **engine_variables(traces, f"{MODEL}-0", {})}
    settings["tool_strict_level"] = "parameter"
    with running(MODEL, tmp_path_factory.mktemp("tools"), variables, **settings) as started:
        yield started


def traces_to(collector: Collector) -> TraceSettings:
    found = read({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url})
    assert found
    return found


CASES: list[tuple[str, bool, dict[str, Any]]] = [(path, stream, {}) for path in BODIES for stream in (False, True)]
CASES.append(("/v1/chat/completions", True, {"stream_options": {"include_usage": True}}))


@pytest.mark.parametrize(("path", "stream", "options"), CASES)
async def test_the_fake_engine_calls_a_tool_as_vllm_does(
    path: str, stream: bool, options: dict[str, Any], engine: RealEngine, tmp_path: Path
) -> None:
    body = BODIES[path] | {"stream": stream} | options
    real = await ask(engine.socket, "POST", path, body)
    fake = FakeEngine(MODEL)
    fake.agent = Script((Call("run", json.dumps(ARGUMENTS)),), "done")
    async with fake.listen(tmp_path / "fake.sock"):
        assert await ask(tmp_path / "fake.sock", "POST", path, body) == real
    assert real.status == 200
    assert "tool_use" in str(real.body) or "function" in str(real.body)


async def test_its_spans_are_children_of_the_gateways(engine: RealEngine, collector: Collector, tmp_path: Path) -> None:
    fleet = f"models: [{{model: {MODEL}, addresses: ['{engine.socket}']}}]"
    collector.bodies.clear()
    async with gateways.running(tmp_path, fleet, traces=traces_to(collector)) as gateway:
        gateway.expected_unseen = None
        await until(lambda: any(replica.ready for replica in gateway.replicas), "the answer to the probe")
        response = await gateway.post("/v1/chat/completions", {"model": MODEL, "messages": USER, "max_tokens": 4})
        assert response.status_code == 200
        await until(lambda: bool(collector.named("llm_request")), "the engine's span")
        await gateway.settle()
    await until(lambda: bool(collector.named(f"chat {MODEL}")), "the gateway's span")
    (theirs,), (ours,) = collector.named("llm_request"), collector.named(f"chat {MODEL}")
    assert (theirs.trace_id, theirs.parent) == (ours.trace_id, ours.id)
    assert theirs.resource.items() >= {"service.name": "roundhouse-engine", "service.instance.id": f"{MODEL}-0"}.items()
    assert theirs.attributes["gen_ai.usage.prompt_tokens"] == ours.attributes["gen_ai.usage.input_tokens"]
    assert "one two three" not in str(theirs.attributes)


HANG_TIMEOUT = 6.0  # seconds


async def test_it_starts_hangs_recovers_and_dies(engine: RealEngine, tmp_path: Path) -> None:
    upstream = Upstream(fleets.only(tmp_path, f"model: {MODEL}\naddresses: ['{engine.socket}']"))
    replica = Replica("chat", str(engine.socket))
    transport, settings = ConnectionPool(), Settings(hang_timeout=HANG_TIMEOUT)
    remote = RemoteEngine(replica, upstream, settings, transport, time.monotonic, lambda: None)

    async def until(condition: str, recheck: bool = False) -> str:
        """Polls every half second until the engine is in this condition; returns the reason."""
        deadline = time.monotonic() + PATIENCE
        while not replica.state or replica.state.condition != condition:
            assert time.monotonic() < deadline, replica.state
            await remote.poll(recheck)
            await asyncio.sleep(0.5)
        return replica.state.reason or ""

    assert await until("ready") == ""
    await remote.poll(recheck=False)
    assert replica.stats and replica.stats.tokens > 0
    os.kill(core := engine.core(), signal.SIGSTOP)
    assert "it hangs" in await until("failed")
    os.kill(core, signal.SIGCONT)
    await until("ready")
    assert replica.state and replica.state.restarts == 1
    os.kill(core, signal.SIGKILL)
    assert await until("failed", recheck=True)
    transport.close()
