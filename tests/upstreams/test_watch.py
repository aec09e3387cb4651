"""The background tasks: engines are checked, names resolved, limits adapted, and new capacity is announced."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from service.config.settings import Settings
from service.engine import state
from service.engine.state import EngineState
from service.observability import background
from service.observability.background import OnFailure
from service.transport.pool import ConnectionPool
from service.upstreams import upstreams as watching
from service.upstreams.local import LocalEngine
from service.upstreams.replica import Replica
from service.upstreams.upstreams import Upstreams
from tests.fake_engine import FakeEngine, Fault
from tests.support import fleets
from tests.support.background import unexpected
from tests.support.fault_proxy import PASS, FaultProxy, Trouble
from tests.support.waiting import until
from tests.upstreams.clock import Clock
from tests.upstreams.test_discovery import NONAME, TEMPORARY_FAILURE, NameServer

LOCAL = "models: [{model: pebble-chat, min_replicas: 2, engine: {max_num_seqs: 4}}]"
REMOTE = "models: [{model: pebble-chat, min_replicas: 0, addresses: ['engines.test:8000']}]"


class Watched:
    """Upstreams that are watched, by a clock that only the test moves."""

    def __init__(
        self, folder: Path, text: str, server: NameServer, on_failure: OnFailure = unexpected, **settings: Any
    ) -> None:
        self.folder, self.server, self.clock, self.transport = folder, server, Clock(), ConnectionPool()
        self.changes = 0
        every = Settings(run_dir=folder, **settings)
        self.upstreams = Upstreams(fleets.load(folder, text), every, self.transport, self.clock, server)
        self.task = asyncio.create_task(self.upstreams.watch(self._count, on_failure))

    def _count(self) -> None:
        self.changes += 1

    @property
    def replicas(self) -> list[Replica]:
        return self.upstreams["pebble-chat"].replicas

    def ready(self) -> list[str]:
        """The addresses that requests may be sent to."""
        return [replica.address for replica in self.upstreams["pebble-chat"].usable(self.clock())]

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        self.transport.close()
        assert self.task.cancelled()


@pytest.fixture
async def stack(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncExitStack]:
    """What a test opens, with short intervals; checks that no task outlives the test."""
    for name in ("POLL", "CHECK_INTERVAL", "MIN_RESOLVE_INTERVAL", "RESOLVE_INTERVAL"):
        monkeypatch.setattr(watching, name, 0.01)
    async with AsyncExitStack() as opened:
        yield opened
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()}, "the end of every task")


def started(stack: AsyncExitStack, folder: Path, text: str, *addresses: str, **settings: Any) -> Watched:
    watched = Watched(folder, text, NameServer(*addresses), **settings)
    stack.push_async_callback(watched.close)
    return watched


async def listening(stack: AsyncExitStack, model: str, host: str = "127.0.0.1", port: int = 0) -> FakeEngine:
    return await stack.enter_async_context(FakeEngine(model).listen(port, host))


async def test_a_local_engine_is_polled_for_its_load(stack: AsyncExitStack, tmp_path: Path) -> None:
    engine = await stack.enter_async_context(FakeEngine("pebble-chat").listen(tmp_path / "e0.sock"))
    engine.running, engine.waiting = 3, 2
    watched = started(stack, tmp_path, LOCAL)
    first = watched.replicas[0]
    state.write(tmp_path, EngineState("pebble-chat-0", "pebble-chat", 0, "ready"))
    await until(lambda: first.stats is not None)
    assert first.stats and (first.stats.running, first.stats.waiting) == (3, 2)
    assert not engine.requests, "its supervisor checks its health"
    engine.script(*[Fault(status=500)] * 10_000, path="/metrics")
    watched.clock.now += 6.0
    await until(lambda: first.stats is None, "the end of an old sample")
    state.write(tmp_path, EngineState("pebble-chat-0", "pebble-chat", 0, "stopping"))
    await until(lambda: not first.ready)
    looks = len(engine.looks)
    watched.clock.now += 1.0
    await asyncio.sleep(0.05)  # many checks of the clock: an engine that is ready would have been polled again
    assert len(engine.looks) <= looks + 1, "an engine that is not ready is not polled"


async def test_one_replica_whose_check_fails_stops_no_other(
    stack: AsyncExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = await stack.enter_async_context(FakeEngine("pebble-chat").listen(tmp_path / "e1.sock"))
    poll, failures = LocalEngine.poll, list[str]()

    async def odd(self: LocalEngine, recheck: bool) -> None:
        if self._order == 0:
            raise ArithmeticError("an odd answer")
        await poll(self, recheck)

    monkeypatch.setattr(LocalEngine, "poll", odd)
    monkeypatch.setattr(background, "BACKOFF", (0.01,))
    watched = started(stack, tmp_path, LOCAL, on_failure=lambda task, error: failures.append(f"{task}: {error}"))
    for order in range(2):
        state.write(tmp_path, EngineState(f"pebble-chat-{order}", "pebble-chat", order, "ready"))
    await until(lambda: len(failures) >= 3, "three failures")
    engine.running = 3
    watched.clock.now += 1.0
    await until(lambda: watched.replicas[1].stats is not None and watched.replicas[1].stats.running == 3)
    assert set(failures) == {"replica: an odd answer"}
    state.write(tmp_path, EngineState("pebble-chat-1", "pebble-chat", 1, "failed"))
    await until(lambda: not watched.replicas[1].ready)
    caplog.clear()


async def test_an_engine_whose_supervisor_is_gone_is_not_ready(stack: AsyncExitStack, tmp_path: Path) -> None:
    watched = started(stack, tmp_path, LOCAL)
    first = watched.replicas[0]
    supervisor = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: supervisor.pid)
        state.write(tmp_path, EngineState("pebble-chat-0", "pebble-chat", 0, "ready"))
    await until(lambda: first.ready)
    supervisor.kill()
    await supervisor.wait()
    await until(lambda: not first.ready, "the end of its supervisor to be noticed, though no file changes")
    assert first.state
    assert first.state.condition == "failed"


async def test_the_limit_follows_the_load(stack: AsyncExitStack, tmp_path: Path) -> None:
    engine = await stack.enter_async_context(FakeEngine("pebble-chat").listen(tmp_path / "e0.sock"))
    state.write(tmp_path, EngineState("pebble-chat-0", "pebble-chat", 0, "ready"))
    watched = started(stack, tmp_path, LOCAL, workers=2)
    first = watched.replicas[0]
    assert first.limit == 2, "two gateways share the four sequences"
    first.in_flight = engine.running = 2
    await until(lambda: first.stats is not None)
    changes = watched.changes
    watched.clock.now += 1.0
    await until(lambda: first.limit == 4)
    await until(lambda: watched.changes > changes, "the callback for more capacity")
    engine.running, engine.waiting, first.in_flight, first.limit = 4, 40, 44, 44
    watched.clock.now += 1.0
    await until(lambda: first.limit == 33)


async def test_the_limit_drops_when_a_queue_is_still_there_at_the_next_sample(
    stack: AsyncExitStack, tmp_path: Path
) -> None:
    engine = await stack.enter_async_context(FakeEngine("pebble-chat").listen(tmp_path / "e0.sock"))
    state.write(tmp_path, EngineState("pebble-chat-0", "pebble-chat", 0, "ready"))
    watched = started(stack, tmp_path, LOCAL)
    first = watched.replicas[0]
    engine.running, engine.waiting, first.in_flight, first.limit = 1, 40, 41, 41
    await until(lambda: first.stats is not None)
    watched.clock.now += 1.0
    await until(lambda: first.stats is not None and first.stats.at == watched.clock.now)
    assert first.limit == 41, "nothing is known of the time before"
    watched.clock.now += 1.0
    await until(lambda: first.limit == 30)


async def test_the_end_of_an_ejection_is_announced(stack: AsyncExitStack, tmp_path: Path) -> None:
    await stack.enter_async_context(FakeEngine("pebble-chat").listen(tmp_path / "e0.sock"))
    state.write(tmp_path, EngineState("pebble-chat-0", "pebble-chat", 0, "ready"))
    watched = started(stack, tmp_path, LOCAL)
    first = watched.replicas[0]
    await until(lambda: first.ready)
    watched.upstreams.record_failure(first, refused=True)
    changes = watched.changes
    assert watched.ready() == []
    watched.clock.now += 1.0
    await until(lambda: watched.changes > changes)
    assert watched.upstreams["pebble-chat"].capacity(watched.clock()) == 1
    watched.upstreams.record_request(first)
    assert watched.upstreams["pebble-chat"].capacity(watched.clock()) == 0
    watched.upstreams.record_success(first)
    assert watched.upstreams["pebble-chat"].capacity(watched.clock()) == 4


async def test_a_name_that_gets_its_first_address(stack: AsyncExitStack, tmp_path: Path) -> None:
    watched = started(stack, tmp_path, REMOTE)
    watched.server.answer = NONAME
    upstream = watched.upstreams["pebble-chat"]
    await until(lambda: upstream.discovery_error is not None)
    assert upstream.condition() == ("scaled_to_zero", "one of its addresses: the name has no address")
    engine = await listening(stack, "pebble-chat")
    watched.server.answer = ["127.0.0.1"]
    upstream.served = fleets.only(
        tmp_path, f"model: pebble-chat\nmin_replicas: 0\naddresses: ['engines.test:{engine.port}']"
    )
    await until(lambda: upstream.condition() == ("ready", None))
    replica = watched.replicas[0]
    assert re.fullmatch(r"pebble-chat-[0-9a-f]{8}", replica.id)
    assert replica.log_name == f"{replica.id}@127.0.0.1:{engine.port}"
    assert ("pebble-chat", "ready", 1) in watched.upstreams.counts()


async def test_a_name_that_moves_to_other_addresses(stack: AsyncExitStack, tmp_path: Path) -> None:
    """A failed lookup in between changes nothing."""
    one = await listening(stack, "pebble-chat")
    other = await listening(stack, "pebble-chat", "127.0.0.2", one.port)
    text = REMOTE.replace("8000", str(one.port))
    watched = started(stack, tmp_path, text, "127.0.0.1", "127.0.0.2")
    old, new = f"127.0.0.1:{one.port}", f"127.0.0.2:{other.port}"
    await until(lambda: watched.ready() == [old, new])
    kept = watched.replicas[1]
    kept.in_flight = 1
    watched.server.answer = TEMPORARY_FAILURE
    lookups = len(watched.server.asked)
    await until(lambda: len(watched.server.asked) > lookups + 2)
    assert watched.ready() == [old, new]
    watched.server.answer = ["127.0.0.2"]
    await until(lambda: watched.ready() == [new])
    assert watched.replicas == [kept], "a replica that stays is the same object"
    looks = len(one.looks)
    await until(lambda: len(other.looks) > 5 + len(one.looks))
    assert len(one.looks) <= looks + 1, "a removed replica is no longer polled"


async def test_a_failed_request_triggers_a_name_lookup(
    stack: AsyncExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "RESOLVE_INTERVAL", 3600.0)
    one = await listening(stack, "pebble-chat")
    other = await listening(stack, "pebble-chat", "127.0.0.2", one.port)
    watched = started(stack, tmp_path, REMOTE.replace("8000", str(one.port)), "127.0.0.1")
    await until(lambda: len(watched.ready()) == 1)
    watched.server.answer = ["127.0.0.2"]
    watched.upstreams.record_failure(watched.replicas[0], refused=True)
    assert watched.ready() == []
    await until(lambda: watched.ready() == [f"127.0.0.2:{other.port}"])


async def test_swapped_addresses_get_no_requests(stack: AsyncExitStack, tmp_path: Path) -> None:
    """Two models, each at the other's address after a restart: neither gets a request meant for the other."""
    chat, base = await listening(stack, "pebble-chat"), await listening(stack, "pebble-base")
    proxies = [await stack.enter_async_context(FaultProxy(f"127.0.0.1:{one.port}").listen(0)) for one in (chat, base)]
    text = (
        f"models: [{{model: pebble-chat, addresses: ['{proxies[0].address}']}}, "
        f"{{model: pebble-base, addresses: ['{proxies[1].address}']}}]"
    )
    watched = started(stack, tmp_path, text)
    await until(lambda: all(one.condition()[0] == "ready" for one in watched.upstreams))
    seen = [len(chat.requests), len(base.requests)]
    proxies[0].engine, proxies[1].engine = proxies[1].engine, proxies[0].engine
    for proxy in proxies:
        proxy.be(Trouble(reset=True))
        proxy.be(PASS)
    for upstream in watched.upstreams:
        watched.upstreams.record_failure(upstream.replicas[0])
    await until(lambda: all(one.condition()[0] == "failed" for one in watched.upstreams))
    assert [one.capacity(watched.clock()) for one in watched.upstreams] == [0, 0]
    assert [len(chat.requests), len(base.requests)] == seen
    assert "serves 'pebble-base' and not 'pebble-chat'" in str(watched.upstreams["pebble-chat"].condition()[1])


