"""Engines elsewhere, each behind a proxy that misbehaves when told, and a gateway that watches them closely."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from service.engine import watchdog
from service.transport.pool import Deadlines
from service.upstreams import breaker, remote, upstreams
from tests.fake_engine import FakeEngine
from tests.support import gateways
from tests.support.fault_proxy import PASS, FaultProxy, Trouble
from tests.support.gateways import RunningGateway
from tests.support.waiting import until

SOON = Deadlines(connect=5.0, first_byte=5.0, idle=5.0, total=5.0)
CUT = Trouble(reset=True)


@dataclass
class Far:
    """A gateway of `pebble-chat` at engines elsewhere, `proxies[n]` before `engines[n]`."""

    gateway: RunningGateway
    engines: list[FakeEngine]
    proxies: list[FaultProxy]

    @property
    def ready(self) -> list[bool]:
        """Of each replica, in the order of the engines, whether the gateway would ask it now."""
        by_address = {one.address: one.usable(self.gateway.clock()) for one in self.gateway.replicas}
        return [by_address[proxy.address] for proxy in self.proxies]

    async def until_ready(self, *wanted: bool) -> None:
        await until(lambda: self.ready == list(wanted), f"replicas as {wanted}")

    def cut(self, number: int) -> None:
        """Ends every connection to an engine."""
        self.proxies[number].be(CUT)
        self.proxies[number].be(PASS)


class Begin(Protocol):
    """Starts engines on TCP ports with their proxies, and a gateway for them; `more` are keys of the fleet's entry.

    `name` stands for their address, if the gateway is to ask for it.
    """

    def __call__(self, replicas: int = 1, more: str = "", name: str = "127.0.0.1", **limits: Any) -> Awaitable[Far]: ...


@pytest.fixture
async def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Begin]:
    for name, seconds in (
        ("POLL", 0.02),
        ("CHECK_INTERVAL", 0.05),
        ("MIN_RESOLVE_INTERVAL", 0.05),
        ("RESOLVE_INTERVAL", 0.2),
    ):
        monkeypatch.setattr(upstreams, name, seconds)
    for name in ("HEALTH_CHECK", "FIRST_TOKEN"):
        monkeypatch.setattr(remote, name, SOON)
    monkeypatch.setattr(watchdog, "SCRAPE", SOON)
    monkeypatch.setattr(breaker, "BASE_EJECTION", 0.05)
    async with AsyncExitStack() as stack:

        async def begin(replicas: int = 1, more: str = "", name: str = "127.0.0.1", **limits: Any) -> Far:
            engines = [FakeEngine("pebble-chat") for _ in range(replicas)]
            for engine in engines:
                await stack.enter_async_context(engine.listen(0))
            proxies = [
                await stack.enter_async_context(FaultProxy(f"127.0.0.1:{engine.port}").listen()) for engine in engines
            ]
            at = ", ".join(f"'{proxy.address.replace('127.0.0.1', name)}'" for proxy in proxies)
            text = f"models: [{{model: pebble-chat, addresses: [{at}]{more}}}]"
            gateway = await stack.enter_async_context(gateways.running(tmp_path, text, **limits))
            gateway.engines += engines
            one = Far(gateway, engines, proxies)
            await until(lambda: len(gateway.replicas) == replicas, "the replicas")
            await one.until_ready(*[True] * replicas)
            return one

        yield begin
