"""An engine that others started: nothing is sent there before it has shown what it is and that it works."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from service.config.settings import Settings
from service.engine import watchdog
from service.transport.pool import ConnectionPool, Deadlines
from service.upstreams import remote
from service.upstreams.remote import IDENTITY, SILENCE, RemoteEngine
from service.upstreams.replica import Replica
from service.upstreams.upstream import Upstream
from tests.fake_engine import FakeEngine, Fault
from tests.support import fleets
from tests.support.fault_proxy import PASS, FaultProxy, Trouble
from tests.support.waiting import until
from tests.upstreams.clock import Clock

SOON = Deadlines(connect=0.2, first_byte=0.2, idle=0.2, total=0.2)
DEAF = Fault(raw=b"", end="hang")


class Watched:
    """A remote replica and whoever watches it. Only the clock of the test decides when what is due."""

    def __init__(self, folder: Path, address: str, entry: str = "model: pebble-chat", hang: float = 1000.0) -> None:
        self.clock, self.transport = Clock(), ConnectionPool()
        self.upstream = Upstream(fleets.only(folder, f"{entry}\naddresses: ['{address}']"))
        self.replica = Replica(f"{self.upstream.served.id}@{address}", address)
        self.changes = 0
        settings = Settings(hang_timeout=hang, start_timeout=100.0)
        self.remote = RemoteEngine(self.replica, self.upstream, settings, self.transport, self.clock, self._count)

    def _count(self) -> None:
        self.changes += 1

    async def look(self, after: float = 1.0, doubted: bool = False) -> tuple[str, str | None]:
        """One look so much later: condition and reason."""
        self.clock.now += after
        await self.remote.poll(doubted)
        assert self.replica.state
        return self.replica.state.condition, self.replica.state.reason or self.replica.state.phase or None


@pytest.fixture
async def stack(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncExitStack]:
    """What a test opens. Nobody waits long for an answer here; and no task outlives the test."""
    monkeypatch.setattr(remote, "KNOCK", SOON)
    monkeypatch.setattr(remote, "FIRST_TOKEN", SOON)
    monkeypatch.setattr(watchdog, "SCRAPE", SOON)
    async with AsyncExitStack() as opened:
        yield opened
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()}, "the end of every task")


async def started(stack: AsyncExitStack, folder: Path, engine: FakeEngine, **more: Any) -> tuple[Watched, FaultProxy]:
    """Someone who watches the engine, through a proxy on a TCP port."""
    await stack.enter_async_context(engine.listen(folder / "e.sock"))
    proxy = await stack.enter_async_context(FaultProxy(str(folder / "e.sock")).listen(0))
    watched = Watched(folder, proxy.address, **more)
    stack.callback(watched.transport.close)
    return watched, proxy


async def test_it_is_ready_when_it_has_made_a_token(stack: AsyncExitStack, tmp_path: Path) -> None:
    engine = FakeEngine("pebble-chat")
    watched, _ = await started(stack, tmp_path, engine)
    assert await watched.look() == ("ready", None)
    assert [seen.path for seen in engine.requests] == ["/v1/completions"]
    assert await watched.look() == ("ready", None)
    assert watched.replica.stats and watched.replica.stats.tokens == 3
    assert watched.changes == 2, "it started and was ready; nothing changed since"


async def test_an_encoder_shows_it_with_an_embedding(stack: AsyncExitStack, tmp_path: Path) -> None:
    engine = FakeEngine("minilm", "embedding")
    entry = "model: sentence-transformers/all-MiniLM-L6-v2\nid: minilm\nvariant: embedding"
    watched, _ = await started(stack, tmp_path, engine, entry=entry)
    assert await watched.look() == ("ready", None)
    assert [seen.path for seen in engine.requests] == ["/v1/embeddings"]


async def test_a_slow_start(stack: AsyncExitStack, tmp_path: Path) -> None:
    engine = FakeEngine("pebble-chat")
    watched, proxy = await started(stack, tmp_path, engine)
    proxy.be(Trouble(refuse=True))
    condition, reason = await watched.look()
    assert condition == "waiting" and reason and "no connection" in reason
    proxy.be(PASS)
    engine.script(Fault(status=503), path="/v1/models")
    condition, reason = await watched.look()
    assert condition == "starting" and reason and "503" in reason
    assert not engine.requests, "who has not said which model it is gets no request"
    engine.always = DEAF
    condition, reason = await watched.look()
    assert condition == "starting" and reason and "no byte" in reason
    engine.always = Fault()
    assert await watched.look() == ("ready", None)


async def test_a_start_that_takes_too_long_has_failed_and_may_still_succeed(
    stack: AsyncExitStack, tmp_path: Path
) -> None:
    engine = FakeEngine("pebble-chat")
    engine.always = Fault(status=500)
    watched, _ = await started(stack, tmp_path, engine)
    assert (await watched.look())[0] == "starting"
    condition, reason = await watched.look(after=100.0)
    assert condition == "failed" and reason and "500" in reason
    engine.always = Fault()
    assert await watched.look() == ("ready", None)


async def test_an_engine_that_ends_is_not_ready(stack: AsyncExitStack, tmp_path: Path) -> None:
    """One that drains answers 200 without a token."""
    engine = FakeEngine("pebble-chat")
    engine.always = Fault(finish="abort")
    watched, _ = await started(stack, tmp_path, engine)
    condition, reason = await watched.look()
    assert condition == "starting" and reason and "ending" in reason


async def test_another_model_gets_nothing(stack: AsyncExitStack, tmp_path: Path) -> None:
    engine = FakeEngine("pebble-base")
    watched, proxy = await started(stack, tmp_path, engine)
    assert await watched.look() == ("failed", f"{proxy.address} serves 'pebble-base' and not 'pebble-chat'")
    assert not engine.requests


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"data": 1}', b'{"data": [1]}', b"<html>", b"[" * 100_000])
async def test_an_address_that_serves_something_else(body: bytes, stack: AsyncExitStack, tmp_path: Path) -> None:
    engine = FakeEngine("pebble-chat")
    engine.script(Fault(status=200, body=body), path="/v1/models")
    watched, _ = await started(stack, tmp_path, engine)
    condition, reason = await watched.look()
    assert condition == "starting" and reason and "not a list of models" in reason


@pytest.mark.parametrize(("after", "doubted"), [(1.0, True), (IDENTITY + 0.1, False)], ids=["in doubt", "in time"])
async def test_swapped_addresses_are_found_out(
    after: float, doubted: bool, stack: AsyncExitStack, tmp_path: Path
) -> None:
    """Two engines changed places: at once where a request failed, and at the latest after half a minute."""
    chat, base = FakeEngine("pebble-chat"), FakeEngine("pebble-base")
    watched, proxy = await started(stack, tmp_path, chat)
    await stack.enter_async_context(base.listen(tmp_path / "other.sock"))
    assert await watched.look() == ("ready", None)
    proxy.engine = str(tmp_path / "other.sock")
    proxy.be(Trouble(reset=True))
    proxy.be(PASS)
    await watched.look(after, doubted)  # may still hear of the end of the old connection
    condition, reason = await watched.look()
    assert condition == "failed" and reason and "'pebble-base' and not 'pebble-chat'" in reason
    assert watched.replica.capacity(watched.clock()) == 0
    proxy.engine = str(tmp_path / "e.sock")
    proxy.be(Trouble(reset=True))
    proxy.be(PASS)
    await watched.look()
    assert await watched.look() == ("ready", None)


async def test_an_engine_that_dies_is_noticed_and_comes_back(stack: AsyncExitStack, tmp_path: Path) -> None:
    watched, proxy = await started(stack, tmp_path, FakeEngine("pebble-chat"))
    await watched.look()
    watched.replica.breaker.failed(watched.clock(), refused=True)
    proxy.be(Trouble(reset=True))
    assert await watched.look() == ("ready", None), "one look in vain says little"
    condition, reason = await watched.look(SILENCE + 0.1)
    assert condition == "failed" and reason and "no longer answers" in reason
    assert watched.replica.stats is None
    assert (await watched.look())[0] == "failed"
    proxy.be(PASS)
    assert await watched.look() == ("ready", None)
    assert watched.replica.state and watched.replica.state.restarts == 1
    assert watched.replica.breaker.closed, "a new life is forgiven the old one"


async def test_one_where_nobody_listens_any_more_is_gone_at_once(stack: AsyncExitStack, tmp_path: Path) -> None:
    watched, proxy = await started(stack, tmp_path, FakeEngine("pebble-chat"))
    await watched.look()
    proxy.be(Trouble(refuse=True, reset=True))
    await watched.look(0.0, doubted=True)  # may still hear of the end of the old connection
    condition, reason = await watched.look(0.0)
    assert condition == "failed" and reason and "gone" in reason


@pytest.mark.parametrize("trouble", [Trouble(hold="both"), Trouble(hold="answers")], ids=str)
async def test_a_dead_peer_that_never_said_so(trouble: Trouble, stack: AsyncExitStack, tmp_path: Path) -> None:
    """Established connections that carry nothing any more, and no end of them."""
    watched, proxy = await started(stack, tmp_path, FakeEngine("pebble-chat"))
    await watched.look()
    proxy.be(trouble)
    assert (await watched.look())[0] == "ready"
    assert (await watched.look(SILENCE + 0.1))[0] == "failed"
    proxy.be(PASS)
    assert await watched.look() == ("ready", None)


async def test_one_that_accepts_and_never_reads(stack: AsyncExitStack, tmp_path: Path) -> None:
    watched, proxy = await started(stack, tmp_path, FakeEngine("pebble-chat"))
    proxy.be(Trouble(mute=True))
    condition, reason = await watched.look()
    assert condition == "waiting" and reason and "no byte" in reason
    proxy.be(PASS)
    assert await watched.look() == ("ready", None)


async def test_a_hung_engine_is_left_alone_until_it_makes_a_token(stack: AsyncExitStack, tmp_path: Path) -> None:
    """Its API server answers everything that needs no token."""
    engine = FakeEngine("pebble-chat")
    watched, _ = await started(stack, tmp_path, engine, hang=1.0)
    await watched.look(0.4)
    await watched.look(0.4)
    engine.always = DEAF
    assert await watched.look(0.1) == ("ready", None), "an idle engine may be silent"
    condition, reason = await watched.look(1.0)
    assert condition == "failed" and reason and "hangs" in reason
    assert (await watched.look())[0] == "failed"
    engine.always = Fault()
    assert await watched.look() == ("ready", None)


async def test_over_ipv6(stack: AsyncExitStack, tmp_path: Path) -> None:
    engine = await stack.enter_async_context(FakeEngine("pebble-chat").listen(0, "::1"))
    watched = Watched(tmp_path, f"[::1]:{engine.port}")
    stack.callback(watched.transport.close)
    assert await watched.look() == ("ready", None)