async def test_a_silent_engine_does_not_delay_the_checks_of_others(stack: AsyncExitStack, tmp_path: Path) -> None:
    """It costs one connection of its own."""
    engine = await listening(stack, "pebble-chat")
    proxy = await stack.enter_async_context(FaultProxy(f"127.0.0.1:{engine.port}").listen(0))
    proxy.be(Trouble(mute=True))
    text = f"models: [{{model: pebble-chat, addresses: ['{proxy.address}', '127.0.0.1:{engine.port}']}}]"
    watched = started(stack, tmp_path, text)
    await until(lambda: watched.ready() == [f"127.0.0.1:{engine.port}"])
    looks = len(engine.looks)
    await until(lambda: len(engine.looks) > looks + 10)
    assert proxy.accepted == 1


async def test_a_new_fleet_adds_and_removes_addresses(stack: AsyncExitStack, tmp_path: Path) -> None:
    one, other = await listening(stack, "pebble-chat"), await listening(stack, "pebble-chat")
    at = [f"127.0.0.1:{engine.port}" for engine in (one, other)]
    watched = started(stack, tmp_path, f"models: [{{model: pebble-chat, addresses: ['{at[0]}']}}]")
    await until(lambda: watched.ready() == [at[0]])
    kept, upstream = watched.replicas[0], watched.upstreams["pebble-chat"]
    kept.in_flight = 3
    text = f"models: [{{model: pebble-chat, max_in_flight: 7, addresses: {at}}}]"
    watched.upstreams.apply(fleets.load(tmp_path, text))
    await until(lambda: watched.ready() == at)
    assert watched.upstreams["pebble-chat"] is upstream
    assert watched.replicas[0] is kept
    assert (kept.in_flight, [replica.limit for replica in watched.replicas]) == (3, [7, 7])
    watched.upstreams.apply(fleets.load(tmp_path, f"models: [{{model: pebble-chat, addresses: ['{at[1]}']}}]"))
    await until(lambda: watched.ready() == [at[1]])
