"""A real Prometheus with the configuration in deploy/ scrapes a gateway under load: every query in deploy/ has data."""

import asyncio
import json
import math
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.processes import free_port
from deploy.grafana.draw import Span, asking, draw
from deploy.grafana.panels import DASHBOARDS
from service.auth.keys import Key, Keys, digest
from service.engine import state
from service.engine.state import EngineState
from tests.conftest import Start
from tests.deploy.queries import NAMESPACE, PROMETHEUS, QUERIES, WINDOW, Query, rules, scaled
from tests.fake_engine.wire import Fault
from tests.support.exchanges import CHAT, MESSAGE
from tests.support.gateways import RunningGateway
from tests.support.waiting import PATIENCE, until

MISSING = "prometheus and promtool are not installed; on Debian: apt-get install prometheus"
WHERE = shutil.which("prometheus")
pytestmark = pytest.mark.skipif(not (WHERE and shutil.which("promtool")), reason=MISSING)

FLEET = """
shares: {ram: {memory: 3GiB}}
models:
  - {model: pebble-chat, min_replicas: 2, policy: least_load, gpus: 1, gpu_hour_price: 3600}
  - {model: pebble-code, share: ram, memory: 2GiB}
aliases: {gpt-4o-mini: pebble-chat}
tenants: {acme: {}, crawler: {requests_per_minute: 1, requests_per_day: 1000000}}
"""
SCRAPER = "rh_for-metrics-0123456789"
ACME, CRAWLER = "rh_of-acme-0123456789", "rh_of-crawler-0123456789"
KEYS: Keys = {
    digest(SCRAPER.encode()): Key("scraper", endpoints=frozenset({"metrics"})),
    digest(ACME.encode()): Key("acme", "acme"),
    digest(CRAWLER.encode()): Key("crawler", "crawler"),
}
STATIC = 'static_configs: [{targets: ["127.0.0.1:3000"]}]'  # in prometheus.yml, the gateway
# Between scrapes, which must answer within it; and what stands for every window, in which there must be two of them.
OFTEN, SPAN = "1s", "30s"
# What has no data in this test, and why.
UNSEEN = {
    "alerts.yaml: RoundhouseTaskFailing": "only a defect of the gateway lets one of its tasks fail",
}


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_configuration_are_valid(tmp_path: Path) -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", *(str(one) for one in (PROMETHEUS / "rules").iterdir()))
    promtool("check", "config", str(configured(tmp_path, 3000)))


@pytest.mark.slow
def test_alerts_fire_when_they_should_and_not_otherwise() -> None:
    tested = (PROMETHEUS / "tests/alerts.yaml").read_text(encoding="utf-8")
    assert not [rule["alert"] for _, rule in rules() if "alert" in rule and f"- name: {rule['alert']}\n" not in tested]
    promtool("test", "rules", "tests/alerts.yaml")


@pytest.mark.slow
async def test_every_query_has_data(start: Start, tmp_path: Path) -> None:
    gateway = await start(FLEET, keys=KEYS, audit_log=tmp_path / "audit.log")
    gateway.expected_unseen = None
    load = asyncio.create_task(use(gateway))
    try:
        async with prometheus(tmp_path, gateway.port) as http:
            empty = [query for query in QUERIES if query.place not in UNSEEN]

            async def all_seen() -> bool:
                assert not load.done(), load.exception()
                empty[:] = [query for query in empty if not await has_data(http, query)]
                return not empty

            try:
                await until(all_seen)
            except AssertionError:
                assert not [f"{query.place}: {query.asked(SPAN)}" for query in empty], "no data"
            now = time.time()
            span = Span(now - 60, now)
            ask = asking(str(http.base_url), span)
            for board in DASHBOARDS:
                assert "no data" not in await asyncio.to_thread(draw, board, ask, span, SPAN), board.name
            for one in scaled():
                # Whatever moment it is asked in; none while a pause of the machine has kept two scrapes apart.
                await until(partial(is_one, http, one), f"one series for {one.place}, as an autoscaler needs it")
            stale = [query.place for query in QUERIES if query.place in UNSEEN and await has_data(http, query)]
            assert not stale, "marked as without data, and has some"
    finally:
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)


