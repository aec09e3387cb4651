"""The whole service while it changes: it stops, its engines restart, wake and sleep, its fleet file is edited."""

import asyncio
import contextlib
import http.client
import json
import shlex
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from service.engine import gateway_registry
from tests.end_to_end.clients import Clients
from tests.support.services import ROOT, Service, descendants_of, serving, wait_for
from tests.support.waiting import PATIENCE, accepts

pytestmark = pytest.mark.slow

ENGINE = [sys.executable, "-m", "tests.support.stand_in"]
CHAT = "/v1/chat/completions"
LONG = {
    "model": "pebble-chat",
    "messages": [{"role": "user", "content": "a b c"}],
    "max_tokens": 900,
    "ignore_eos": True,
}
FLEET: dict[str, Any] = {
    "models": [
        {"model": "pebble-chat", "min_replicas": 2},
        {"model": "pebble-base", "min_replicas": 0, "scale_down_after": 1},
    ],
    "extra_fields": ["ignore_eos"],
}


@pytest.fixture(scope="module", autouse=True)
def engines() -> Iterator[None]:
    """Every service here runs stand-ins for vLLM, which are found wherever they are started."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ROUNDHOUSE_ENGINE_PROGRAM", shlex.join(ENGINE))
        environment.setenv("PYTHONPATH", str(ROOT))
        yield


@contextlib.contextmanager
def elsewhere(folder: Path, *numbers: int) -> Iterator[list[str]]:
    """Engines that no service of ours has started, by their sockets."""
    sockets = [folder / f"far{number}.sock" for number in numbers]
    words = ["--model", "x", "--served-model-name", "pebble-chat", "--shutdown-timeout", "1", "--uds"]
    processes = [subprocess.Popen([*ENGINE, *words, one], cwd=ROOT, stdout=subprocess.DEVNULL) for one in sockets]
    try:
        wait_for(lambda: all(map(accepts, sockets)), PATIENCE, "the engines' sockets")
        yield [str(one) for one in sockets]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def written(path: Path, fleet: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fleet, indent=1))
    return path


def port_of(service: Service) -> int:
    return int(service.url.rsplit(":", 1)[1])


def is_ready(service: Service, model: str, replicas: int) -> bool:
    states = [one["state"] for one in service.models()[model]["replicas"]]
    return states == ["ready"] * replicas


def metric(service: Service, series: str) -> float:
    """The sum of the series whose text begins so."""
    lines = httpx.get(f"{service.url}/metrics", timeout=PATIENCE, verify=False).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(series))


async def holds(condition: Callable[[], bool], what: str) -> None:
    """As `wait_for`, beside clients that go on asking."""
    await asyncio.to_thread(wait_for, condition, PATIENCE, what)


# While it runs


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet file as Kubernetes mounts a ConfigMap: two symbolic links away."""
    folder = tmp_path_factory.mktemp("config")
    swapped(folder, "..1", FLEET)
    (folder / "fleet.yaml").symlink_to("..data/fleet.yaml")
    return folder / "fleet.yaml"


def swapped(folder: Path, version: str, fleet: dict[str, Any]) -> None:
    """Puts another version in place as Kubernetes does, in one step."""
    written(folder / version / "fleet.yaml", fleet)
    (folder / "..tmp").symlink_to(version)
    (folder / "..tmp").rename(folder / "..data")


