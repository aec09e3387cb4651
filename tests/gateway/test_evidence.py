"""What a gateway tells of the requests at an engine that failed, and how it counts the evidence."""

import asyncio
import json
import os
import time
from functools import partial
from typing import Any

import pytest

from service.engine import gateway_registry, process_files, state
from service.engine.bundles import Cause
from service.engine.collect import answers_kind
from service.engine.state import EngineState, Evidence
from tests.conftest import Start
from tests.fake_engine import Fault
from tests.support.exchanges import CHAT
from tests.support.gateways import RunningGateway
from tests.support.waiting import until

CANARY = "lapwing"


def publish(gateway: RunningGateway, evidence: Evidence) -> None:
    """What the supervisor of the first engine publishes when that has failed."""
    failed = EngineState("pebble-chat-0", "pebble-chat", 0, "failed", evidence=evidence)
    state.write(gateway.run_dir, failed)


async def told(gateway: RunningGateway, id: str) -> list[dict[str, Any]]:
    """The requests that the gateway tells, once it does."""

    def answers() -> list[Any]:
        found = process_files.read(gateway.run_dir, answers_kind(0))
        return [content for pid, content in found if pid == os.getpid() and content["evidence"] == id]

    await until(lambda: bool(answers()), "the gateway's answer")
    return list(answers()[0]["requests"])


async def test_the_requests_at_a_hung_engine(start: Start) -> None:
    gateway = await start()
    gateway.engines[0].script(Fault(raw=b"", end="hang"))
    body = CHAT.body(stream=True) | {"messages": [{"role": "user", "content": CANARY}], "user": CANARY}
    request = asyncio.create_task(gateway.post(CHAT.path, body))
    await until(lambda: gateway.in_flight() > 0 and len(gateway.engines[0].requests) == 1)
    publish(gateway, Evidence("one", "hang", time.time()))
    (shape,) = await told(gateway, "one")
    assert shape["request_id"]
    assert (shape["endpoint"], shape["streamed"], shape["output_tokens"]) == (CHAT.path, True, 0)
    assert shape["prompt_tokens"] > 0
    assert shape["age_s"] >= shape["at_engine_s"] >= 0
    assert CANARY not in json.dumps(shape)
    gateway.engines[0].die("kill")
    await request


async def test_the_requests_that_failed_at_a_crashed_engine(start: Start) -> None:
    """They are there no more when its supervisor knows of the crash."""
    gateway = await start()
    gateway.engines[0].script(Fault(raw=b"", end="hang"))
    request = asyncio.create_task(gateway.post(CHAT.path, CHAT.body()))
    await until(lambda: len(gateway.engines[0].requests) == 1)
    gateway.engines[0].die("kill")
    assert (await request).status_code == 502
    publish(gateway, Evidence("two", "crash", time.time()))
    (shape,) = await told(gateway, "two")
    assert shape["failed_s_ago"] >= 0
    assert gateway.lines[0]["request_id"] == shape["request_id"]


@pytest.mark.parametrize("first", [True, False])
async def test_one_gateway_process_counts_the_evidence(first: bool, start: Start) -> None:
    """That with the lowest pid, and only what is new."""
    gateway = await start()
    for pid in (os.getpid(), os.getpid() + 1 if first else 1):
        process_files.write(gateway.run_dir, gateway_registry.KIND, pid, {"draining": False})
    causes: list[Cause] = ["hang", "crash"]
    for cause, kept in zip(causes, (True, False), strict=True):
        publish(gateway, Evidence(cause, cause, time.time(), kept))
        await until(partial(lambda cause: seen_by(gateway) == cause, cause))
    publish(gateway, Evidence("old", "hang", 5.0, True))
    await until(lambda: "old" in str(gateway.replicas[0].state))
    bundles = gateway.sample("roundhouse_evidence_bundles_total", model="pebble-chat", cause="hang")
    lost = gateway.sample("roundhouse_evidence_lost_total", model="pebble-chat", cause="crash")
    assert (bundles, lost) == ((1, 1) if first else (0, 0))


def seen_by(gateway: RunningGateway) -> str | None:
    """The evidence that the gateway has looked at last."""
    found = gateway.gateway._witness._seen.get("pebble-chat-0")
    return found.id if found else None