async def use(gateway: RunningGateway) -> None:
    """Load with faults, for ever: streamed and not, an alias, a cache hit, 429, a client that leaves, a dead stream."""
    for engine in gateway.engines:
        engine.cached, engine.gap = 0.5, 0.01
    acme, crawler = ({"authorization": f"Bearer {key}"} for key in (ACME, CRAWLER))
    restarts = 0
    while True:
        # Of two engines that break off, one is asked second. Then both are whole, and one dies in a stream.
        for fault in (Fault(cut=0), Fault(events=2)):
            for engine in gateway.engines:
                engine.script(fault)
            await gateway.http.post(CHAT.path, json=CHAT.body(stream=True, model="gpt-4o-mini"), headers=acme)
            for engine in gateway.engines:
                engine.forgive()
        for case, stream in ((CHAT, False), (CHAT, True), (MESSAGE, True)):
            await gateway.http.post(case.path, json=case.body(stream=stream), headers=acme)
        await gateway.http.post(CHAT.path, json=CHAT.body(), headers=crawler)
        line = await gateway.connect()
        body = json.dumps(CHAT.body(stream=True)).encode()
        await line.post(CHAT.path, body, f"authorization: Bearer {ACME}")
        await line.read_until(b"content")
        line.leave()
        restarts += 1
        restarted = EngineState("pebble-chat-1", "pebble-chat", 1, "ready", restarts=restarts)
        restarted.start_phases["loading weights"] = 2.5
        gateway.show(1, "failed")
        await gateway.http.post(CHAT.path, json=CHAT.body(), headers=acme)
        state.write(gateway.run_dir, restarted)
        gateway.gateway.upstreams.refresh()


def configured(folder: Path, port: int) -> Path:
    """The configuration in deploy/ for a gateway at this port: scrapes often, and has short windows in its rules."""
    (folder / "rules").mkdir()
    for file in (PROMETHEUS / "rules").iterdir():
        (folder / "rules" / file.name).write_text(WINDOW.sub(f"[{SPAN}]", file.read_text(encoding="utf-8")))
    (folder / "key").write_text(SCRAPER)
    text = (PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8")
    for old, new in (
        (STATIC, STATIC.replace("}]", f", labels: {{namespace: {NAMESPACE}}} }}]")),
        ("127.0.0.1:3000", f"127.0.0.1:{port}"),
        ("/etc/prometheus/roundhouse-key", "key"),
        ("15s", OFTEN),
    ):
        assert old in text
        text = text.replace(old, new)
    file = folder / "prometheus.yml"
    file.write_text(text)
    return file


@asynccontextmanager
async def prometheus(folder: Path, port: int) -> AsyncIterator[httpx.AsyncClient]:
    """A Prometheus that watches the gateway at this port, as a client of its API."""
    own = free_port()
    data, listen = f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{own}"
    assert WHERE
    with (folder / "prometheus.log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            WHERE, f"--config.file={configured(folder, port)}", data, listen, "--log.level=warn", stdout=log, stderr=log
        )
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{own}", timeout=PATIENCE, trust_env=False, verify=False
        ) as http:

            async def ready() -> bool:
                assert process.returncode is None, (folder / "prometheus.log").read_text()
                try:
                    return (await http.get("/-/ready")).status_code == 200
                except httpx.TransportError:
                    return False

            await until(ready, "the start of Prometheus")
            yield http
    finally:
        process.kill()
        await process.wait()


async def has_data(http: httpx.AsyncClient, query: Query) -> bool:
    """Whether Prometheus returns a value for the query."""
    return any(not math.isnan(float(series["value"][1])) for series in await result(http, query))


async def is_one(http: httpx.AsyncClient, query: Query) -> bool:
    """Whether Prometheus returns one series for the query; never several."""
    found = len(await result(http, query))
    assert found < 2, f"{query.place}: {found} series"
    return found == 1


async def result(http: httpx.AsyncClient, query: Query) -> list[Any]:
    """The series that Prometheus returns for the query, which it must accept."""
    answer = (await http.post("/api/v1/query", data={"query": query.asked(SPAN)})).json()
    assert answer["status"] == "success", f"{query.place}: {answer.get('error')}"
    assert not answer.get("warnings"), f"{query.place}: {answer['warnings']}"
    found: list[Any] = answer["data"]["result"]
    return found