@pytest.fixture(scope="module")
def living(fleet: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(fleet, tmp_path_factory.mktemp("living")) as service:
        wait_for(lambda: is_ready(service, "pebble-chat", 2), PATIENCE, "both replicas ready")
        yield service


async def test_engines_that_restart_one_after_the_other_fail_no_request(living: Service) -> None:
    from bentoml.serving import running_inside_container  # an import that takes a second

    if running_inside_container():
        pytest.skip("BentoML starts no process again in a container")

    def process_of(name: str) -> psutil.Process | None:
        for one in psutil.Process(living.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # or a zombie, which has no command line any more
                if name in one.cmdline():
                    return one
        return None

    async with Clients(port_of(living), "pebble-chat").asking() as clients:
        for number in range(2):
            before = process_of(f"engine-pebble-chat-{number}")
            assert before
            asked = clients.whole
            before.terminate()
            await holds(lambda: not before.is_running(), "the old process has ended")  # noqa: B023
            await holds(lambda: is_ready(living, "pebble-chat", 2), "both replicas ready")
            await holds(lambda: clients.whole > asked, "answers meanwhile")  # noqa: B023
    assert clients.failed == []


def test_a_model_on_demand_wakes_for_a_request_and_sleeps_again(living: Service) -> None:
    def state() -> str:
        return str(living.models()["pebble-base"]["state"])

    def starts() -> int:
        return living.log.read_text().count("pebble-base-0  ready after ")

    request = {"model": "pebble-base", "prompt": "one two", "stream": True}
    for _ in range(2):
        wait_for(lambda: state() == "scaled_to_zero", PATIENCE, "it sleeps")
        before = starts()
        headers = {"x-roundhouse-sse-heartbeat-interval": "0.1"}
        with httpx.stream(
            "POST", f"{living.url}/v1/completions", json=request, headers=headers, timeout=PATIENCE
        ) as answer:
            lines = [line for line in answer.iter_lines() if line]
        assert lines[0].startswith(":")
        assert lines[-1] == "data: [DONE]"
        assert not any('"error"' in line for line in lines)
        assert starts() == before + 1


async def test_a_changed_fleet_file_is_in_use_or_refused_and_no_request_fails(living: Service, fleet: Path) -> None:
    def status(model: str, **headers: str) -> int:
        request = {"model": model, "messages": LONG["messages"]}
        return httpx.post(living.url + CHAT, json=request, headers=headers, timeout=PATIENCE).status_code

    tenants = {"crawler": {"requests_per_minute": 1}}
    async with Clients(port_of(living), "pebble-chat").asking(8) as clients:
        assert await asyncio.to_thread(status, "nick") == 404
        swapped(fleet.parent, "..2", FLEET | {"aliases": {"nick": "pebble-chat"}, "tenants": tenants})
        await holds(lambda: status("nick") == 200, "the new alias")
        answers = [await asyncio.to_thread(status, "nick", **{"x-roundhouse-tenant": "crawler"}) for _ in range(2)]
        assert answers == [200, 429]

        swapped(fleet.parent, "..3", FLEET | {"aliases": {"nick": "pebble-chatt"}})
        await holds(lambda: metric(living, "roundhouse_config_last_reload_successful") == 0, "the refusal")
        assert await asyncio.to_thread(status, "nick") == 200
        (refusal,) = (row for row in reloads(living) if row["outcome"] != "in use")
        assert f"{fleet}:" in refusal["problems"][0]
        assert "pebble-chatt" in refusal["problems"][0]

        swapped(fleet.parent, "..4", FLEET)
        await holds(lambda: metric(living, "roundhouse_config_last_reload_successful") == 1, "the file is mended")
        await holds(lambda: status("nick") == 404, "the alias is gone")
    assert clients.failed == []
    assert clients.whole > 0


def reloads(service: Service) -> list[dict[str, Any]]:
    rows = (json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{"))
    return [row for row in rows if row["event"] == "reload"]


# Several gateway processes

SHARED: dict[str, Any] = {
    "models": [{"model": "pebble-chat", "max_in_flight": 2, "timeouts": {"queue": 0.2}}],
    "tenants": {"narrow": {"max_in_flight": 2}},
    "extra_fields": ["ignore_eos"],
}
LINES = 3  # connections to each process


class Process:
    """One gateway process, and connections that lead to it alone."""

    def __init__(self) -> None:
        self.lines: list[http.client.HTTPConnection] = []

    def ask(self, number: int, fields: dict[str, Any], **headers: str) -> http.client.HTTPResponse:
        """Sends a request on one of the connections; returns when its answer begins."""
        headers = {"content-type": "application/json", **headers}
        self.lines[number].request("POST", CHAT, json.dumps(fields), headers)
        return self.lines[number].getresponse()

    def replica_for(self, topic: str) -> str:
        """Which replica answers in a conversation about it."""
        messages = [{"role": "user", "content": topic}]
        with self.ask(0, {"model": "pebble-chat", "messages": messages}) as answer:
            answer.read()
            return str(answer.headers["x-roundhouse-replica"])

    def grants(self, **headers: str) -> list[int]:
        """The statuses of long requests, one on each connection, which are all left in the end."""
        with contextlib.ExitStack() as stack:
            for line in self.lines:
                stack.callback(line.close)
            fields = {**LONG, "stream": True}
            return [stack.enter_context(self.ask(number, fields, **headers)).status for number in range(LINES)]


@contextlib.contextmanager
def processes_of(services: list[Service]) -> Iterator[list[Process]]:
    """The gateway processes of all these services, connected."""
    found = {pid: (Process(), service) for service in services for pid in gateway_registry.registered(service.run_dir)}
    with contextlib.ExitStack() as stack:

        def are_connected() -> bool:
            for process, service in found.values():
                if len(process.lines) < LINES:
                    line = http.client.HTTPConnection("127.0.0.1", port_of(service), timeout=PATIENCE)
                    stack.callback(line.close)
                    line.request("GET", "/livez")
                    with line.getresponse() as answer:
                        answer.read()  # now somebody has taken the connection
                    whose = found[taken_by(line, list(found))][0]
                    whose.lines.append(line)
            return all(len(process.lines) >= LINES for process, _ in found.values())

        wait_for(are_connected, PATIENCE, "connections to every process")
        yield [process for process, _ in found.values()]


def taken_by(line: http.client.HTTPConnection, pids: list[int]) -> int:
    """The process at the other end of a connection."""
    port = line.sock.getsockname()[1]
    ends = ((pid, one.raddr) for pid in pids for one in psutil.Process(pid).net_connections("tcp"))
    return next(pid for pid, there in ends if there and there.port == port)


@contextlib.contextmanager
def two_workers(folder: Path, engines: list[str]) -> Iterator[list[Service]]:
    with serving(shared_fleet(folder, engines), folder / "run", workers=2) as service:
        wait_for(lambda: len(gateway_registry.registered(service.run_dir)) == 2, PATIENCE, "both workers")
        yield [service]


@contextlib.contextmanager
def two_pods(folder: Path, engines: list[str]) -> Iterator[list[Service]]:
    file = shared_fleet(folder, engines)
    with (
        serving(file, folder / "a", gateway_replicas=2) as one,
        serving(file, folder / "b", gateway_replicas=2) as other,
    ):
        yield [one, other]


def shared_fleet(folder: Path, engines: list[str]) -> Path:
    (model,) = SHARED["models"]
    return written(folder / "fleet.yaml", SHARED | {"models": [{**model, "addresses": engines}]})


@pytest.fixture(scope="module", params=[two_workers, two_pods])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Service]]:
    folder = tmp_path_factory.mktemp("shared")
    with elsewhere(folder, 0, 1) as engines, request.param(folder, engines) as services:
        yield services


@pytest.fixture
def pair(shared: list[Service]) -> Iterator[list[Process]]:
    """Two gateway processes, of one service or of two."""
    with processes_of(shared) as processes:
        yield processes


def test_the_same_conversation_goes_to_the_same_replica_everywhere(pair: list[Process]) -> None:
    one, other = pair
    chosen = [one.replica_for(f"topic {number}") for number in range(12)]
    assert [other.replica_for(f"topic {number}") for number in range(12)] == chosen
    assert len(set(chosen)) == 2


def takers(service: Service, pids: list[int]) -> Counter[int]:
    """Which of its processes took how many of 64 connections that came at once."""
    with contextlib.ExitStack() as stack:
        lines = [http.client.HTTPConnection("127.0.0.1", port_of(service), timeout=PATIENCE) for _ in range(64)]
        for line in lines:
            stack.callback(line.close)
            line.request("GET", "/livez")
        for line in lines:
            line.getresponse().read()
        return Counter(taken_by(line, pids) for line in lines)


def test_clients_are_spread_over_the_processes_of_a_service(shared: list[Service]) -> None:
    """Each takes its part; but while a busy machine keeps one off, the others take what is its to take."""

    def are_spread(service: Service, pids: list[int], taken: Counter[int]) -> bool:
        taken += takers(service, pids)
        return min(taken[pid] for pid in pids) >= 0.9 * taken.total() / len(pids)

    for service in shared:
        pids, taken = list(gateway_registry.registered(service.run_dir)), Counter[int]()
        wait_for(partial(are_spread, service, pids, taken), PATIENCE, f"connections for each of {pids}")


def test_each_process_grants_its_part_of_a_tenant_s_budget(pair: list[Process]) -> None:
    granted = [process.grants(**{"x-roundhouse-tenant": "narrow"}) for process in pair]
    assert granted == [[200, 429, 429]] * 2


def test_each_process_grants_its_part_of_the_places(pair: list[Process]) -> None:
    """Two places at each of two replicas: one at each of them for each process."""
    assert [process.grants() for process in pair] == [[200, 200, 503]] * 2


def test_the_metrics_of_a_machine_s_processes_add_up(shared: list[Service], pair: list[Process]) -> None:
    series = 'roundhouse_requests_total{endpoint="/v1/chat/completions"'

    def answered() -> list[float]:
        return [metric(service, series) for service in shared]

    before = answered()
    for process in pair:
        process.replica_for("anything")
    each = len(pair) / len(shared)
    wait_for(lambda: answered() == [count + each for count in before], PATIENCE, "every answer is counted")


# Its end


@pytest.mark.parametrize("workers", [1, 2])
async def test_what_was_accepted_is_answered_and_then_connections_are_refused(workers: int, tmp_path: Path) -> None:
    file = written(tmp_path / "fleet.yaml", FLEET)
    with serving(file, tmp_path / "run", workers=workers) as service:
        wait_for(lambda: is_ready(service, "pebble-chat", 2), PATIENCE, "both replicas ready")
        async with Clients(port_of(service), "pebble-chat").asking(20, lookers=10) as clients:
            await holds(lambda: clients.whole > 40, "answers")
            clients.leaving = True
            before = clients.whole
            service.process.send_signal(signal.SIGTERM)
        assert clients.failed == []
        assert clients.refused == 30
        assert clients.whole > before
        assert service.process.wait(timeout=PATIENCE) == 0
    wait_for(lambda: not descendants_of(service.run_dir), PATIENCE, "every process gone")


@pytest.mark.parametrize(("limit", "impatient"), [(2, False), (600, True)])
def test_what_takes_too_long_is_broken_off(limit: float, impatient: bool, tmp_path: Path) -> None:
    """At the end of the drain's time, or as soon as somebody asks again: one error event, and no [DONE]."""
    with elsewhere(tmp_path, 0) as engines:
        file = shared_fleet(tmp_path, engines)
        with serving(file, tmp_path / "run", drain_timeout=limit) as service:
            lines: list[str] = []

            def listen() -> None:
                with httpx.stream(
                    "POST", service.url + CHAT, json={**LONG, "stream": True}, timeout=PATIENCE
                ) as answer:
                    lines.extend(line for line in answer.iter_lines() if line)

            def is_over() -> bool:
                # Once the gateway has no request any more all may end at any moment, and a signal end the interpreter.
                if impatient and gateway_registry.registered(service.run_dir):
                    service.process.send_signal(signal.SIGINT)
                return not listener.is_alive()

            listener = threading.Thread(target=listen)
            listener.start()
            wait_for(lambda: metric(service, "roundhouse_requests_in_flight") == 1, PATIENCE, "the request runs")
            service.process.send_signal(signal.SIGINT)
            wait_for(is_over, PATIENCE, "the stream's end")
            assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "shutting_down"
            assert sum('"error"' in line for line in lines) == 1
            assert service.process.wait(timeout=PATIENCE) == 0
    wait_for(lambda: not descendants_of(service.run_dir), PATIENCE, "every process gone")
