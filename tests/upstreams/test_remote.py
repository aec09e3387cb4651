"""External engines: identity, readiness and liveness, on the test's clock and through a faulty network."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from service.config.settings import Settings
from service.engine import watchdog
from service.engine.probe import TEXT
from service.transport.pool import ConnectionPool, Deadlines
from service.upstreams import remote
from service.upstreams.remote import IDENTITY_INTERVAL, NOT_OUR_KEY, SILENCE_TIMEOUT, RemoteEngine
from service.upstreams.replica import Replica
from service.upstreams.upstream import Upstream
from tests.fake_engine import FakeEngine, Fault
from tests.support import fleets
from tests.support.fault_proxy import PASS, FaultProxy, Trouble
from tests.support.waiting import PATIENCE, until
from tests.upstreams.clock import Clock

SILENT = 0.2  # seconds that a poll waits where nothing is to come
KEY = "ek_0123456789abcdef"
NO_RESPONSE = Fault(raw=b"", end="hang")


class Watched:
    """A remote replica and its health checks, on a clock that only the test moves."""

    def __init__(
        self, folder: Path, address: str, entry: str = "model: pebble-chat", hang: float = 1000.0, key: str = ""
    ) -> None:  # fmt: skip
        self.clock, self.transport = Clock(), ConnectionPool(key)
        self.upstream = Upstream(fleets.only(folder, f"{entry}\naddresses: ['{address}']"))
        self.replica = Replica(f"{self.upstream.served.id}@{address}", address)
        self.changes = 0
        settings = Settings(hang_timeout=hang, start_timeout=100.0)
        self.remote = RemoteEngine(self.replica, self.upstream, settings, self.transport, self.clock, self._count)

    def _count(self) -> None:
        self.changes += 1

    async def poll(self, after: float = 1.0, recheck: bool = False, limit: float = PATIENCE) -> tuple[str, str | None]:
        """One poll, `after` seconds later, which waits `limit` seconds for an answer; returns condition and reason."""
        self.clock.now += after
        deadlines = Deadlines(PATIENCE, limit, limit, limit)
        with (
            mock.patch.object(remote, "HEALTH_CHECK", deadlines),
            mock.patch.object(remote, "FIRST_TOKEN", deadlines),
            mock.patch.object(watchdog, "SCRAPE", deadlines),
        ):
            await self.remote.poll(recheck)
        assert self.replica.state
        return self.replica.state.condition, self.replica.state.reason or self.replica.state.phase or None


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """What a test opens; checks that no task outlives the test."""
    async with AsyncExitStack() as opened:
        yield opened
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()}, "the end of every task")


async def started(stack: AsyncExitStack, folder: Path, engine: FakeEngine, **more: Any) -> tuple[Watched, FaultProxy]:
    """Health checks of the engine, through a proxy on a TCP port."""
    await stack.enter_async_context(engine.listen(folder / "e.sock"))
    proxy = await stack.enter_async_context(FaultProxy(str(folder / "e.sock")).listen(0))
    watched = Watched(folder, proxy.address, **more)
    stack.callback(watched.transport.close)
    return watched, proxy


async def test_it_is_ready_after_a_successful_probe(stack: AsyncExitStack, tmp_path: Path) -> None:
    engine = FakeEngine("pebble-chat")
    watched, _ = await started(stack, tmp_path, engine)
    assert await watched.poll() == ("ready", None)
    assert [seen.path for seen in engine.requests] == ["/v1/completions"]
    assert await watched.poll() == ("ready", None)
    assert watched.replica.stats and watched.replica.stats.tokens == len(TEXT.split()) + 2
    assert watched.changes == 2, "it was starting, then ready"


async def test_an_engine_that_asks_for_a_key_gets_ours(stack: AsyncExitStack, tmp_path: Path) -> None:
    engine = FakeEngine("pebble-chat", key=KEY)
    watched, _ = await started(stack, tmp_path, engine, key=KEY)
    assert await watched.poll() == ("ready", None)
    engine.key = "another-0123456789"
    assert await watched.poll() == ("ready", None), "its metrics need no key"
    condition, reason = await watched.poll(recheck=True)
    assert (condition, reason) == ("failed", NOT_OUR_KEY)
    assert "ROUNDHOUSE_ENGINE_KEY" in NOT_OUR_KEY
    assert (await watched.poll())[0] == "failed"
    engine.key = KEY
    assert await watched.poll() == ("ready", None)


async def test_an_encoder_is_probed_with_an_embedding(stack: AsyncExitStack, tmp_path: Path) -> None:
    engine = FakeEngine("minilm", "embedding")
    entry = "model: sentence-transformers/all-MiniLM-L6-v2\nid: minilm\nvariant: embedding"
    watched, _ = await started(stack, tmp_path, engine, entry=entry)
    assert await watched.poll() == ("ready", None)
    assert [seen.path for seen in engine.requests] == ["/v1/embeddings"]


async def test_a_slow_start(stack: AsyncExitStack, tmp_path: Path) -> None:
    engine = FakeEngine("pebble-chat")
    watched, proxy = await started(stack, tmp_path, engine)
    proxy.be(Trouble(refuse=True))
    condition, reason = await watched.poll()
    assert condition == "waiting" and reason and "no connection" in reason
    proxy.be(PASS)
    engine.script(Fault(status=503), path="/v1/models")
    condition, reason = await watched.poll()
    assert condition == "starting" and reason and "503" in reason
    assert not engine.requests, "no request before the engine has named its model"
    engine.always = NO_RESPONSE
    condition, reason = await watched.poll(limit=SILENT)
    assert condition == "starting" and reason and "no byte" in reason
    engine.always = Fault()
    assert await watched.poll() == ("ready", None)


async def test_a_start_beyond_the_start_timeout_fails_and_may_still_succeed(
    stack: AsyncExitStack, tmp_path: Path
) -> None:
    engine = FakeEngine("pebble-chat")
    engine.always = Fault(status=500)
    watched, _ = await started(stack, tmp_path, engine)
    assert (await watched.poll())[0] == "starting"
    condition, reason = await watched.poll(after=100.0)
    assert condition == "failed" and reason and "500" in reason
    engine.always = Fault()
    assert await watched.poll() == ("ready", None)


async def test_a_draining_engine_does_not_become_ready(stack: AsyncExitStack, tmp_path: Path) -> None:
    """It answers with status 200 and finish_reason `abort`."""
    engine = FakeEngine("pebble-chat")
    engine.always = Fault(finish="abort")
    watched, _ = await started(stack, tmp_path, engine)
    condition, reason = await watched.poll()
    assert condition == "starting" and reason and "shutting down" in reason


async def test_an_engine_of_another_model_gets_no_request(stack: AsyncExitStack, tmp_path: Path) -> None:
    engine = FakeEngine("pebble-base")
    watched, _ = await started(stack, tmp_path, engine)
    assert await watched.poll() == ("failed", "the engine at its address serves 'pebble-base' and not 'pebble-chat'")
    assert not engine.requests


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"data": 1}', b'{"data": [1]}', b"<html>", b"[" * 100_000])
async def test_an_address_that_serves_no_models(body: bytes, stack: AsyncExitStack, tmp_path: Path) -> None:
    engine = FakeEngine("pebble-chat")
    engine.script(Fault(status=200, body=body), path="/v1/models")
    watched, _ = await started(stack, tmp_path, engine)
    condition, reason = await watched.poll()
    assert condition == "starting" and reason and "not a list of models" in reason


@pytest.mark.parametrize(
    ("after", "recheck"), [(1.0, True), (IDENTITY_INTERVAL + 0.1, False)], ids=["recheck", "interval"]
)
async def test_swapped_addresses_are_detected(
    after: float, recheck: bool, stack: AsyncExitStack, tmp_path: Path
) -> None:
    """At once where a request failed, else with the next regular identity check."""
    chat, base = FakeEngine("pebble-chat"), FakeEngine("pebble-base")
    watched, proxy = await started(stack, tmp_path, chat)
    await stack.enter_async_context(base.listen(tmp_path / "other.sock"))
    assert await watched.poll() == ("ready", None)
    proxy.engine = str(tmp_path / "other.sock")
    proxy.be(Trouble(reset=True))
    proxy.be(PASS)
    await watched.poll(after, recheck)  # may still see the end of the old connection
    condition, reason = await watched.poll()
    assert condition == "failed" and reason and "'pebble-base' and not 'pebble-chat'" in reason
    assert watched.replica.capacity(watched.clock()) == 0
    proxy.engine = str(tmp_path / "e.sock")
    proxy.be(Trouble(reset=True))
    proxy.be(PASS)
    await watched.poll()
    assert await watched.poll() == ("ready", None)


async def test_a_dead_engine_fails_and_recovers(stack: AsyncExitStack, tmp_path: Path) -> None:
    watched, proxy = await started(stack, tmp_path, FakeEngine("pebble-chat"))
    await watched.poll()
    watched.replica.breaker.record_failure(watched.clock(), refused=True)
    proxy.be(Trouble(reset=True))
    assert await watched.poll() == ("ready", None), "one failed poll is not enough"
    condition, reason = await watched.poll(SILENCE_TIMEOUT + 0.1)
    assert condition == "failed" and reason and "no longer answers" in reason
    assert watched.replica.stats is None
    assert (await watched.poll())[0] == "failed"
    proxy.be(PASS)
    assert await watched.poll() == ("ready", None)
    assert watched.replica.state and watched.replica.state.restarts == 1
    assert watched.replica.breaker.closed, "a new incarnation starts with a closed breaker"


async def test_a_refused_connection_fails_it_at_once(stack: AsyncExitStack, tmp_path: Path) -> None:
    watched, proxy = await started(stack, tmp_path, FakeEngine("pebble-chat"))
    await watched.poll()
    proxy.be(Trouble(refuse=True, reset=True))
    await watched.poll(0.0, recheck=True)  # may still see the end of the old connection
    condition, reason = await watched.poll(0.0)
    assert condition == "failed" and reason and "no longer accepts connections" in reason


@pytest.mark.parametrize("trouble", [Trouble(hold="both"), Trouble(hold="answers")], ids=str)
async def test_connections_that_go_silent_fail_it(trouble: Trouble, stack: AsyncExitStack, tmp_path: Path) -> None:
    """Established connections that no longer carry anything and are never closed."""
    watched, proxy = await started(stack, tmp_path, FakeEngine("pebble-chat"))
    await watched.poll()
    proxy.be(trouble)
    assert (await watched.poll(limit=SILENT))[0] == "ready"
    assert (await watched.poll(SILENCE_TIMEOUT + 0.1, limit=SILENT))[0] == "failed"
    proxy.be(PASS)
    assert await watched.poll() == ("ready", None)


async def test_an_engine_that_accepts_and_never_reads(stack: AsyncExitStack, tmp_path: Path) -> None:
    watched, proxy = await started(stack, tmp_path, FakeEngine("pebble-chat"))
    proxy.be(Trouble(mute=True))
    condition, reason = await watched.poll(limit=SILENT)
    assert condition == "waiting" and reason and "no byte" in reason
    proxy.be(PASS)
    assert await watched.poll() == ("ready", None)


async def test_a_hung_engine_gets_no_requests_until_a_probe_succeeds(stack: AsyncExitStack, tmp_path: Path) -> None:
    """Its API server still answers everything that needs no token."""
    engine = FakeEngine("pebble-chat")
    watched, _ = await started(stack, tmp_path, engine, hang=1.0)
    await watched.poll(0.4)
    await watched.poll(0.4)
    engine.always = NO_RESPONSE
    assert await watched.poll(0.1) == ("ready", None), "an idle engine makes no progress either"
    condition, reason = await watched.poll(1.0)
    assert condition == "failed" and reason and "hangs" in reason
    assert (await watched.poll(limit=SILENT))[0] == "failed"
    engine.always = Fault()
    assert await watched.poll() == ("ready", None)


async def test_over_ipv6(stack: AsyncExitStack, tmp_path: Path) -> None:
    engine = await stack.enter_async_context(FakeEngine("pebble-chat").listen(0, "::1"))
    watched = Watched(tmp_path, f"[::1]:{engine.port}")
    stack.callback(watched.transport.close)
    assert await watched.poll() == ("ready", None)


async def test_the_adapters_of_an_engine_elsewhere_are_those_that_it_lists(
    stack: AsyncExitStack, tmp_path: Path
) -> None:
    engine = FakeEngine("pebble-chat")
    engine.adapters = {"tone": "/there/tone"}
    entry = "model: pebble-chat\nadapters: [{id: tone}, {id: desk}]"
    watched, _ = await started(stack, tmp_path, engine, entry=entry)
    assert await watched.poll() == ("ready", None)
    watched.upstream.replicas = [watched.replica]
    assert watched.upstream.candidates(watched.clock(), None, "tone") == [watched.replica]
    assert watched.upstream.candidates(watched.clock(), None, "desk") == []
    assert watched.upstream.adapter_condition("desk") == ("starting", "no engine of its base lists it")
    engine.adapters = {"desk": "/there/desk"}
    await watched.poll(after=IDENTITY_INTERVAL + 1)
    assert watched.upstream.adapter_condition("desk") == ("ready", None)
    assert watched.upstream.adapter_condition("tone")[0] == "starting"
