"""What a gateway wants of engines that share memory, and what clients hear while one of them waits for its turn."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from service.engine import share_demand, state
from service.engine.share_demand import Want, Wanted
from service.engine.state import EngineState
from service.gateway.share_wants import HOLD_TIME, ShareWants
from service.relay import entrance
from tests.conftest import Start
from tests.support.exchanges import CHAT
from tests.support.fleets import load
from tests.support.gateways import RunningGateway
from tests.support.waiting import until

FLEET = """
shares: {ram: {memory: 3GiB}}
models:
  - {model: pebble-base}
  - {model: pebble-chat, share: ram, memory: 2GiB, max_in_flight: 1, max_queued: 2, timeouts: {queue: 0.01}}
  - {model: pebble-code, share: ram, memory: 2GiB}
"""
HEARTBEAT = "x-roundhouse-sse-heartbeat-interval: 0.1"


def test_a_model_waits_from_its_first_request_until_it_is_ready(tmp_path: Path) -> None:
    wants = ShareWants(load(tmp_path, FLEET))

    def at(now: float, queued: int = 0, running: int = 0, ready: bool = False) -> Want | None:
        found = wants.update(
            lambda model: queued if model == "pebble-chat" else 0,
            lambda model: running if model == "pebble-chat" else 0,
            lambda _: ready, now,
        )  # fmt: skip
        assert not {*found} - {1}  # only those that share, and that were asked for
        return found.get(1)

    assert at(1.0) is None
    assert at(2.3, queued=1) == Want(1, 0, 2.3, 2.0)
    assert at(4.0, queued=2) == Want(2, 0, 2.3, 4.0)
    assert at(5.0) == Want(0, 0, 2.3, 4.0)  # refused, and told to come again
    assert at(4.0 + HOLD_TIME) == Want(0, 0, 2.3, 4.0)
    assert at(4.1 + HOLD_TIME) == Want(0, 0, 0.0, 4.0)
    assert at(100.0, queued=1) == Want(1, 0, 100.0, 100.0)
    assert at(101.0, running=1, ready=True) == Want(0, 1, 0.0, 101.0)
    assert at(102.0, queued=1, running=1, ready=True) == Want(1, 1, 102.0, 102.0)


def test_without_shares_nothing_is_wanted(tmp_path: Path) -> None:
    assert not ShareWants(load(tmp_path, "models: [{model: pebble-chat}]"))


def waits(gateway: RunningGateway, seconds: float) -> None:
    """Lets the engine of pebble-chat say that it waits for room, for about so many seconds."""
    gateway.show(1, "scaled_to_zero", "waiting for room in the memory that it shares")
    found = state.read(gateway.run_dir, 1)
    assert found
    state.write(gateway.run_dir, replace(found, ready_at=time.monotonic() + seconds))
    gateway.gateway.upstreams.refresh()


async def test_a_stream_is_told_what_it_waits_for_and_how_long(start: Start) -> None:
    gateway = await start(FLEET)
    waits(gateway, 42.4)
    line = await gateway.connect()
    await line.post(CHAT.path, json.dumps(CHAT.body(stream=True)).encode(), "connection: close", HEARTBEAT)
    await line.read_until(b": waiting for pebble-chat: scaled to zero, waiting for room in the memory that it shares, ")
    told = await line.read_until(b" s\n\n")  # longer than its timeout in the queue
    assert told.startswith(b"about ")
    assert 12 < int(told[6:-4]) <= 42

    def wanted() -> bool:
        return share_demand.read(gateway.run_dir, time.monotonic()).get(1, Wanted()).queued == 1

    await until(wanted, "the gateway to say that it is wanted")
    gateway.show(1, "ready")
    assert b"[DONE]" in await line.rest()


async def test_a_stream_outlasts_the_failure_of_the_engine_that_it_waits_for(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is started again at once, as is its supervisor; where that does not help, those that wait are told."""
    gateway = await start(FLEET)
    body = json.dumps(CHAT.body(stream=True)).encode()
    waits(gateway, 42.4)
    line = await gateway.connect()
    await line.post(CHAT.path, body, "connection: close", HEARTBEAT)
    await until(lambda: gateway.queued() == 1)
    gateway.show(1, "failed", reason="its supervisor is gone, and is being restarted")
    await line.read_until(b": waiting for pebble-chat: failed")
    gateway.show(1, "ready")
    assert b"[DONE]" in await line.rest()
    monkeypatch.setattr(entrance, "OUTLASTS", 0.0)
    waits(gateway, 42.4)
    line = await gateway.connect()
    await line.post(CHAT.path, body, "connection: close", HEARTBEAT)
    await until(lambda: gateway.queued() == 1)
    gateway.show(1, "failed", reason="no such file")
    assert b"'pebble-chat' is not ready: failed" in await line.rest()


async def test_a_refusal_says_when_to_come_again(start: Start) -> None:
    gateway = await start(FLEET)
    waits(gateway, 42.4)
    lines = [await gateway.connect() for _ in range(2)]
    for line in lines:
        await line.post(CHAT.path, json.dumps(CHAT.body()).encode(), "connection: close")
    await until(lambda: gateway.queued() == 2)
    response = await gateway.post(CHAT.path, CHAT.body())
    assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
    seconds = response.headers["retry-after"]
    assert 12 < int(seconds) <= 43
    assert f"Try again in {seconds} s." in response.json()["error"]["message"]
    gateway.show(1, "ready")
    assert [(await line.answer()).status for line in lines] == [200, 200]


async def test_what_was_admitted_reaches_an_engine_that_makes_room(start: Start) -> None:
    """Its state may change between the admission and the request's way there: here while its guard judges it."""
    gateway = await start(
        FLEET + "  - {model: llama-guard-3-8b, id: judge}\nguardrails: {safe: {model: judge}}\n"
        "default_guardrails: {input: [safe]}\n"
    )
    judging = gateway.engines[3]
    judging.hold(after=0)
    line = await gateway.connect()
    await line.post(CHAT.path, json.dumps(CHAT.body()).encode(), "connection: close")
    await until(lambda: bool(judging.requests))
    found = EngineState("pebble-chat-0", "pebble-chat", 1, "stopping", "making room", drains=True)
    state.write(gateway.run_dir, found)
    gateway.gateway.upstreams.refresh()
    late = await gateway.connect()
    await late.post(CHAT.path, json.dumps(CHAT.body()).encode(), "connection: close")
    await until(lambda: gateway.queued() == 1)
    judging.go_on()
    assert (await line.answer()).status == 200
    assert len(gateway.engines[1].requests) == 1  # the second waits
    gateway.show(1, "ready")
    assert (await late.answer()).status == 200
